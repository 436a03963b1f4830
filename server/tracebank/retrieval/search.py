"""Searching namespaces by meaning and by words, and scoring the candidates of both exactly.

Chroma and tantivy each propose chunks; what one proposed without the other's score is scored by the other: cosines
from the vectors in the store, BM25 from tantivy on just those chunks. Filters never reach Chroma: where few traces
match they are all scored exactly, where many do, more is asked for and the rest dropped.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from anyio import CapacityLimiter, to_thread

from tracebank.embedding import Embedded, EmbeddingService, Vectors, unpacked
from tracebank.errors import EmbeddingError, IndexFaultError
from tracebank.index import ChunkKey, VectorIndex, WordHits, WordIndex
from tracebank.meaning import Meaning
from tracebank.metrics import Metrics
from tracebank.records import Filters
from tracebank.retrieval import context, late
from tracebank.retrieval.fusion import Ranked, fuse, merge
from tracebank.store import Store, traces, vectors
from tracebank.store.outbox import Sink

log = logging.getLogger(__name__)

EXACT_TRACES = 1_000
MAX_OVERSAMPLED = 10_000
PARALLEL_SEARCHES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """A ranking, and how it was come by: `dense` tells whether meaning took part, `note` why it did not."""

    ranking: tuple[Ranked, ...]
    dense: bool
    note: str = ""


class Retriever:
    """Searches; holds nothing of its own."""

    def __init__(self, *, store: Store, words: WordIndex, embedding: EmbeddingService, candidates: int, metrics: Metrics) -> None:
        self._store, self._words, self._embedding, self._candidates, self._metrics = store, words, embedding, candidates, metrics
        self._vectors: VectorIndex | None = None
        self._model_id = 0
        self._limiter = CapacityLimiter(PARALLEL_SEARCHES)
        self._faults: dict[Sink, IndexFaultError] = {}

    def expect(self, embedding: EmbeddingService) -> None:
        """Say whose model will be there, or why there will be none."""
        self._embedding = embedding

    def attach(self, meaning: Meaning) -> None:
        """Hand over a model and its vector index, once they are open: from now on meaning takes part."""
        self._vectors, self._embedding, self._model_id = meaning.index, meaning.embedding, meaning.model_id

    @property
    def deep(self) -> bool:
        """Whether meaning takes part."""
        return self._vectors is not None and self._embedding.ready

    def take_faults(self) -> dict[Sink, IndexFaultError]:
        """Return, once, what went wrong in the indexes since the last call; those questions were answered without."""
        faults, self._faults = self._faults, {}
        return faults

    async def search(self, texts: Sequence[str], namespaces: Sequence[int], filters: Filters) -> Searched:
        """Return the traces found for the questions in these namespaces, all questions fused, best first."""
        questions, note = await self._embed(texts)
        jobs = [(space, text, questions.get(text)) for space in namespaces for text in texts]
        with self._metrics.timed("search"):
            found = await asyncio.gather(*(to_thread.run_sync(self._search_one, *job, filters, limiter=self._limiter) for job in jobs))
        rankings = [[ranked for part in found[i :: len(texts)] for ranked in part[0]] for i in range(len(texts))]
        if self._faults:
            note = f"the index of {' and '.join(sorted(self._faults))} is being rebuilt"
        return Searched(ranking=tuple(merge(rankings)), dense=bool(questions) and all(dense for _, dense in found), note=note)

    async def _embed(self, texts: Sequence[str]) -> tuple[dict[str, Embedded], str]:
        if self._embedding.error is not None:
            return {}, f"meaning is off: {self._embedding.error}"
        if not self.deep:
            return {}, "the embedding model is still loading"
        try:
            return dict(zip(texts, await self._embedding.read_questions(texts), strict=True)), ""
        except EmbeddingError as error:
            log.warning("searching by words alone: %s", error)
            return {}, f"meaning is off for this question: {error}"

    def _search_one(self, space: int, text: str, embedded: Embedded | None, filters: Filters) -> tuple[list[Ranked], bool]:
        """Search one namespace for one question, in a thread. Returns the ranking and whether meaning took part."""
        try:
            words = self._words.query(space, text, self._candidates, filters)
        except IndexFaultError as error:
            self._faults["words"] = error
            words = WordHits()
        if embedded is None:
            return self._in_context(space, text, None, filters, fuse(None, words)), False
        question = embedded.vector
        try:
            dense = self._store.read_now(lambda db: self._dense(db, space, question, filters))
        except IndexFaultError as error:
            self._faults["vectors"] = error
            return self._in_context(space, text, None, filters, fuse(None, words)), False
        dense |= self._missing_cosines(words, dense, question)
        ranking = fuse(dense, self._with_missing_words(space, text, words, dense), tokens=embedded.tokens is not None)
        return self._reread(space, text, embedded, self._in_context(space, text, embedded, filters, ranking)), True

    def _reread(self, space: int, text: str, question: Embedded, ranking: list[Ranked]) -> list[Ranked]:
        """Return the ranking with the best of it compared word by word."""
        if question.tokens is None:
            return ranking
        keys = [(found.row, i) for found in ranking[: late.READ_TRACES] for i, _ in found.passages[: late.READ_CHUNKS]]
        kept = self._store.read_now(lambda db: vectors.tokens_of_chunks(db, self._model_id, keys))
        codes = {row: [kept[key] for key in keys if key[0] == row and key in kept] for row, _ in keys}
        words = late.words_of(text)
        try:
            idf = self._words.idf(space, [text[first:last] for first, last in words])
        except IndexFaultError as error:
            self._faults["words"] = error
            idf = [1.0] * len(words)
        weights = late.token_weights(question.tokens.spans, words, idf)
        return late.reread(ranking, late.token_scores(unpacked(question.tokens.codes), weights, codes))

    def _in_context(self, space: int, text: str, embedded: Embedded | None, filters: Filters, ranking: list[Ranked]) -> list[Ranked]:
        """Return the ranking with what neighbours lend short traces; those that nobody proposed are scored first."""
        lending = [found.row for found in ranking[: context.LENDING_TRACES]]
        near = self._store.read_now(lambda db: traces.neighbours(db, lending, reach=context.REACH, within_ms=context.WITHIN_MS))
        loans = context.lent(ranking, near)
        chunks = self._store.read_now(lambda db: traces.chunk_counts(db, list(loans)))
        loans = {row: loan for row, loan in loans.items() if chunks.get(row, 0) <= context.SHORT_CHUNKS}
        # With a filter nothing new comes in: it may not pass.
        new = [] if filters else sorted(loans.keys() - {found.row for found in ranking}, key=lambda row: (-loans[row], row))
        new = new[: context.NEW_TRACES]
        try:
            added = self._scored(space, text, embedded, {row: chunks[row] for row in new}) if new else []
        except IndexFaultError as error:
            self._faults["words"] = error
            added = []
        return context.lifted([*ranking, *added], loans)

    def _scored(self, space: int, text: str, embedded: Embedded | None, chunks: Mapping[int, int]) -> list[Ranked]:
        """Return these traces, which have so many chunks, scored exactly."""
        keys = [(row, ordinal) for row, count in chunks.items() for ordinal in range(count)]
        words = self._words.score(space, text, keys, list(chunks))
        if embedded is None:
            return fuse(None, words)
        dense = cosines(self._store.read_now(lambda db: vectors.of_chunks(db, self._model_id, keys)), embedded.vector)
        return fuse(dense, words, tokens=embedded.tokens is not None)

    def _dense(self, db: sqlite3.Connection, space: int, question: Vectors, filters: Filters) -> dict[ChunkKey, float]:
        assert self._vectors is not None
        if not filters:
            return self._vectors.query(space, question, self._candidates)
        matching = traces.matching(db, filters, space=space)
        if len(matching) <= EXACT_TRACES:
            return _top(cosines(vectors.of_traces(db, self._model_id, matching), question), self._candidates)
        total = traces.count(db, space)
        wanted = min(MAX_OVERSAMPLED, round(1.5 * self._candidates * total / len(matching)))
        allowed = set(matching)
        found = self._vectors.query(space, question, wanted)
        return dict([(key, cosine) for key, cosine in found.items() if key[0] in allowed][: self._candidates])

    def _missing_cosines(self, words: WordHits, dense: Mapping[ChunkKey, float], question: Vectors) -> dict[ChunkKey, float]:
        missing = [key for key in words.chunks if key not in dense]
        return cosines(self._store.read_now(lambda db: vectors.of_chunks(db, self._model_id, missing)), question) if missing else {}

    def _with_missing_words(self, space: int, text: str, words: WordHits, dense: Mapping[ChunkKey, float]) -> WordHits:
        # A list that is not full is complete: what it lacks shares no word with the question.
        chunks = [key for key in dense if key not in words.chunks] if len(words.chunks) >= self._candidates else []
        rows = sorted({row for row, _ in (*dense, *words.chunks)} - set(words.traces)) if len(words.traces) >= self._candidates else []
        if not chunks and not rows:
            return words
        more = self._words.score(space, text, chunks, rows)
        return WordHits({**words.chunks, **more.chunks}, {**words.traces, **more.traces})


def cosines(found: Mapping[ChunkKey, Vectors], question: Vectors) -> dict[ChunkKey, float]:
    """Return the cosine of each unit vector with the question's."""
    if not found:
        return {}
    scores = np.stack(list(found.values())) @ question
    return {key: float(score) for key, score in zip(found, scores, strict=True)}


def _top(scores: Mapping[ChunkKey, float], limit: int) -> dict[ChunkKey, float]:
    return dict(sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:limit])
