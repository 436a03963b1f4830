"""Layout, what was said before, and docstrings."""

from __future__ import annotations

import ast
import json
import re
import sysconfig
from pathlib import Path

import pytest

from tracebank.compression.draft import Draft
from tracebank.compression.pipeline import LOSSLESS, shortened
from tracebank.compression.segments import as_code, split
from tracebank.compression.steps.docstrings import first_lines
from tracebank.compression.steps.layout import compact
from tracebank.tokens import Tokenizer

PROMPTS = sorted((Path(__file__).parents[2] / "benchmarks" / "prompts").glob("*.md"))
TRACE = (
    "Traceback (most recent call last):\n"
    + "".join(f'  File "/srv/app/module_{n}.py", line {n}, in run\n' for n in range(6))
    + "ValueError: 7"
)


def _short(text: str, tokenizer: Tokenizer) -> str:
    return shortened(text, LOSSLESS, tokenizer)[0].text


@pytest.mark.parametrize("path", PROMPTS, ids=lambda path: path.stem)
def test_names_and_numbers_of_realistic_prompts_survive(tokenizer: Tokenizer, path: Path) -> None:
    """Outside of comments and docstrings, and JSON has the same values."""
    text = path.read_text(encoding="utf-8")
    short = _short(text, tokenizer)
    prose = re.sub(r"```py.*?```", "", text, flags=re.DOTALL)
    prose = re.sub(r"\\u([0-9a-f]{4})", lambda escape: chr(int(escape[1], 16)), prose)
    for word in set(re.findall(r"\d+|(?<=[a-z] )[A-Z]\w+", prose)):
        assert re.search(rf"(?<!\d){word}(?!\d)", short), word
    for before, after in zip(
        re.findall(r"```json\n(.*?)```", text, re.DOTALL), re.findall(r"```json\n(.*?)```", short, re.DOTALL), strict=True
    ):
        assert json.loads(before) == json.loads(after)
    assert tokenizer.count(short) < 0.95 * tokenizer.count(text)


def test_a_stack_trace_is_shown_once(tokenizer: Tokenizer) -> None:
    """Then a note says how many lines stand above, and where they begin."""
    short = _short(f"first\n{TRACE}\nsecond\n{TRACE}\nthird\n", tokenizer)
    assert short.count("module_3.py") == 1
    assert "second\n[8 lines as above: Traceback (most recent call last): …]\nthird" in short


@pytest.mark.parametrize(
    ("again", "folded"),
    [
        ("Check replication lag before each batch of rows, then\npause above 2 seconds and ask in the channel.", True),
        ("Check the replication lag before each batch of rows, then pause above 2 seconds and ask in the channel.", False),
        ("Check replication lag before each batches of row, then pause above 3 seconds and ask in the channel.", False),
        ("Check replication lag before each batch of rows, then do not pause above 2 seconds and ask in the channel.", False),
    ],
)
def test_a_paragraph_that_says_the_same_stands_once(tokenizer: Tokenizer, again: str, folded: bool) -> None:
    """In the same words: another number, a negation or an article may say something else."""
    first = "Check replication lag before each batch of rows, then pause above 2 seconds and ask in the channel."
    assert ("[as above: Check" in _short(f"{first}\n\nBetween.\n\n{again}\n", tokenizer)) is folded


@pytest.mark.parametrize(
    ("said", "one", "other"),
    [
        ("The operator %s restart the replica set while a nightly backup job runs on the host of the primary database.", "can", "can't"),
        ("Nightly dumps of the customers table are copied %s by the job on host db7 every morning at four.", "from a to b", "to a from b"),
        (
            "Billing on cluster eu-west: the image that was rolled out, then verified by hand on both clusters, has the digest %s",
            "a" * 80,
            "b" * 80,
        ),
        ("The offset that was measured in the cold aisle during the inspection in July was %s degrees Celsius.", "-5", "5"),
        ("Migrated: account table, users index, orders index, invoices view, payments view, ledger, audit trail, sessions %s", "✅", "❌"),
        (
            "The operator copies nightly dumps of the customers table from %s to the second host db7 every morning at four.",
            "/srv/A",
            "/srv/a",
        ),
    ],
    ids=lambda value: value if len(value) < 20 else None,
)
def test_a_paragraph_that_says_something_else_stays(tokenizer: Tokenizer, said: str, one: str, other: str) -> None:
    """Whatever it is that makes the difference: a short word, the order of words, a sign, a letter."""
    text = f"{said % one}\n\n{said % other}\n"
    assert _short(text, tokenizer) == text


def test_tables_rules_and_dates_are_written_briefly() -> None:
    """Cells, times and what is in code stay as they are."""
    text = (
        "| a   | b  |\n|:----|----|\n| 1   | x  |\n---------\n[2026-01-02 03:04:05] x\n[2026-01-02 03:04:06] y\n[2026-01-02 03:04:07] z\n"
    )
    (segment,) = split(text)
    assert compact(segment) == "|a|b|\n|:---|---|\n|1|x|\n---\n[2026-01-02 03:04:05] x\n[03:04:06] y\n[03:04:07] z\n"
    (block,) = split("```c\n| a   |\n```")
    assert compact(block) == block.body


@pytest.mark.parametrize(
    "drawing",
    [
        "|    x    |\n|  x      |\n|       x |\n",
        "+----+\n| k  |\n+----+\n|  q |\n+----+\n",
        "```text\n| a |   | b |\n|   | c |   |\n```",
        "```txt\n|  x |\n|----|\n| x  |\n```",
    ],
)
def test_what_is_drawn_with_bars_stays(drawing: str) -> None:
    """Where a sign stands is what it says. No rule and no second cell in each row: no table; nor is there one in a fence of plain text."""
    (segment,) = split(drawing)
    assert compact(segment) == segment.body


DIFF = '@@ -1,7 +1,7 @@\n | a   | b  |\n-|-----|----|\n+|----|----|\n | 1   | x  |\n {"a": 1}\n\n \n ------\n | 2   | y  |\n'


@pytest.mark.parametrize("text", [f"Please look at this.\n\n{DIFF}", f"```text\n{DIFF}```\n"], ids=["prose", "fence"])
def test_a_diff_stays_as_it_is(tokenizer: Tokenizer, text: str) -> None:
    """With tables, rules and JSON in it, for it is to be applied to a file that has them like that."""
    assert _short(text, tokenizer) == text


def test_labels_of_documents_say_their_words_once() -> None:
    """The first shows what the numbers and titles are; a title that the text repeats as its heading stands once."""
    text = (
        "Document [1](Title: Kiln (oven)) Kiln (oven) The kiln is old.\nDocument [2](Title: Kiln) Kiln is a word.\n"
        "Document [3](Title: Roof) It leaks.\nPassage [1](Title: Other) Text.\n"
    )
    (segment,) = split(text)
    assert compact(segment) == (
        "Document [1](Title: Kiln (oven)) The kiln is old.\n[2] (Kiln) Kiln is a word.\n[3] (Roof) It leaks.\n"
        "Passage [1](Title: Other) Text.\n"
    )


def test_a_date_is_named_once_though_stack_traces_stand_between() -> None:
    """Until another date, or a blank line, behind which something else may begin."""
    trace = "java.lang.X: no\n\tat a.b.Kiln.burn(Kiln.java:87)\n\tat a.b.Kiln$Fire.go(Kiln.java:9)\n\tat a.b.KilnKt.go(Kiln.kt:9)\n"
    text = f"2026-01-02 03:04:05 a\n{trace}2026-01-02 03:04:06 b\n2026-01-02 03:04:07 c\n2026-01-03 03:04:07 d\n\n2026-01-03 03:04:08 e\n"
    (segment,) = split(text)
    assert compact(segment) == (
        "2026-01-02 03:04:05 a\njava.lang.X: no\n\tat a.b.Kiln.burn(:87)\n\tat a.b.Kiln$Fire.go(:9)\n\tat a.b.KilnKt.go(Kiln.kt:9)\n"
        "03:04:06 b\n03:04:07 c\n2026-01-03 03:04:07 d\n\n2026-01-03 03:04:08 e\n"
    )


def test_docstrings_keep_their_first_line_and_the_code_its_tree() -> None:
    """In real modules: nothing but docstrings differs."""
    shorter = 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[20:45]:
        code = path.read_text(encoding="utf-8")
        after = first_lines(as_code(code))
        assert [type(node) for node in ast.walk(ast.parse(after))] == [type(node) for node in ast.walk(ast.parse(code))]
        shorter += len(after) < len(code)
    assert shorter > 5


def test_what_is_short_already_stays(tokenizer: Tokenizer) -> None:
    """Running the steps again changes nothing."""
    for path in PROMPTS:
        once = _short(path.read_text(encoding="utf-8"), tokenizer)
        assert Draft.of(split(once), tokenizer).text == once
        assert _short(once, tokenizer) == once
