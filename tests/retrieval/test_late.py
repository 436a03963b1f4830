"""Comparing a question with the best traces word by word."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from samples import TinyModel, cut, keys_of, model_of, put, text_of, tiny_vector, trace

from tracebank.chunking import text_hash
from tracebank.embedding import EmbeddingService, TokenVectors, Vectors, packed
from tracebank.gate import Gate
from tracebank.index import ChromaVectorIndex, IndexedTrace, TantivyWordIndex
from tracebank.meaning import Meaning
from tracebank.metrics import Metrics
from tracebank.records import Filters
from tracebank.retrieval import Ranked, Retriever
from tracebank.retrieval.fusion import behind
from tracebank.retrieval.late import READ_TRACES, chunks_to_read, reread, token_scores, token_weights, words_of
from tracebank.store import Store, vectors

pytestmark = pytest.mark.anyio
AXES = np.eye(4, dtype=np.float32)


def ranked(row: int, score: float) -> Ranked:
    """Return a trace that was found."""
    return Ranked(row=row, score=score, dense=0.0, lexical=0.0, whole=0.0, passages=())


def test_a_word_shares_its_weight_among_its_tokens() -> None:
    """And punctuation has none; the weights add up to 1."""
    text = "fix CVE-77?"
    spans = np.array([[0, 3], [4, 5], [5, 7], [7, 8], [8, 10], [10, 11]], np.int32)
    weights = token_weights(spans, words_of(text), [1.0, 4.0, 3.0])
    assert weights == pytest.approx([1 / 8, 2 / 8, 2 / 8, 0, 3 / 8, 0])


def test_where_no_word_tells_anything_all_tokens_count_alike() -> None:
    """A question of punctuation, or of words that stand everywhere."""
    spans = np.array([[0, 1], [1, 2]], np.int32)
    assert token_weights(spans, words_of("?!"), []) == pytest.approx([0.5, 0.5])
    assert token_weights(spans[:0], [], []).shape == (0,)


def test_a_trace_scores_what_each_token_of_the_question_finds_in_any_of_its_chunks() -> None:
    """Best match each, weighted; opposite is no worse than nothing."""
    codes = {1: [packed(AXES[:1]), packed(AXES[1:2])], 2: [packed(AXES[2:3])], 3: [packed(-AXES[:2])], 4: []}
    scores = token_scores(AXES[:2], np.array([0.75, 0.25], np.float32), codes)
    assert scores == {1: pytest.approx(1.0), 2: pytest.approx(0.0), 3: pytest.approx(0.0)}
    assert token_scores(AXES[:0], np.empty(0, np.float32), codes) == {}
    assert token_scores(AXES[:1], np.ones(1, np.float32), {}) == {}


def test_it_is_the_last_part_beside_the_others() -> None:
    """1 of 2.75, where the others make up 1.75."""
    first, second = reread([ranked(1, 0.6), ranked(2, 0.5)], {1: 0.1, 2: 0.9})
    assert (first.row, first.score, first.tokens) == (2, pytest.approx(0.5 + 0.9 / 2.75), 0.9)
    assert (second.row, second.score) == (1, pytest.approx(0.6 + 0.1 / 2.75))


def test_a_trace_whose_tokens_are_not_kept_yet_is_taken_for_an_average_one() -> None:
    """It is neither buried nor lifted; where nobody has any, nothing changes."""
    found = reread([ranked(1, 0.5), ranked(2, 0.5), ranked(3, 0.5)], {1: 0.2, 3: 0.6})
    assert [(f.row, f.tokens) for f in found] == [(3, 0.6), (2, pytest.approx(0.4)), (1, 0.2)]
    assert reread([ranked(1, 0.5)], {}) == [ranked(1, 0.5)]


def test_of_each_of_the_best_the_task_and_the_best_other_chunk_are_compared() -> None:
    """What a trace is about, and what happened in it; the task also where nobody proposed it."""
    found = [
        ranked(1, 0.9)._replace(passages=((4, 0.8), (0, 0.7), (2, 0.1))),
        ranked(2, 0.8)._replace(passages=((0, 0.8),)),
        ranked(3, 0.7)._replace(passages=((7, 0.8), (6, 0.7))),
        *(ranked(10 + i, 0.1) for i in range(READ_TRACES)),
    ]
    keys = keys_of(chunks_to_read(found))
    assert keys[:5] == [(1, 0), (1, 4), (2, 0), (3, 0), (3, 7)]
    assert {row for row, _ in keys} == {1, 2, 3, *range(10, 10 + READ_TRACES - 3)}


def test_a_chunk_that_says_nothing_of_the_question_is_not_compared() -> None:
    """It fits less than a quarter as well as the best of its trace; the task is, whatever it says."""
    little = [ranked(1, 0.9)._replace(passages=((0, 0.8), (1, 0.19))), ranked(2, 0.8)._replace(passages=((0, 0.8), (1, 0.2), (2, 0.1)))]
    large = [ranked(3, 0.7)._replace(passages=((2, 0.8), (0, 0.1)))]
    assert keys_of(chunks_to_read([*little, *large])) == [(1, 0), (2, 0), (2, 1), (3, 0), (3, 2)]


def test_those_that_are_not_compared_stay_behind() -> None:
    """However badly the others match, and none of them has a higher score."""
    ranking = [ranked(row, 0.9 - row / 100) for row in range(READ_TRACES + 5)]
    compared = reread(ranking, {row: row / 100 for row in range(READ_TRACES)})
    assert len(compared) == READ_TRACES
    lowered = [found._replace(score=found.score - 0.5) for found in compared]
    found = behind(lowered, ranking[READ_TRACES:])
    assert [f.row for f in found] == [*(f.row for f in compared), *range(READ_TRACES, READ_TRACES + 5)]
    assert [f.score for f in found] == sorted((f.score for f in found), reverse=True)
    assert behind([], ranking) == ranking


class TellingModel(TinyModel):
    """A tiny model that tells of each token: every word is one, and synonyms are near."""

    def encode_tokens(self, texts: Sequence[str]) -> tuple[Vectors, list[TokenVectors]]:
        """Return the vectors, and those of the words."""
        return self.encode(texts), [tokens_of(text) for text in texts]


def tokens_of(text: str) -> TokenVectors:
    """Return the words of a text as its tokens; "automobile" is nearly "car"."""
    spans = words_of(text)
    words = [text[first:last].replace("automobile", "car") for first, last in spans]
    rows = np.stack([tiny_vector(word) for word in words])
    return TokenVectors(codes=packed(rows), spans=np.array(spans, np.int32))


async def test_a_synonym_is_found_where_neither_the_words_nor_the_whole_text_tell(tmp_path: Path) -> None:
    """Of two texts that share as much with the question, the one that says the rest in other words comes first."""
    store, model = Store.open(tmp_path / "store.sqlite3"), TellingModel()
    words, index = TantivyWordIndex(tmp_path / "words"), ChromaVectorIndex(tmp_path / "vectors", model="tiny")
    embedding = EmbeddingService(lambda: model, name="tiny", cache_bytes=100_000, metrics=Metrics(), clock=time.monotonic)
    embedding.start()
    await embedding.loaded()
    model_id = await model_of(store, "tiny")
    tasks = ["repair the old bicycle", "repair the old automobile"] + [f"water plant number {i}" for i in range(5)]
    values = [trace(f"{i}", task=task, content="", lessons=(), occurred_at_ms=i * 10**7) for i, task in enumerate(tasks)]
    rows = [added.row for added in await put(store, *values)]
    batch = [
        IndexedTrace(
            row=row, text=v.text, chunks=(v.task,), outcome="success", tags=(),
            occurred_at_ms=0,
        )
        for row, v in zip(rows, values, strict=True)
    ]  # fmt: skip
    words.apply(1, batch, [])
    index.apply(1, [text_of(v.task) for v in values], [])
    hashes = {text_hash(c.text): c.text for v in values for c in cut(v)}
    await store.write(lambda db: vectors.put(db, model_id, {h: tiny_vector(text) for h, text in hashes.items()}))
    retriever = Retriever(store=store, words=words, embedding=embedding, candidates=50, metrics=Metrics(), searching=Gate())
    retriever.attach(Meaning(index, embedding, model_id))
    before = (await retriever.search(["repair the old car"], [1], Filters())).ranking
    assert [found.row for found in before[:2]] == rows[:2]
    await store.write(lambda db: vectors.put_tokens(db, model_id, {h: tokens_of(text).codes for h, text in hashes.items()}))
    after = (await retriever.search(["repair the old car"], [1], Filters())).ranking
    assert [found.row for found in after[:2]] == [rows[1], rows[0]]
    assert after[0].tokens == pytest.approx(1.0, abs=0.02)
    assert all(0 <= found.score <= 1 for found in after)
    await embedding.close()
    for opened in (words, index, store):
        await asyncio.to_thread(opened.close)
