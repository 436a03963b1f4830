"""JSON as text: found in prose and minified without being rebuilt, so numbers, order and doubled keys stay."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

# An unclosed string ends with its line, so every character is looked at once.
_MARKS = re.compile(r'"(?:[^"\\\n]|\\.)*+"?|[\[\]{}]')
_STRING_OR_GAP = re.compile(r'("(?:[^"\\]|\\.)*+")|[ \t\n\r]+')
# A surrogate pair is one character; any other escape stays.
_ESCAPE = re.compile(r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|.)", re.DOTALL)
# What an opening bracket may stand behind in its line, where the value is drawn over several lines.
_INTRODUCES = (":", "=", ">")
_PAIRS = {"]": "[", "}": "{"}


def minify(text: str) -> str:
    """Return JSON without white space around its values, its letters written as such; what is no array or object, as it is.

    It stays as far from the margin as its first line was: nearer it might end a list that it stands in.
    """
    if not is_container(text):
        return text
    margin = text[: len(text) - len(text.lstrip())].rpartition("\n")[2]
    return margin + _STRING_OR_GAP.sub(lambda match: _ESCAPE.sub(_letter, match[1]) if match[1] else "", text)


def _letter(escape: re.Match[str]) -> str:
    if escape[1]:
        letter = chr(0x10000 + ((int(escape[1], 16) - 0xD800) << 10) + int(escape[2], 16) - 0xDC00)
    else:
        letter = chr(int(escape[3], 16)) if escape[3] else ""
    return letter if letter not in ('"', "\\") and letter.isprintable() and letter else escape[0]


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
    """Yield the outermost arrays and objects that begin a line and end a line, between `start` and `end`.

    One that is drawn over several lines may also stand behind what introduces it (`Result: {`).
    """
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
            elif _ends_line(text, mark.end(), end) and (_begins_line(text, first, start) or _is_drawn(text, first, start, mark.end())):
                while found and found[-1][0] >= first:
                    found.pop()
                found.append((first, mark.end()))
    return found


def _begins_line(text: str, at: int, start: int) -> bool:
    while at > start and text[at - 1] in " \t":
        at -= 1
    return at == start or text[at - 1] == "\n"


def _is_drawn(text: str, first: int, start: int, end: int) -> bool:
    """Tell whether a value spreads over lines, behind what introduces it."""
    before = text[max(start, first - 2) : first].rstrip(" ")
    return before.endswith(_INTRODUCES) and text.find("\n", first, end) >= 0


def _ends_line(text: str, at: int, end: int) -> bool:
    while at < end and text[at] in " \t\r":
        at += 1
    return at == end or text[at] == "\n"
