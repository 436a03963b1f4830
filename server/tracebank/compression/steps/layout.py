"""What is drawn rather than said, or said on every line: padding in tables, rules, the date of a log, the words of labels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from tracebank.compression.segments import LOGS, Kind, Segment

_ROW = re.compile(r"^[ \t]*\|.*\|[ \t]*$")
_PADDING = re.compile(r"(?:(?<![ \t])[ \t]+)?(?<!\\)\|[ \t]*")
_RULE = re.compile(r":?-{2,}:?")
_RULE_CHARS = frozenset("|:- \t")
# Languages of a fence in which bars may be a drawing.
_DRAWINGS = frozenset(("text", "txt", "plain", "plaintext"))
# A line of one sign, and a border of signs around a heading.
_DRAWN = re.compile(r"([-=_*#~+.─═━│|])\1{4,}")
_DRAWN_LINE = re.compile(r"^[ \t]*([-=_*#~+.─═━])\1{4,}[ \t]*$")
_DATE = re.compile(r"^[\[(]?\d{4}[-/]\d\d[-/]\d\d[T ](?=\d\d:\d\d)")
_FEWEST_DATED = 3
# A frame of Java whose file is called like its class: "at a.b.StockClient.reserve(StockClient.java:87)".
_FRAME = re.compile(r"^(\s*at (?:[\w.$/@-]*[./])?([A-Z]\w*)(?:\$[\w$]*)?\.[\w<>$]+\()\2\.(?:java|kt|scala|groovy)(:\d+\))")
# What names the documents of a collection: "Document [3](Title: The old furnace) ".
_LABEL = re.compile(
    r"(?P<word>[A-Z][\w-]{0,20}) ?\[(?P<number>[\w.-]{1,12})\]"
    r"\((?P<field>[A-Z][a-z]{1,12}): ?(?P<title>(?:[^()\n]|\([^()\n]*\)){1,300})\)[ \t]+(?=\S)"
)


def compact(segment: Segment) -> str:
    """Drop padding in tables, shorten rules to three signs; write once the date of a log's lines and the words of labels. A diff stays."""
    if segment.is_diff or (segment.kind is not Kind.PROSE and segment.language not in LOGS):
        return segment.body
    lines = _undrawn(segment.body.split("\n"), tables=segment.language not in _DRAWINGS)
    return "\n".join(_labelled_once(_dated_once(list(lines))))


def _undrawn(lines: Iterable[str], *, tables: bool) -> Iterator[str]:
    for is_row, run in groupby(lines, key=lambda line: _ROW.match(line) is not None):
        same = list(run)
        if not is_row:
            yield from map(_line, same)
        else:
            yield from map(_row, same) if tables and _is_table(same) else same


def _line(line: str) -> str:
    return _DRAWN.sub(r"\1\1\1", line) if _DRAWN_LINE.match(line) else _FRAME.sub(r"\1\3", line)


def _is_table(rows: Sequence[str]) -> bool:
    """Tell whether rows have a rule among them, or two cells each: where one cell stands alone, blanks may draw something."""
    return any("--" in row and _RULE_CHARS.issuperset(row) for row in rows) or all(len(_PADDING.findall(row)) > 2 for row in rows)


def _row(row: str) -> str:
    if "`" in row:
        return row
    cells = _PADDING.sub("|", row.strip())
    # A rule of three dashes is a rule still, and every reader of tables takes it.
    return cells if any(char.isalnum() for char in cells) else _RULE.sub(_short, cells)


def _short(rule: re.Match[str]) -> str:
    return re.sub("-+", "---", rule[0])


def _dated_once(lines: Sequence[str]) -> Iterator[str]:
    for run in _of_one_date(lines):
        dates = [_date(line) for line in run]
        if sum(map(bool, dates)) < _FEWEST_DATED:
            yield from run
            continue
        first = next(at for at, date in enumerate(dates) if date)
        for at, (line, date) in enumerate(zip(run, dates, strict=True)):
            # The bracket before the date stays before the time.
            yield line if at == first or not date else (date[0] if date[0] in "[(" else "") + line[len(date) :]


def _of_one_date(lines: Sequence[str]) -> Iterator[list[str]]:
    """Yield the lines in runs of one date, with what stands between them, as stack traces do; a blank line ends one."""
    run: list[str] = []
    shared = ""
    for line in lines:
        date = _date(line)
        if run and (not line.strip() or (date and shared and date != shared)):
            yield run
            run, shared = [], ""
        run.append(line)
        shared = date or shared
    yield run


def _date(line: str) -> str:
    match = _DATE.match(line)
    return match[0] if match else ""


def _labelled_once(lines: Iterable[str]) -> Iterator[str]:
    """Write `Document [3](Title: Furnace) Furnace It burns` as `[3] (Furnace) It burns` behind a first label in full."""
    known: set[tuple[str, str]] = set()
    for line in lines:
        label = _LABEL.match(line)
        if label is None:
            yield line
            continue
        sort = (label["word"], label["field"])
        yield (f"[{label['number']}] ({label['title']}) " if sort in known else label[0]) + _behind(label["title"], line[label.end() :])
        known.add(sort)


def _behind(title: str, text: str) -> str:
    """Return the text without its own heading, where that is the title again and no part of the first sentence."""
    rest = text[len(title) :].lstrip(" .:") if text.startswith(title + " ") or text.startswith(title + ". ") else ""
    return rest if rest and not rest[0].islower() and (rest[0].isalnum() or rest[0] in "\"“'") else text
