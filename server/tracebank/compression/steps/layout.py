"""What is drawn rather than said: padding in tables, rules of dashes, the same date on every line of a log."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby

from tracebank.compression.segments import Kind, Segment
from tracebank.compression.steps.repeats import LOGS

_ROW = re.compile(r"^[ \t]*\|.*\|[ \t]*$")
_PADDING = re.compile(r"[ \t]*(?<!\\)\|[ \t]*")
_RULE = re.compile(r":?-{2,}:?")
# A line of one sign, and a border of signs around a heading.
_DRAWN = re.compile(r"([-=_*#~+.─═━│|])\1{4,}")
_DRAWN_LINE = re.compile(r"^[ \t]*([-=_*#~+.─═━])\1{4,}[ \t]*$")
_DATE = re.compile(r"^[\[(]?\d{4}[-/]\d\d[-/]\d\d[T ](?=\d\d:\d\d)")
_FEWEST_DATED = 3


def compact(segment: Segment) -> str:
    """Drop padding in tables, shorten rules to three signs, and name a date once for the lines of a log that share it."""
    if segment.kind is not Kind.PROSE and segment.language not in LOGS:
        return segment.body
    lines = [_line(line) for line in segment.body.split("\n")]
    return "\n".join(_dated_once(lines))


def _line(line: str) -> str:
    if _DRAWN_LINE.match(line):
        return _DRAWN.sub(r"\1\1\1", line)
    if not _ROW.match(line) or "`" in line:
        return line
    cells = _PADDING.sub("|", line.strip())
    # A rule of three dashes is a rule still, and every reader of tables takes it.
    return cells if any(char.isalnum() for char in cells) else _RULE.sub(_short, cells)


def _short(rule: re.Match[str]) -> str:
    return re.sub("-+", "---", rule[0])


def _dated_once(lines: list[str]) -> Iterator[str]:
    for date, run in groupby(lines, key=_date):
        dated = list(run)
        if date and len(dated) >= _FEWEST_DATED:
            yield dated[0]
            # The bracket before the date stays before the time.
            yield from ((date[0] if date[0] in "[(" else "") + line[len(date) :] for line in dated[1:])
        else:
            yield from dated


def _date(line: str) -> str:
    match = _DATE.match(line)
    return match[0] if match else ""
