"""Split a text into prose, blocks (fenced code, JSON) and what must stay as it is.

The segments joined are always the text again.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from tracebank.compression.json_text import json_spans
from tracebank.compression.languages import certainly_python, guess
from tracebank.errors import InputError

Span = tuple[int, int]

# Languages of a fence that are no code: lines of their own.
LOGS = frozenset(("log", "logs", "text", "txt", "plain", "plaintext", "console", "output", "terminal"))

_SHOWN_CHARS = 60
# The opening may follow a list mark ("- ```python"); both may be indented or quoted ("> ```").
_FENCE = re.compile(r"^[ \t>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)?(?P<ticks>`{3,}|~{3,})(?P<info>[^\n]*)$", re.MULTILINE)
_LANGUAGE = re.compile(r"[\w+#.-]+")
_HUNK = re.compile(r"^@@ -\d+", re.MULTILINE)
_KEEP_MARK = re.compile(r"<(/?)keep>")


class Kind(Enum):
    """How a segment may be changed."""

    PROSE = "prose"
    BLOCK = "block"  # as code or JSON only
    KEPT = "kept"  # not at all


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A part of the text; steps change the body only. `language` is as written after the fence, in small letters."""

    kind: Kind
    body: str
    opening: str = ""
    closing: str = ""
    language: str = ""
    protected: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Return the segment as it stands in the text."""
        return f"{self.opening}{self.body}{self.closing}"

    @property
    def is_diff(self) -> bool:
        """Tell whether there is a diff in it, where a blank at the beginning of a line says that it stays, and is all of an empty one."""
        return _HUNK.search(self.body) is not None

    def with_body(self, body: str) -> Segment:
        """Return this segment with another body."""
        return replace(self, body=body)


def marked_regions(text: str) -> Iterator[Span]:
    """Yield the regions between `<keep>` and `</keep>`, the marks with them. What is never closed is no region."""
    opened: int | None = None
    for mark in _KEEP_MARK.finditer(text):
        if not mark[1]:
            opened = mark.start() if opened is None else opened
        elif opened is not None:
            yield opened, mark.end()
            opened = None


def merged_spans(text: str, keep: Sequence[str], regions: Iterable[Span] = ()) -> list[Span]:
    """Return where each of `keep` first occurs, and the regions, in order, those that overlap as one. Raises: InputError."""
    return merged([*(_first(text, piece) for piece in set(keep)), *regions])


def merged(spans: Iterable[Span]) -> list[Span]:
    """Return the spans in order, those that overlap as one."""
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _first(text: str, piece: str) -> Span:
    start = text.find(piece)
    if not piece or start < 0:
        shown = piece if len(piece) <= _SHOWN_CHARS else piece[: _SHOWN_CHARS - 1] + "…"
        problem = f"{shown!r} is not in the text: give it exactly as written there" if piece else "must not be empty"
        raise InputError("keep", problem)
    return start, start + len(piece)


def located(text: str, pieces: Sequence[str]) -> list[Span] | None:
    """Return where `pieces` occur in `text`, in this order and not overlapping, or None if one is missing."""
    spans: list[Span] = []
    at = 0
    for piece in pieces:
        at = text.find(piece, at)
        if at < 0:
            return None
        spans.append((at, at + len(piece)))
        at += len(piece)
    return spans


def split(text: str, spans: Sequence[Span] = ()) -> tuple[Segment, ...]:
    """Split `text`. A line of prose that holds one of `spans` is kept; a block that holds one carries it with it."""
    blocks = list(fences(text))
    if not blocks and certainly_python(text):
        return (as_code(text, spans),)
    parts: list[Segment] = []
    at = 0
    for fence in blocks:
        parts.extend(_prose(text, (at, fence.start), spans))
        parts.append(_block(text, fence, spans))
        at = fence.end
    parts.extend(_prose(text, (at, len(text)), spans))
    return tuple(parts)


def as_code(text: str, spans: Sequence[Span] = ()) -> Segment:
    """Return the whole text as one block, its language guessed."""
    whole = Region(start=0, body_start=0, body_end=len(text), end=len(text), language=guess(text))
    return _block(text, whole, spans)


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A block within its fence: characters `start` to `end`, the code between `body_start` and `body_end`."""

    start: int
    body_start: int
    body_end: int
    end: int
    language: str


def fences(text: str) -> Iterator[Region]:
    """Yield the fenced blocks. One that is never closed goes to the end of the text, as in CommonMark."""
    opened: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = None if "`" in fence["info"] else fence
        elif _closes(fence, opened):
            yield _region(opened, fence.start(), fence.end())
            opened = None
    if opened is not None:
        yield _region(opened, len(text), len(text))


def _closes(fence: re.Match[str], opened: re.Match[str]) -> bool:
    return fence["ticks"].startswith(opened["ticks"]) and not fence["info"].strip()


def _region(opened: re.Match[str], body_end: int, end: int) -> Region:
    language = _LANGUAGE.search(opened["info"])
    return Region(
        start=opened.start(),
        body_start=min(opened.end() + 1, body_end),
        body_end=body_end,
        end=end,
        language=language[0].lower() if language else "",
    )


def _block(text: str, region: Region, spans: Sequence[Span]) -> Segment:
    touched = touching(spans, region.start, region.end)
    inside = all(region.body_start <= start and end <= region.body_end for start, end in touched)
    return Segment(
        kind=Kind.BLOCK if inside else Kind.KEPT,
        opening=text[region.start : region.body_start],
        body=text[region.body_start : region.body_end],
        closing=text[region.body_end : region.end],
        language=region.language,
        protected=tuple(text[start:end] for start, end in touched) if inside else (),
    )


def _prose(text: str, span: Span, spans: Sequence[Span]) -> Iterator[Segment]:
    """Yield the prose in `span`, the JSON in it as blocks of their own (not around or in a diff), the lines with a kept piece as KEPT."""
    at, end = span
    for json_start, json_end in () if _HUNK.search(text, at, end) else json_spans(text, at, end):
        yield from _lines(text, (at, json_start), spans)
        json = Region(start=json_start, body_start=json_start, body_end=json_end, end=json_end, language="json")
        yield _block(text, json, spans)
        at = json_end
    yield from _lines(text, (at, end), spans)


def _lines(text: str, span: Span, spans: Sequence[Span]) -> Iterator[Segment]:
    at, end = span
    for kept_start, kept_end in touching(spans, at, end):
        start = max(at, text.rfind("\n", 0, max(kept_start, at)) + 1)
        line_end = text.find("\n", max(kept_end - 1, start), end)
        stop = end if line_end < 0 else line_end + 1
        if start > at:
            yield Segment(kind=Kind.PROSE, body=text[at:start])
        if stop > start:
            yield Segment(kind=Kind.KEPT, body=text[start:stop])
        at = max(at, stop)
    if end > at:
        yield Segment(kind=Kind.PROSE, body=text[at:end])


def touching(spans: Sequence[Span], start: int, end: int) -> Sequence[Span]:
    """Return those of the merged `spans` that share a character with `start` to `end`."""
    first = bisect_right(spans, start, key=lambda span: span[1])
    return spans[first : bisect_left(spans, end, key=lambda span: span[0])]
