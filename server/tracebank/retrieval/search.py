"""Searching namespaces by meaning and by words: each proposes, and the best of all are scored exactly (`scoring`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

from anyio import CapacityLimiter, to_thread

from tracebank.chunking import TokenSpans, word_spans
from tracebank.embedding import Embedded, EmbeddingService
from tracebank.errors import EmbeddingError, IndexFaultError
from tracebank.gate import Gate
from tracebank.index import WordIndex
from tracebank.meaning import Meaning
from tracebank.metrics import Metrics
from tracebank.records import Filters
from tracebank.retrieval.dense import Dense
from tracebank.retrieval.fusion import Ranked, View, leaders, merge, views
from tracebank.retrieval.questions import all_of, parts_of
from tracebank.retrieval.scoring import PARALLEL_SEARCHES, Asked, Faults, Scorer
from tracebank.store import Store
from tracebank.store.outbox import Sink

log = logging.getLogger(__name__)

LOADING = "the embedding model is still loading"


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """A ranking, and how it was come by: `dense` tells whether meaning took part, by which `model`, `note` why it did not.

    `cut`: there may be more than is told. `views` are those of several questions.
    """

    ranking: tuple[Ranked, ...]
    dense: bool
    cut: bool = False
    model: str = ""
    note: str = ""
    views: tuple[View, ...] = ()

    @property
    def leading(self) -> Collection[int]:
        """Of several questions the best of each, by row: one that has many would take the whole page."""
        return leaders(self.ranking, self.views) if self.views else ()


class Retriever:
    """Searches, by words and, once a model is there, by meaning."""

    def __init__(
        self,
        *,
        store: Store,
        words: WordIndex,
        embedding: EmbeddingService,
        candidates: int,
        metrics: Metrics,
        searching: Gate,
        token_spans: TokenSpans = word_spans,
    ) -> None:
        self._store, self._embedding, self._candidates, self._metrics = store, embedding, candidates, metrics
        self._searching, self._token_spans = searching, token_spans
        self._without_meaning = LOADING
        self._faults = Faults()
        self._scorer = Scorer(store, words, candidates=candidates, faults=self._faults)
        self._limiter = CapacityLimiter(PARALLEL_SEARCHES)

    def expect(self, embedding: EmbeddingService) -> None:
        """Say whose model will be there, or why there will be none."""
        self._embedding = embedding

    def attach(self, meaning: Meaning) -> None:
        """Hand over a model and its vector index, once they are open: from now on meaning takes part."""
        self._scorer.dense = Dense(self._store, meaning)
        self._embedding, self._without_meaning = meaning.embedding, LOADING

    def do_without(self, reason: str) -> None:
        """Say why meaning takes no part until a model and its index are handed over."""
        self._without_meaning = reason

    def close(self) -> None:
        """Let go of what it has of its own. Nobody may search any more."""
        self._scorer.close()

    def forget(self, namespaces: Collection[int]) -> None:
        """Let go of what is held of these namespaces in memory: some of it was forgotten."""
        if self._scorer.dense is not None:
            self._scorer.dense.forget(namespaces)

    @property
    def deep(self) -> bool:
        """Whether meaning takes part."""
        return self._scorer.dense is not None and self._embedding.ready

    @property
    def lacking(self) -> str:
        """Why meaning takes no part; empty where it does."""
        if self._embedding.error is not None:
            return f"meaning is off: {self._embedding.error}"
        return "" if self.deep else self._without_meaning

    @property
    def dense(self) -> Dense | None:
        """What searches by meaning, where meaning takes part."""
        return self._scorer.dense

    @property
    def sinks(self) -> tuple[Sink, ...]:
        """The indexes that it searches."""
        return ("words", "vectors") if self.deep else ("words",)

    def take_faults(self) -> dict[Sink, IndexFaultError]:
        """Return, once, what went wrong in the indexes since the last call; those questions were answered without."""
        return self._faults.take()

    async def search(self, texts: Sequence[str], namespaces: Sequence[int], filters: Filters) -> Searched:
        """Return the traces found for the questions in these namespaces, all questions fused, best first.

        Whoever changes what is searched closes the gate that all of it passes.
        """
        async with self._searching.passing():
            return await self._search(texts, namespaces, filters)

    async def _search(self, texts: Sequence[str], namespaces: Sequence[int], filters: Filters) -> Searched:
        model = self._embedding.name
        parts = {text: parts_of(text, self._token_spans) for text in texts}
        every = all_of(parts.values())
        questions, note = await self._embed(every)
        with self._metrics.timed("search"):
            found = await asyncio.gather(*(self._search_for(Asked(part, questions.get(part), filters), namespaces) for part in every))
        if self._faults:
            note = self._faults.note
        rankings = dict(zip(every, [ranking for ranking, _, _ in found], strict=True))
        dense = bool(questions) and all(deep for _, deep, _ in found)
        ranking = merge(list(rankings.values()))
        several = [merge([rankings[part] for part in own]) for own in parts.values()] if len(parts) > 1 else []
        return Searched(
            ranking=tuple(ranking), views=views(several, ranking), dense=dense, cut=any(cut for _, _, cut in found),
            model=model if dense else "", note=note,
        )  # fmt: skip

    async def _search_for(self, asked: Asked, namespaces: Sequence[int]) -> tuple[list[Ranked], bool, bool]:
        """Return the ranking for one question, whether meaning took part everywhere, and whether there may be more."""
        in_thread = partial(to_thread.run_sync, limiter=self._limiter)
        if len(namespaces) == 1:
            ranking, proposals = await in_thread(self._scorer.search, asked, namespaces)
        else:
            # Each thread takes several where there are many: to change threads takes as long as to ask a small one.
            shares = [namespaces[i::PARALLEL_SEARCHES] for i in range(min(PARALLEL_SEARCHES, len(namespaces)))]
            shared = await asyncio.gather(*(in_thread(self._scorer.propose, asked, share) for share in shares))
            proposals = [proposed for share in shared for proposed in share]
            ranking = await in_thread(self._scorer.ranked, asked, proposals) if proposals else []
        cut = any(proposed.cut for proposed in proposals) or len(ranking) < sum(len(proposed.fused.rows) for proposed in proposals)
        return ranking, all(proposed.dense is not None for proposed in proposals), cut

    async def _embed(self, texts: Sequence[str]) -> tuple[dict[str, Embedded], str]:
        if lacking := self.lacking:
            return {}, lacking
        try:
            return dict(zip(texts, await self._embedding.read_questions(texts), strict=True)), ""
        except EmbeddingError as error:
            log.warning("searching by words alone: %s", error)
            return {}, f"meaning is off for this question: {error}"
