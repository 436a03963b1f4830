"""White space that carries no meaning, in prose only."""

from __future__ import annotations

import re

from tracebank.compression.segments import Kind, Segment

_TRAILING = re.compile(r"(?<![ \t])[ \t]+$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{3,}")
_LEADING_BLANK_LINES = re.compile(r"\A\n{2,}")
# A run after a word or the end of a sentence. One after anything else may be an indentation behind a list mark, a
# quote mark or the number of a line.
_RUN = re.compile(r"(?<=[^\W\d_]|[,;!?])  +(?=[\w(])|(?<=[^\W\d_]\.)  +(?=[\w(])")
# Code, tables, quoted values and what is indented as code.
_NOT_PROSE = re.compile(r"""^(?: {4}|\t)|[`|"\t={}<>\\$#*_/]|\w[(\[]""")
_RUN_ANYWHERE = re.compile(r"(?<=\S) {2,}(?=\S)")


def tidied(segment: Segment) -> str:
    """Drop trailing blanks, make blank lines single and double blanks between words single; CRLF becomes LF.

    Indentation stays, and so do columns: a run that lines up with one in the line before or after it. So does all in a diff.
    """
    if segment.kind is not Kind.PROSE or segment.is_diff:
        return segment.body
    text = _TRAILING.sub("", segment.body.replace("\r\n", "\n"))
    text = _LEADING_BLANK_LINES.sub("\n", _BLANK_LINES.sub("\n\n", text))
    return _single_blanks(text) if "  " in text else text


def _single_blanks(text: str) -> str:
    lines = text.split("\n")
    columns = [_columns(line) for line in lines]
    return "\n".join(
        line if not columns[at] or _is_table(columns, at) or _NOT_PROSE.search(line) else _RUN.sub(" ", line)
        for at, line in enumerate(lines)
    )


def _columns(line: str) -> frozenset[int]:
    """Return where the runs of blanks in a line begin and end."""
    if "  " not in line:
        return frozenset()
    return frozenset(at for run in _RUN_ANYWHERE.finditer(line) for at in run.span())


def _is_table(columns: list[frozenset[int]], at: int) -> bool:
    beside = columns[max(at - 1, 0) : at] + columns[at + 1 : at + 2]
    return any(not columns[at].isdisjoint(other) for other in beside)
