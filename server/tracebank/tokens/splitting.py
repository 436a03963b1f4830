"""Cutting a text into the pieces that are split into tokens one by one, as an encoding's pattern says.

The pattern speaks of classes of Unicode. The standard library's `re` has none, but is three times as fast as `regex`, and what is
ASCII needs none: there each class is a few ranges. So a text is cut at places that no piece reaches over, and only what
is around other characters is left to `regex`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, Protocol

# So much is cut in one go, where there are borders, which holds the interpreter for some milliseconds.
BLOCK_CHARS = 32_768
# The members of a class of Unicode that are ASCII, for use within brackets.
_ASCII = {"L": "A-Za-z", "Lu": "A-Z", "Lt": "", "Lm": "", "Lo": "", "Ll": "a-z", "M": "", "N": "0-9"}
_CLASS = re.compile(r"\\p\{(\w+)\}")
_BRACKETS_OR_CLASS = re.compile(r"\[[^\]]*\]|\\p\{\w+\}")
# No piece reaches over the beginning of a line, where that is neither white nor a slash, nor from a word to a blank before another.
# That is so of patterns that take white space up to a line end as one piece, and no blank behind a letter: `vocabulary_making` looks.
_BORDER = re.compile(r"(?<=\n)(?=[^\s/])|(?<=[A-Za-z])(?= [A-Za-z])")
_UP_TO_LAST_BORDER = re.compile(rf".*(?:{_BORDER.pattern})", re.DOTALL)
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_SURROGATE = re.compile("[\ud800-\udfff]")


class _Pattern(Protocol):
    def findall(self, text: str) -> list[str]: ...

    def finditer(self, text: str) -> Iterator[Any]: ...


class Splitter:
    """The pieces of a text by one pattern."""

    def __init__(self, pattern: str) -> None:
        """Take a pattern of tiktoken's: without groups that are counted, and with pieces that end at the borders."""
        self._pattern = pattern
        self._ascii = re.compile(_BRACKETS_OR_CLASS.sub(_in_ascii, pattern), re.ASCII)

    def pieces(self, text: str) -> Iterable[list[str]]:
        """Return the pieces, in lists of those that were cut in one go. Surrogates that stand alone are U+FFFD, as tiktoken has it."""
        if text.isascii():
            return (self._ascii.findall(text),) if len(text) <= BLOCK_CHARS else self._pieces_of(text)
        if _SURROGATE.search(text):
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return self._pieces_of(text)

    def _pieces_of(self, text: str) -> Iterator[list[str]]:
        for stretch in _stretches(text):
            pattern = self._ascii if stretch.isascii() else self._unicode
            if len(stretch) <= 2 * BLOCK_CHARS:
                yield pattern.findall(stretch)
            else:
                # Where there are no borders it may be of any length: one by one lets others have their turn.
                yield [found[0] for found in pattern.finditer(stretch)]

    @cached_property
    def _unicode(self) -> _Pattern:
        import regex  # 15 ms that the start of an engine need not wait for

        # What is white to Python's engines is not what is white to Unicode: they count U+001C to U+001F in.
        pattern: _Pattern = regex.compile(self._pattern.replace(r"\s", r"\p{White_Space}").replace(r"\S", r"\P{White_Space}"))
        return pattern


def borders(text: str) -> list[int]:
    """Return where a text may be cut."""
    return [found.start() for found in _BORDER.finditer(text)]


def _in_ascii(part: re.Match[str]) -> str:
    ranges = _CLASS.sub(lambda found: _ASCII[found[1]], part[0])
    return ranges if part[0].startswith("[") else f"[{ranges}]"


def _stretches(text: str) -> Iterator[str]:
    """Yield the text in stretches of bounded length, where it has borders: with as little as can be around what is not ASCII."""
    start = 0
    while not text.isascii() and (other := _NOT_ASCII.search(text, start)) is not None:
        before = _UP_TO_LAST_BORDER.match(text, start, other.start())
        if before is not None:
            yield from _blocks(text, start, before.end())
            start = before.end()
        after = _BORDER.search(text, other.end())
        end = len(text) if after is None else after.start()
        yield text[start:end]
        start = end
    yield from _blocks(text, start, len(text))


def _blocks(text: str, start: int, end: int) -> Iterator[str]:
    while end - start > BLOCK_CHARS and (border := _BORDER.search(text, start + BLOCK_CHARS, end)) is not None:
        yield text[start : border.start()]
        start = border.start()
    yield text[start:end]
