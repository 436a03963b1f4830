"""Cutting what was found into the pieces that are shown: whole lines, and whole sentences of long lines.

Chunks end anywhere; what a reader can use is a turn of a dialogue, a line of a log, a sentence. A piece belongs to the
chunks that hold at least half of it, and is worth as much as the best of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from tracebank.sentences import sentences

# A longer line is a paragraph, and is cut into sentences; a longer sentence is cut where the chunk ends.
LONG_CHARS = 600
# So much is shown of a run without a blank that is as long as that (base64, hexadecimal): it would fill a page, and its beginning says
# what it is.
GLIMPSE_CHARS = 200
_RUN = re.compile(rf"\S{{{LONG_CHARS},}}")
_LINE_END = re.compile(r"\n+")


def pieces(text: str, chunks: Iterable[tuple[float, int, int]]) -> list[tuple[float, int, int]]:
    """Return the (score, start, end) of the pieces of these scored chunks, the best first, then in reading order."""
    best: dict[tuple[int, int], float] = {}
    for score, start, end in chunks:
        for piece in pieces_of(text, start, end):
            best[piece] = max(score, best.get(piece, score))
    return sorted(((score, *piece) for piece, score in best.items()), key=lambda p: (-p[0], p[1], p[2]))


def pieces_of(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Return the spans of the lines and sentences of which at least half lies between start and end, in reading order."""
    low, high = max(0, start - LONG_CHARS), min(len(text), end + LONG_CHARS)
    found: list[tuple[int, int]] = []
    for line in _lines(text, low, high):
        for first, last in _sentences(text, *line) if line[1] - line[0] > LONG_CHARS else [line]:
            inside = max(first, start), min(last, end)
            if last - first > LONG_CHARS:
                first, last = inside
            if last > first and 2 * (inside[1] - inside[0]) >= last - first:
                found += _readable(text, first, last)
    return found


def _readable(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield a piece, in parts without most of its long runs."""
    for run in _RUN.finditer(text, start, end):
        yield start, run.start() + GLIMPSE_CHARS
        start = run.end()
    if text[start:end].strip():
        yield start, end


def _lines(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    for found in _LINE_END.finditer(text, start, end):
        if found.start() > start:
            yield start, found.start()
        start = found.end()
    if end > start:
        yield start, end


def _sentences(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    for first, last in sentences(text, start, end):
        yield first, first + len(text[first:last].rstrip())
