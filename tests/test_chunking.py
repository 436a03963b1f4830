"""Cutting a trace into chunks."""

from __future__ import annotations

import random
import re
from itertools import pairwise

import pytest
from samples import trace

from tracebank.chunking import LONGEST_TOKEN_CHARS, Span, TokenSpans, chunks_of, text_hash, windows, word_spans
from tracebank.records import Lesson


def letters(text: str) -> list[Span]:
    """One token a character that is no blank: so that lengths can be read off."""
    return [(i, i + 1) for i, character in enumerate(text) if not character.isspace()]


def cut(text: str, *, tokens: int = 20, overlap_tokens: int = 5, token_spans: TokenSpans = letters) -> list[str]:
    """Return the windows' texts."""
    return [text[start:end] for start, end in windows(text, token_spans, tokens=tokens, overlap_tokens=overlap_tokens)]


@pytest.mark.parametrize("count", [1, 5, 19, 20, 21, 35, 36, 50, 51, 200])
def test_windows_without_a_place_to_cut_have_a_fixed_length(count: int) -> None:
    """The last one holds what is left, and something that the one before did not hold."""
    text = "x" * count
    spans = windows(text, letters, tokens=20, overlap_tokens=5)
    assert spans[0][0] == 0
    assert spans[-1][1] == count
    assert [end - start for start, end in spans[:-1]] == [20] * (len(spans) - 1)
    assert all(b[0] == a[1] - 5 and b[1] > a[1] for a, b in pairwise(spans))


def test_a_text_without_words_has_no_windows() -> None:
    """There is nothing to find in it."""
    assert cut("", token_spans=word_spans) == cut(" \n\t ", token_spans=word_spans) == []


@pytest.mark.parametrize(
    ("text", "first"),
    [
        pytest.param("aaaa bbbb cccc dddd eeee ffff", "aaaa bbbb cccc dddd eeee", id="a word"),
        pytest.param("aaaa bbbb. cccc dddd eeee ffff", "aaaa bbbb. cccc dddd", id="no sentence in the second half"),
        pytest.param("aaaa bbbb cccc. dddd eeee ffff", "aaaa bbbb cccc.", id="a sentence"),
        pytest.param('aaaa bbbb "cccc." dddd eeee ffff', 'aaaa bbbb "cccc."', id="a sentence in quotation marks"),
        pytest.param("深深深深深深深深深深深深。深深深深深深深深深深", "深" * 12 + "。", id="a Chinese sentence"),
        pytest.param("aaaa bbbb cccc\ndddd. eeee ffff", "aaaa bbbb cccc", id="a line before a sentence"),
        pytest.param("aaaa bbbb cccc\n\ndddd\neeee ffff", "aaaa bbbb cccc", id="a paragraph before a line"),
        pytest.param("version 1.2.3 of the package is x86_64", "version 1.2.3 of the", id="no sentence in a number"),
    ],
)
def test_a_window_ends_at_the_best_place_of_its_second_half(text: str, first: str) -> None:
    """A paragraph, else a line, else a sentence, else a word."""
    assert cut(text)[0] == first


def test_the_next_window_begins_with_a_sentence_of_the_one_before() -> None:
    """If one begins in the overlap; else with a word of it."""
    assert cut("aaaa bbbb cccc. dd. eeee ffff gggg hhhh")[:2] == ["aaaa bbbb cccc. dd.", "dd. eeee ffff gggg hhhh"]
    assert cut("aaaa bbbb cccc dddd eeee ffff gggg hhhh iiii")[1].startswith("eeee ")


def test_a_fenced_block_is_cut_before_and_behind_rather_than_within() -> None:
    """Where it is too long for a window, at a line of it, and best at an empty one."""
    text = "We ran it first\n```\nab = 1\ncd = 2\n```\nand then it was well again"
    assert cut(text, tokens=32) == ["We ran it first\n```\nab = 1\ncd = 2\n```", "and then it was well again"]
    code = "```\n" + "ab = 1\n" * 4 + "\n" + "cd = 2\n" * 9 + "```"
    assert cut(code, tokens=24)[0] == "```\n" + "\n".join(["ab = 1"] * 4)
    assert all(line in ("ab = 1", "cd = 2", "```", "") for window in cut(code, tokens=24) for line in window.splitlines())


def test_scripts_without_spaces_are_cut_by_the_character() -> None:
    """A window has a bounded number of model tokens in Chinese, too."""
    assert [len(window) for window in cut("深" * 200, tokens=80, overlap_tokens=20, token_spans=word_spans)] == [80, 80, 80]


def test_a_word_that_is_too_long_counts_as_several() -> None:
    """A line of base64, which a model may take for one token, does not make a window of a hundred kilobytes."""
    text = "x" * LONGEST_TOKEN_CHARS * 200
    spans = windows(text, lambda text: [(0, len(text))], tokens=80, overlap_tokens=20)
    assert max(end - start for start, end in spans) == 80 * LONGEST_TOKEN_CHARS
    assert len(spans) == 3


def test_task_and_each_lesson_are_chunks_of_their_own_before_the_content() -> None:
    """Each says by itself when the memory applies."""
    value = trace(task="T one", lessons=(Lesson(content="L one"), Lesson(title="A", content="L two")), content="C one")
    chunks = chunks_of(value, word_spans, tokens=112, overlap_tokens=28)
    assert [(c.part, c.item, c.text) for c in chunks] == [
        ("task", 0, "T one"), ("lesson", 0, "L one"), ("lesson", 1, "A\nL two"), ("content", 0, "C one"),
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_a_chunks_span_is_its_text(seed: int) -> None:
    """Start and end count characters of its part, whatever the text."""
    rng = random.Random(seed)
    content = "".join(rng.choices("ab 深\n🧠é,", k=2_000))
    value = trace(content=content)
    for chunk in chunks_of(value, word_spans, tokens=16, overlap_tokens=4):
        part = {"task": value.task, "content": content}.get(chunk.part) or value.lessons[chunk.item].text
        assert part[chunk.start : chunk.end] == chunk.text
    covered = "".join(sorted({c for chunk in chunks_of(value, word_spans, tokens=16, overlap_tokens=4) for c in chunk.text}))
    assert set(re.sub(r"\s", "", content)) <= set(covered)


def test_equal_texts_have_equal_hashes_and_others_have_not() -> None:
    """16 bytes stand for a text in the embedding cache."""
    assert text_hash("深い") == text_hash("深い")
    assert len(text_hash("")) == 16
    assert len({text_hash(str(i)) for i in range(1_000)}) == 1_000
