"""Long questions are asked in parts."""

from __future__ import annotations

import pytest

from tracebank.chunking import word_spans
from tracebank.retrieval.questions import FIRST_PARTS, LAST_PARTS, PART_TOKENS, all_of, parts_of


def sentences(first: int, last: int) -> str:
    """Return a text of numbered sentences."""
    return " ".join(f"Sentence {i} says what number {i} is about." for i in range(first, last))


@pytest.mark.parametrize("text", ["short", "x" * 1_000, "記" * 200, sentences(0, 5), "  blanks around  "])
def test_a_short_question_is_asked_as_it_is(text: str) -> None:
    """To the last blank."""
    assert parts_of(text, word_spans) == [text]


def test_a_long_question_is_cut_between_sentences_and_nothing_is_lost() -> None:
    """Each part is one that a model can see."""
    text = sentences(0, 60)
    parts = parts_of(text, word_spans)
    assert 1 < len(parts) <= FIRST_PARTS + LAST_PARTS
    assert " ".join(parts) == text
    assert all(part.endswith(".") and len(word_spans(part)) <= PART_TOKENS for part in parts)


def test_of_a_very_long_question_the_beginning_and_the_end_are_asked() -> None:
    """There stands what is wanted."""
    text = sentences(0, 1_000)
    parts = parts_of(text, word_spans)
    assert len(parts) == FIRST_PARTS + LAST_PARTS
    assert text.startswith(" ".join(parts[:FIRST_PARTS]))
    assert text.endswith(" ".join(parts[FIRST_PARTS:]))


def test_what_several_questions_share_is_asked_once() -> None:
    """As the same preamble before each."""
    preamble = sentences(0, 60)
    parts = all_of(parts_of(text, word_spans) for text in (preamble, preamble, "short"))
    assert parts == [*parts_of(preamble, word_spans), "short"]
