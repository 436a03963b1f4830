"""Cutting a trace into chunks."""

from __future__ import annotations

import random
import re
from itertools import pairwise

import pytest
from samples import trace

from tracebank.chunking import chunks_of, text_hash, windows
from tracebank.records import Lesson


def test_windows_share_words_with_the_one_before_and_miss_none() -> None:
    """Every word is in a window, the last window is not a part of the one before, and no window is too long."""
    for count in [1, 19, 20, 21, 79, 80, 81, 139, 140, 141, 200, 201]:
        words = [f"w{i}" for i in range(count)]
        text = "  ".join(words)
        found = [text[start:end].split() for start, end in windows(text, words=80, overlap_words=20)]
        assert all(len(window) <= 80 for window in found)
        assert [word for i, window in enumerate(found) for word in (window if i == 0 else window[20:])] == words
        assert all(len(window) > 20 for window in found[1:])
        assert all(a[-20:] == b[:20] for a, b in pairwise(found))


def test_a_text_without_words_has_no_windows() -> None:
    """There is nothing to find in it."""
    assert windows("", words=80, overlap_words=20) == []
    assert windows(" \n\t ", words=80, overlap_words=20) == []


def test_scripts_without_spaces_are_cut_by_the_character() -> None:
    """A window has a bounded number of model tokens in Chinese, too."""
    text = "深" * 200
    assert windows(text, words=80, overlap_words=20) == [(0, 80), (60, 140), (120, 200)]


def test_a_word_that_is_too_long_counts_as_several() -> None:
    """A line of base64 does not make a window of a hundred kilobytes."""
    spans = windows("x" * 32 * 200, words=80, overlap_words=20)
    assert max(end - start for start, end in spans) == 80 * 32
    assert len(spans) == 3


def test_task_and_each_lesson_are_chunks_of_their_own_before_the_content() -> None:
    """Each says by itself when the memory applies."""
    value = trace(task="T one", lessons=(Lesson(content="L one"), Lesson(title="A", content="L two")), content="C one")
    cut = chunks_of(value, words=80, overlap_words=20)
    assert [(c.part, c.item, c.text) for c in cut] == [
        ("task", 0, "T one"), ("lesson", 0, "L one"), ("lesson", 1, "A\nL two"), ("content", 0, "C one"),
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_a_chunks_span_is_its_text(seed: int) -> None:
    """Start and end count characters of its part, whatever the text."""
    rng = random.Random(seed)
    content = "".join(rng.choices("ab 深\n🧠é,", k=2_000))
    value = trace(content=content)
    for chunk in chunks_of(value, words=10, overlap_words=3):
        part = {"task": value.task, "content": content}.get(chunk.part) or value.lessons[chunk.item].text
        assert part[chunk.start : chunk.end] == chunk.text
    covered = "".join(sorted({c for chunk in chunks_of(value, words=10, overlap_words=3) for c in chunk.text}))
    assert set(re.sub(r"\s", "", content)) <= set(covered)


def test_equal_texts_have_equal_hashes_and_others_have_not() -> None:
    """16 bytes stand for a text in the embedding cache."""
    assert text_hash("深い") == text_hash("深い")
    assert len(text_hash("")) == 16
    assert len({text_hash(str(i)) for i in range(1_000)}) == 1_000
