"""What makes a unit likely to answer, and what makes it say much."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from tracebank.compression import compress
from tracebank.compression.extract.outline import Outline
from tracebank.compression.extract.relevance import relevance
from tracebank.embedding import Embedded, TokenVectors, packed
from tracebank.tokens import Tokenizer

_DIRECTIONS = np.eye(64, dtype=np.float32)


def _embedded(text: str, words: dict[str, int]) -> Embedded:
    """Return a text that is like any other as a whole; each known word has a direction of its own."""
    known = [(word, text.lower().find(word)) for word in words if word in text.lower()]
    codes = packed(np.stack([_DIRECTIONS[words[word]] for word, _ in known]) if known else np.zeros((0, 64), np.float32))
    spans = np.array([(at, at + len(word)) for word, at in known], np.int32).reshape(-1, 2)
    return Embedded(vector=_DIRECTIONS[0], tokens=TokenVectors(codes=codes, spans=spans))


def test_a_unit_that_has_the_questions_words_in_other_words_comes_first(tokenizer: Tokenizer) -> None:
    """Word by word, by the vectors of tokens, where the vectors of the whole say nothing."""
    text = "The road was wide. The physician came late. The meal was cold. The night was long."
    outline = Outline.of(text, tokenizer)

    def meaning(texts: Sequence[str]) -> list[Embedded]:
        return [_embedded(each, {"doctor": 1, "physician": 1, "road": 2, "meal": 3, "night": 4}) for each in texts]

    scores = relevance(outline, "the doctor", kept_share=0.25, meaning=meaning)
    assert outline.piece(outline.leaves[int(scores.argmax())]).startswith("The physician")


def test_a_model_that_tells_of_no_tokens_is_enough(tokenizer: Tokenizer) -> None:
    """Nor does one that finds none in a question fail."""
    outline = Outline.of("One road.\n\nTwo meals.\n\nThree nights.", tokenizer)
    for tokens in (None, TokenVectors(codes=np.zeros((0, 32), np.uint8), spans=np.zeros((0, 2), np.int32))):
        scores = relevance(
            outline, "two meals", kept_share=0.3, meaning=lambda texts, t=tokens: [Embedded(vector=_DIRECTIONS[0], tokens=t) for _ in texts]
        )
        assert int(scores.argmax()) == 1


@pytest.mark.parametrize("label", ["Document [{}](Title: The kiln) ", "[{}] (The kiln) ", "## The kiln\n"])
def test_what_the_model_reads_does_not_depend_on_where_a_passage_stands(tokenizer: Tokenizer, label: str) -> None:
    """So a prompt with the same passages in another order is found in the cache."""
    texts = [label.format(number) + "It burned down in 1805." for number in (3, 14)]
    read = {outline.in_context(outline.leaves[0]) for outline in (Outline.of(text, tokenizer) for text in texts)}
    assert read == {"The kiln. It burned down in 1805."}


def test_what_begins_within_a_sentence_has_lost_its_beginning(tokenizer: Tokenizer) -> None:
    """Its first whole sentence does not count as the first of a paragraph."""
    outline = Outline.of("# A\n\nand so it ended. Then came more. That was all.\n\n# B\n\nIt began. Then it went on.", tokenizer)
    assert outline.early().tolist() == [1 / 3, 1 / 4, 1 / 5, 1, 1 / 2]


def test_the_same_sentence_is_kept_once(tokenizer: Tokenizer) -> None:
    """However much it would be worth: overlapping excerpts have many of them."""
    twice = "The kiln at the harbour was repaired in 1805 by two brothers. "
    others = [f"Nobody knows what the {word} looked like before that year. " for word in ("mill", "church", "school", "bridge", "market")]
    text = twice + "".join(others[:3]) + "\n\n" + twice + "".join(others[3:])
    compressed = compress(
        text, budget_tokens=tokenizer.count(text) * 2 // 3, tokenizer=tokenizer, strategy="extract", query="kiln repaired"
    )
    assert compressed.text.count("1805") == 1


_PROGRAM = """
import hashlib, sys
from tracebank.compression import compress
from tracebank.tokens import load_tokenizer
text = "\\n".join(
    f"Document [{n}](Title: Kiln {n % 7}) The kiln of {n} has {n * 7} bricks. Its {n % 5} owners sold it. It was warm."
    for n in range(80)
)
tokenizer = load_tokenizer("o200k_base")
for query in ("", "Who sold the kiln with 21 bricks?"):
    for share in (2, 5, 9):
        short = compress(text, budget_tokens=tokenizer.count(text) // share, tokenizer=tokenizer, query=query)
        print(hashlib.sha256(short.text.encode()).hexdigest())
"""


def test_another_process_gives_the_same_result() -> None:
    """Sets have another order in each process; nothing may depend on it."""
    outputs = [
        subprocess.run(
            [sys.executable, "-c", _PROGRAM], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert len(set(outputs[0].split())) == 6
