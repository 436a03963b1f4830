"""Cutting prose into sentences and code into blocks, none of them longer than is good to keep or drop as one."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tracebank.sentences import sentences

# Nobody misses half of a longer sentence more than the tokens it costs.
LONGEST_CHARS = 600
PIECE_CHARS = 400
_SOFT_BORDER = re.compile(r"[;,:)\]}][ \t]|\s")
# A line at the margin that closes nothing opens a block; a blank line before it makes sure.
_BLOCK_BORDER = re.compile(r"\n[ \t]*+\n(?=[^\s)\]}])")
_ANY_BLOCK_BORDER = re.compile(r"\n(?=[^\s)\]}#@/*])")


def code_parts(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the blocks of code between `start` and `end`, larger ones cut where a line begins at the margin."""
    at = start
    for border in (*_BLOCK_BORDER.finditer(text, start, end), None):
        stop = border.end() if border else end
        if stop - at > 4 * LONGEST_CHARS:
            yield from _lines_together(text, at, stop)
        elif stop > at:
            yield at, stop
        at = stop


def _lines_together(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield stretches of whole blocks, each at most as long as it has to be."""
    at = start
    last = start
    for border in (*_ANY_BLOCK_BORDER.finditer(text, start, end), None):
        stop = border.end() if border else end
        if stop - at > 4 * LONGEST_CHARS and last > at:
            yield at, last
            at = last
        last = stop
    if at < end:
        yield at, end


def sentence_pieces(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the sentences between `start` and `end`, with the white space behind them; long ones in pieces."""
    for first, last in sentences(text, start, end):
        yield from _pieces(text, first, last)


def _pieces(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while end - start > LONGEST_CHARS:
        borders = [match.end() for match in _SOFT_BORDER.finditer(text, start + PIECE_CHARS // 2, start + PIECE_CHARS)]
        stop = borders[-1] if borders else start + PIECE_CHARS
        yield start, stop
        start = stop
    yield start, end
