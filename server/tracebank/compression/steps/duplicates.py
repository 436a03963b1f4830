"""What was said before: runs of lines as in stack traces, and paragraphs that differ in nothing but white space."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tracebank.compression.draft import Draft, Goal
from tracebank.compression.segments import LOGS, Kind, Segment

_FEWEST_LINES = 4
_FEWEST_CHARS = 120
_FEWEST_WORDS = 12
_SHOWN_WORDS = 6
_PARAGRAPHS = re.compile(r"(\n[ \t]*\n)")


def said_once(draft: Draft, goal: Goal) -> tuple[Segment, ...]:
    """Replace lines and paragraphs that stand earlier in the text by a note that says where to look."""
    memory = _Memory()
    return tuple(_changed(segment, memory) for segment in draft.segments)


def _changed(segment: Segment, memory: _Memory) -> Segment:
    if segment.kind is Kind.KEPT or segment.protected or not (segment.kind is Kind.PROSE or segment.language in LOGS):
        return segment
    body = "".join(memory.paragraphs(segment.body))
    return segment.with_body("\n".join(memory.runs(body.split("\n"))))


class _Memory:
    """What has been said so far, in all segments."""

    def __init__(self) -> None:
        self._paragraphs: set[tuple[str, ...]] = set()
        self._lines: list[str] = []
        self._first: dict[tuple[str, ...], int] = {}

    def paragraphs(self, text: str) -> Iterator[str]:
        """Yield the paragraphs and what lies between them, a repeated one as a note."""
        for piece in _PARAGRAPHS.split(text):
            words = tuple(piece.split())
            if len(words) >= _FEWEST_WORDS and words in self._paragraphs:
                yield f"[as above: {' '.join(words[:_SHOWN_WORDS])} …]"
            else:
                self._paragraphs.add(words)
                yield piece

    def runs(self, lines: list[str]) -> Iterator[str]:
        """Yield the lines, a run that stood before as a note."""
        at = 0
        while at < len(lines):
            earlier = self._first.get(tuple(lines[at : at + _FEWEST_LINES]))
            length, chars = (0, 0) if earlier is None else self._length(lines, at, earlier)
            if length >= _FEWEST_LINES and chars >= _FEWEST_CHARS:
                yield f"[{length} lines as above: {' '.join(lines[at].split()[:_SHOWN_WORDS])} …]"
                at += length
                continue
            # So many lines of so few characters are empty ones: looked at again from each, they would take the square of their number.
            for _ in range(length if length >= _FEWEST_CHARS else 1):
                self._remember(lines[at])
                yield lines[at]
                at += 1

    def _length(self, lines: list[str], at: int, earlier: int) -> tuple[int, int]:
        """Return how many lines stood before in this order, and their characters."""
        length = chars = 0
        while at + length < len(lines) and earlier + length < len(self._lines) and lines[at + length] == self._lines[earlier + length]:
            chars += len(lines[at + length])
            length += 1
        return length, chars

    def _remember(self, line: str) -> None:
        self._lines.append(line)
        key = tuple(self._lines[-_FEWEST_LINES:])
        if len(key) == _FEWEST_LINES:
            self._first.setdefault(key, len(self._lines) - _FEWEST_LINES)
