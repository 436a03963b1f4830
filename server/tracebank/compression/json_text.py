"""JSON as text: found in prose and minified without being rebuilt, so numbers, order and doubled keys stay."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

# An unclosed string ends with its line, so every character is looked at once.
_MARKS = re.compile(r'"(?:[^"\\\n]|\\.)*+"?|[\[\]{}]')
_STRING_OR_GAP = re.compile(r'("(?:[^"\\]|\\.)*+")|[ \t\n\r]+')
_PAIRS = {"]": "[", "}": "{"}


def minify(text: str) -> str:
    """Return `text` without the white space around its values, or as it is if it is not a JSON array or object."""
    if not is_container(text):
        return text
    return _STRING_OR_GAP.sub(lambda match: match[1] or "", text)


def is_container(text: str) -> bool:
    """Tell whether `text` is one JSON array or object. One too deep to be parsed is none."""
    if not text.lstrip(" \t\n\r").startswith(("[", "{")):
        return False
    try:
        # Numbers stay text: int() refuses long ones, float() would lose digits.
        json.loads(text, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return False
    return True


def json_spans(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the outermost arrays and objects that begin a line and end a line, between `start` and `end`."""
    for first, last in _bracketed(text, start, end):
        if is_container(text[first:last]):
            yield first, last


def _bracketed(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Match brackets in one pass. A pair that contradicts itself starts the search anew."""
    found: list[tuple[int, int]] = []
    opened: list[tuple[str, int]] = []
    for mark in _MARKS.finditer(text, start, end):
        sign = mark[0]
        if sign in "[{":
            opened.append((sign, mark.start()))
        elif sign in _PAIRS:
            bracket, first = opened.pop() if opened else ("", 0)
            if bracket != _PAIRS[sign]:
                opened.clear()
            elif _begins_line(text, first, start) and _ends_line(text, mark.end(), end):
                while found and found[-1][0] >= first:
                    found.pop()
                found.append((first, mark.end()))
    return found


def _begins_line(text: str, at: int, start: int) -> bool:
    while at > start and text[at - 1] in " \t":
        at -= 1
    return at == start or text[at - 1] == "\n"


def _ends_line(text: str, at: int, end: int) -> bool:
    while at < end and text[at] in " \t\r":
        at += 1
    return at == end or text[at] == "\n"
