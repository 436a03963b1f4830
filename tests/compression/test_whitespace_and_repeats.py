"""White space in prose, and lines that repeat."""

from __future__ import annotations

import pytest

from tracebank.compression.segments import split
from tracebank.compression.steps.repeats import folded
from tracebank.compression.steps.whitespace import tidied


def _tidied(text: str) -> str:
    return "".join(segment.with_body(tidied(segment)).text for segment in split(text))


def _folded(text: str) -> str:
    return "".join(segment.with_body(folded(segment)).text for segment in split(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b  \nc\t\n", "a b\nc\n"),
        ("one\n\n\n\ntwo", "one\n\ntwo"),
        ("one\r\ntwo\r\n", "one\ntwo\n"),
        ("a sentence.  Another   one", "a sentence. Another one"),
    ],
)
def test_white_space_without_meaning_goes(text: str, expected: str) -> None:
    """Trailing blanks, further blank lines, carriage returns and runs between words."""
    assert _tidied(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "  - item\n    - nested\n",
        "-   if x:\n+       y\n",
        "name    size\nab      12\n",
        "app.py:12:    def f\n",
        "| a   | b |\n",
        "say `a  b` now\n",
        'x = "a  b"\n',
        "> ```py\n> x  =  1  \n> ```\n",
        "```\na  b  \n\n\n\nc\n```\n",
        "- ```py\n  x  \n  ```\n",
        '{"a": "x  y"}\n',
        "--- a/x\n+++ b/x\n@@ -1,6 +1,6 @@\n a\n \n \n \n-b  \n+b\n",
    ],
)
def test_white_space_with_meaning_stays(text: str) -> None:
    """Indentation, columns, code in a line, quoted values, fences (indented, quoted, in lists), JSON strings and the lines of a diff."""
    assert _tidied(text) == text


def test_equal_lines_in_a_row_become_one_with_a_mark() -> None:
    """In prose and in a fenced log."""
    line = "2026-01-01 INFO waiting for the worker"
    assert _folded(f"{line}\n" * 12 + "done\n") == f"{line} [12 times]\ndone\n"
    assert _folded("```log\n" + f"{line}\n" * 12 + "```") == f"```log\n{line} [12 times]\n```"


@pytest.mark.parametrize(
    "text",
    [
        "}\n" * 3,
        "\n" * 30,
        "a\nb\n" * 20,
        "```py\n" + "print('hello, world')\n" * 20 + "```",
        "waiting for it [2 times]\n" * 9,
    ],
)
def test_lines_are_not_folded_where_that_saves_nothing_or_changes_code(text: str) -> None:
    """Short runs, blank lines, lines that differ, code, and lines that would be ambiguous."""
    assert _folded(text) == text
