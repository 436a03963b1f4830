"""Words that a model calls dispensable go, behind an extraction that takes more than fits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tracebank.compression import Strategy, compress
from tracebank.compression.draft import WordModel
from tracebank.compression.extract.rendering import numbered_mark
from tracebank.embedding.token_classifier import TokenClassifier
from tracebank.tokens import Tokenizer

TEXT = "\n\n".join(
    f"Paragraph {number}. The gannet, which lives at the coast, dived {number * 7} times into the rather calm sea on that day. "
    f"Nobody had ever counted that before, so the record stands until somebody looks again."
    for number in range(40)
)


@pytest.fixture(scope="module")
def words(word_model: Path) -> WordModel:
    """The tiny model."""
    return TokenClassifier.load(word_model).words


def test_more_units_are_kept_with_fewer_words_each(tokenizer: Tokenizer, words: WordModel) -> None:
    """The step is told, in place of the one that keeps whole units."""
    budget = tokenizer.count(TEXT) // 4
    whole = compress(TEXT, budget_tokens=budget, tokenizer=tokenizer)
    trimmed = compress(TEXT, budget_tokens=budget, tokenizer=tokenizer, words=words)
    assert [trimmed.steps[-1].name, whole.steps[-1].name] == ["llmlingua", "extract"]
    assert len(set(re.findall(r"\d+", trimmed.text))) > len(set(re.findall(r"\d+", whole.text)))
    assert tokenizer.count(trimmed.text) == trimmed.tokens <= budget


@pytest.mark.parametrize("strategy", ["auto", "extract"])
@pytest.mark.parametrize("part", [2, 5, 13])
def test_every_promise_holds(tokenizer: Tokenizer, words: WordModel, strategy: Strategy, part: int) -> None:
    """Budget, what is kept, marked regions, the same again; every word that is left stands in the text, in its order."""
    text = TEXT.replace("Paragraph 20.", "<keep>Paragraph 20, as  it is.</keep>")
    keep = ["The gannet, which lives at the coast, dived 91 times"]
    options = {"budget_tokens": tokenizer.count(text) // part, "tokenizer": tokenizer, "strategy": strategy, "words": words}
    compressed = compress(text, keep=keep, marked=True, **options)  # type: ignore[arg-type]
    assert tokenizer.count(compressed.text) == compressed.tokens <= options["budget_tokens"]  # type: ignore[operator]
    assert keep[0] in compressed.text
    assert "<keep>Paragraph 20, as  it is.</keep>" in compressed.text
    assert compress(text, keep=keep, marked=True, **options) == compressed  # type: ignore[arg-type]
    left = iter(text.split())
    assert all(word in left for word in compressed.text.replace("…", " ").split())


def test_code_numbers_and_marks_keep_their_words(tokenizer: Tokenizer, words: WordModel) -> None:
    """What a cut left out can still be asked for."""
    code = "```py\ndef dive(depth):\n    return depth // 2\n```"
    compressed = compress(f"{TEXT}\n\n{code}", budget_tokens=500, tokenizer=tokenizer, words=words, mark=numbered_mark, keep=[code])
    assert code in compressed.text
    assert re.findall(r"\[…(\d+)\]", compressed.text) == [str(number) for number in range(1, len(compressed.gaps) + 1)]


def _all_alike(text: str) -> list[tuple[int, int, float]]:
    """Call every word as dispensable as any other."""
    return [(*match.span(), 0.1) for match in re.finditer(r"\w+|[^\w\s]", text)]


@pytest.mark.parametrize("strategy", ["auto", "extract"])
def test_json_without_a_fence_keeps_its_words(tokenizer: Tokenizer, strategy: Strategy) -> None:
    """Those of the prose around it go."""
    value = '{"user":"ann","is":true,"of":null,"at":["here","there"]}'
    text = f"{value}\n\n{TEXT}"
    compressed = compress(text, budget_tokens=int(tokenizer.count(text) * 0.7), tokenizer=tokenizer, strategy=strategy, words=_all_alike)
    assert compressed.steps[-1].name == "llmlingua"
    assert value in compressed.text


@pytest.mark.parametrize("strategy", ["auto", "extract"])
@pytest.mark.parametrize(
    ("begins", "function"),
    [
        ("import os\n\n\n", "def load_{}(path, mode):\n    return open(path, mode)\n"),
        ("package main\n\n", "func load{}(path string) {{\n\tos.Open(path, os.Mode)\n}}\n"),
        ("#!/bin/bash\n\n", "load_{}() {{\n    cat path mode\n}}\n"),
    ],
    ids=["python", "go", "bash"],
)
def test_code_without_a_fence_keeps_its_words(tokenizer: Tokenizer, strategy: Strategy, begins: str, function: str) -> None:
    """Whole blocks of it go."""
    code = begins + "\n\n".join(function.format(name) for name in "abcdefgh")
    compressed = compress(code, budget_tokens=int(tokenizer.count(code) * 0.7), tokenizer=tokenizer, strategy=strategy, words=_all_alike)
    assert set(compressed.text.splitlines()) <= {*code.splitlines(), "…"}


def test_where_words_are_not_enough_whole_units_go(tokenizer: Tokenizer) -> None:
    """A model that calls nothing a word is no reason to fail."""
    compressed = compress(TEXT, budget_tokens=200, tokenizer=tokenizer, words=lambda text: [])
    assert [step.name for step in compressed.steps][-2:] == ["llmlingua", "extract"]
    assert compressed.tokens <= 200
