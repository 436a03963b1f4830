"""Regions that whoever wrote the text has marked."""

from __future__ import annotations

import pytest

from tracebank.compression import STRATEGIES, Strategy, compress
from tracebank.compression.segments import marked_regions
from tracebank.errors import InputError
from tracebank.tokens import Tokenizer

REGION = '<keep>\nx  =  1   # as it is\n\n\n\n{ "a":  1 }\n</keep>'
TEXT = "Many words about nothing in particular. " * 60 + REGION + " And more of them, again and again." * 60


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_marked_region_survives_byte_for_byte(tokenizer: Tokenizer, strategy: Strategy) -> None:
    """Blank lines, double blanks and comments in it, too; several of them in their order."""
    other = "<keep>second</keep>"
    compressed = compress(f"{TEXT}\n{other}\nEnd.", budget_tokens=120, tokenizer=tokenizer, strategy=strategy, marked=True)
    assert REGION in compressed.text
    assert compressed.text.index(REGION) < compressed.text.index(other)
    assert compressed.tokens <= 120


def test_a_region_that_does_not_fit_is_refused_with_what_it_needs(tokenizer: Tokenizer) -> None:
    """Nothing is cut that was to be kept."""
    with pytest.raises(InputError, match=f"needs {tokenizer.count(REGION)} tokens, the budget is 9"):
        compress(TEXT, budget_tokens=9, tokenizer=tokenizer, marked=True)


def test_marks_are_words_like_any_where_nobody_asked(tokenizer: Tokenizer) -> None:
    """A prompt that quotes what others wrote does not do what they want."""
    assert compress(TEXT, budget_tokens=9, tokenizer=tokenizer).tokens <= 9


@pytest.mark.parametrize(
    ("text", "regions"),
    [
        ("a<keep>b</keep>c<keep>d</keep>", ["<keep>b</keep>", "<keep>d</keep>"]),
        ("<keep>a<keep>b</keep>c</keep>", ["<keep>a<keep>b</keep>"]),
        ("</keep>a<keep>b", []),
        ("<keep>" * 100_000, []),
    ],
)
def test_a_region_begins_at_its_first_mark_and_ends_at_the_next_closing_one(text: str, regions: list[str]) -> None:
    """What is never closed is no region."""
    assert [text[start:end] for start, end in marked_regions(text)] == regions
