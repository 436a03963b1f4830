"""Cutting the middle."""

from __future__ import annotations

import re

import pytest

from tracebank.compression import compress
from tracebank.tokens import Tokenizer


def _cut(text: str, tokenizer: Tokenizer, budget_tokens: int, head_ratio: float = 0.6, keep: tuple[str, ...] = ()) -> str:
    compressed = compress(text, budget_tokens=budget_tokens, tokenizer=tokenizer, strategy="head_tail", head_ratio=head_ratio, keep=keep)
    assert tokenizer.count(compressed.text) <= budget_tokens
    return compressed.text


def _numbered(lines: int) -> str:
    return "".join(f"line {number} of the text\n" for number in range(lines))


def test_head_and_tail_stay_and_a_mark_tells_what_is_missing(tokenizer: Tokenizer) -> None:
    """The mark's number is the original's tokens less those that are left."""
    text = _numbered(400)
    head, number, tail = re.split(r"\[… ([\d,]+) tokens cut …\]", _cut(text, tokenizer, 500))
    assert text.startswith(head.rstrip("\n"))
    assert text.endswith(tail.lstrip("\n"))
    left = tokenizer.count(head) + tokenizer.count(tail)
    assert abs(int(number.replace(",", "")) - (tokenizer.count(text) - left)) <= 2


def test_most_of_the_budget_is_used(tokenizer: Tokenizer) -> None:
    """A promise kept by returning little would be worth little."""
    text = _numbered(400)
    for budget in (100, 500, 2000):
        assert tokenizer.count(_cut(text, tokenizer, budget)) >= 0.9 * budget


@pytest.mark.parametrize(("ratio", "low", "high"), [(0.0, 0.0, 0.0), (0.25, 0.2, 0.3), (0.75, 0.7, 0.8), (1.0, 1.0, 1.0)])
def test_the_ratio_decides_how_much_goes_to_the_head(tokenizer: Tokenizer, ratio: float, low: float, high: float) -> None:
    """0 keeps only the tail, 1 only the head."""
    head, tail = re.split(r"\[….*…\]", _cut(_numbered(400), tokenizer, 1000, ratio))
    share = tokenizer.count(head) / (tokenizer.count(head) + tokenizer.count(tail))
    assert low <= share <= high


def test_lines_stay_whole_where_a_border_is_near(tokenizer: Tokenizer) -> None:
    """With short lines no line is torn."""
    text = _numbered(400)
    lines = set(text.splitlines())
    assert all(line in lines or line.startswith("[… ") for line in _cut(text, tokenizer, 1000).splitlines())


def test_words_stay_whole_where_there_are_no_lines(tokenizer: Tokenizer) -> None:
    """In one long line the cut is between words."""
    text = " ".join(f"word{number}" for number in range(1000))
    words = set(text.split())
    assert set(re.sub(r"\[….*…\]", " ", _cut(text, tokenizer, 300)).split()) <= words


@pytest.mark.parametrize(
    "character",
    ["👩‍👩‍👧", "🇩🇪", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "कि", "நொ"],
    ids=["family", "flag", "tags", "spacing mark", "two marks"],
)
def test_what_is_seen_as_one_character_is_not_torn(tokenizer: Tokenizer, character: str) -> None:
    """A family of three, a flag of two letters or of tags, a letter with its vowel are cut before or after, never inside."""
    for budget in range(150, 250, 7):
        left = re.sub(r"\n?\[….*…\]\n?|\n?…\n?", "", _cut(character * 200, tokenizer, budget))
        assert left
        assert not left.replace(character, "")


def test_a_budget_too_small_for_the_mark_has_none(tokenizer: Tokenizer) -> None:
    """The tokens go to the text."""
    assert "[…" not in _cut("word " * 100, tokenizer, 8)
    assert len(_cut("word " * 100, tokenizer, 1)) >= 1


def test_kept_pieces_stand_between_head_and_tail_in_their_order(tokenizer: Tokenizer) -> None:
    """Each gap has its own mark."""
    text = _numbered(400)
    cut = _cut(text, tokenizer, 600, keep=("line 200 of", "line 100 of"))
    assert cut.index("line 0 of") < cut.index("line 100 of") < cut.index("line 200 of") < cut.index("line 399 of")
    assert cut.count("tokens cut") == 3


def test_code_is_cut_between_its_blocks(tokenizer: Tokenizer) -> None:
    """Head and tail are whole functions, each of which still parses."""
    text = "".join(f"def f{number}(a):\n    b = a + {number}\n    return b\n" for number in range(100))
    cut = compress(text, budget_tokens=700, tokenizer=tokenizer, strategy="code").text
    for part in re.split(r"\[….*…\]", cut):
        compile(part, "part", "exec")
        assert "def f" in part


@pytest.mark.parametrize("budget", [200, 250, 400, 700])
def test_a_cut_through_fenced_code_goes_between_its_blocks_and_closes_it(tokenizer: Tokenizer, budget: int) -> None:
    """What is left of each block parses, and what follows is prose again."""
    fenced = ["\n\n".join(f"def {name}{number}(a):\n    b = a + {number}\n    return b" for number in range(40)) for name in "fg"]
    text = f"{'Before. ' * 20}\n```python\n{fenced[0]}\n```\n{'Between. ' * 60}\n```python\n{fenced[1]}\n```\nThe end."
    short = compress(text, budget_tokens=budget, tokenizer=tokenizer, strategy="head_tail").text
    assert short.endswith("The end.")
    assert short.count("```") % 2 == 0
    for block in re.findall(r"```python\n(.*?)```", short, re.DOTALL):
        compile(re.sub(r"^\[?….*$", "", block, flags=re.MULTILINE), "block", "exec")


@pytest.mark.parametrize("info", ["python", 'python title="A block of code with a long name" linenos="yes"'])
@pytest.mark.parametrize(("before", "within"), [("", ""), ("   ", "   "), ("- ", "  "), ("> ", "> ")])
def test_no_cut_opens_a_fence_and_leaves_it_open(tokenizer: Tokenizer, info: str, before: str, within: str) -> None:
    """At whatever budget: also where it goes through a line that opens or closes a block, or through what stands before it there."""
    block = f"{before}```{info}\n{within}def f(x):\n{within}    return x\n{within}```"
    text = "\n\n".join(f"Before block {n} some words.\n\n{block}" for n in range(12))
    for budget in range(40, tokenizer.count(text)):
        short = compress(text, budget_tokens=budget, tokenizer=tokenizer, strategy="head_tail").text
        assert sum("```" in line for line in short.split("\n")) % 2 == 0, budget
