"""What goes on in the same way: lines of a log that differ in nothing but numbers, and a stack trace's frames in libraries.

The first step that loses something: the numbers between the first and the last line, and where in a library an error passed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby

from tracebank.compression.segments import LOGS, Kind, Segment

_NUMBERS = re.compile(r"\d+(?:[.,:]\d+)*")
# A line of a log begins with a date, a time or a level; a list of figures does not.
_LOGGED = re.compile(
    r"[ \t]*[\[(<]?(?:\d{4}[-/]\d\d[-/]\d\d[T ]|\d\d:\d\d:\d\d|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d"
    r"|(?:TRACE|DEBUG|INFO|NOTICE|WARN|WARNING|ERROR)\b)"
)
_FEWEST_LINES = 4
_FRAME = re.compile(r"\s+(?:at |File \")")
_LIBRARY = re.compile(
    r"site-packages/|dist-packages/|/lib/python\d|<frozen |node_modules/|\(node:|at node:|/rustc/|/go/pkg/mod/"
    r"|at (?:[\w.]+/)?(?:java|javax|jdk|sun|com\.sun|kotlin|kotlinx|scala|org\.(?:apache|springframework|hibernate|junit|eclipse)"
    r"|io\.netty|reactor|System|Microsoft)\."
)
_FEWEST_FRAMES = 3


def folded_runs(segment: Segment) -> str:
    """Keep the first and the last line of a run, with the number of those between; of library frames the number only."""
    if segment.kind is not Kind.PROSE and segment.language not in LOGS:
        return segment.body
    return "\n".join(_logs(_frames(segment.body.split("\n"))))


def _logs(lines: Iterator[str]) -> Iterator[str]:
    for mask, run in groupby(lines, key=_masked):
        same = list(run)
        if mask and len(same) >= _FEWEST_LINES:
            yield from (same[0], f"[{len(same) - 2} lines like it]", same[-1])
        else:
            yield from same


def _masked(line: str) -> str:
    return _NUMBERS.sub("0", line) if _LOGGED.match(line) else ""


def _frames(lines: list[str]) -> Iterator[str]:
    """Yield the lines; frames of libraries in a row, with the lines of source below them, as their number."""
    for library, run in groupby(_grouped(lines), key=lambda frame: bool(_FRAME.match(frame[0]) and _LIBRARY.search(frame[0]))):
        frames = list(run)
        if library and len(frames) >= _FEWEST_FRAMES:
            yield f"    [{len(frames)} frames in libraries]"
        else:
            yield from (line for frame in frames for line in frame)


def _grouped(lines: list[str]) -> Iterator[list[str]]:
    """Yield each frame of Python with its line of source, any other line alone."""
    frame: list[str] = []
    for line in lines:
        if frame and _is_source_of(frame, line):
            frame.append(line)
            continue
        if frame:
            yield frame
        frame = [line]
    if frame:
        yield frame


def _is_source_of(frame: list[str], line: str) -> bool:
    opening = frame[0]
    if not opening.lstrip().startswith('File "') or len(frame) > 2:
        return False
    indent = len(opening) - len(opening.lstrip())
    return len(line) - len(line.lstrip()) > indent and bool(line.strip())
