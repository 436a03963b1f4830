"""Lines that repeat, as in logs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby

from tracebank.compression.segments import LOGS, Kind, Segment

_MARKED = re.compile(r" \[\d+ times\]$")
_MARK_TOKENS = 6
_CHARS_PER_TOKEN = 4


def folded(segment: Segment) -> str:
    """Fold equal lines in a row into one with a mark, `line [12 times]`, in prose and in fenced logs."""
    if segment.kind is not Kind.PROSE and segment.language not in LOGS:
        return segment.body
    return "\n".join(_folded(segment.body.split("\n")))


def _folded(lines: list[str]) -> Iterator[str]:
    for line, group in groupby(lines):
        times = len(list(group))
        if _saves(line, times):
            yield f"{line} [{times} times]"
        else:
            yield from [line] * times


def _saves(line: str, times: int) -> bool:
    if times == 1 or not line.strip() or _MARKED.search(line):
        return False
    return (times - 1) * (1 + len(line.strip()) // _CHARS_PER_TOKEN) > _MARK_TOKENS
