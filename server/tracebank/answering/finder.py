"""Finding the memories for a request that no kept answer serves, and writing the page."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from anyio import to_thread

from tracebank.answering.requests import Asked
from tracebank.caching import LruCache
from tracebank.learning import Learner
from tracebank.learning.applying import unfitting
from tracebank.records import Query
from tracebank.retrieval import Page, Ranked, Reranker, Retriever, Searched, present
from tracebank.retrieval.dates import preferred
from tracebank.retrieval.duplicates import Distinct, length_chars
from tracebank.retrieval.presentation import Span
from tracebank.retrieval.request import cursor_at
from tracebank.store import Store, StoredTrace, traces, vectors
from tracebank.tokens import Tokenizer

# For the pages behind the first, which are asked for soon or never.
RANKINGS_BYTES = 4_194_304
RANKED_BYTES = 500
# Texts of less are compared on the event loop: a thread would cost more.
SMALL_CHARS = 20_000

_Loaded = tuple[StoredTrace, Ranked, list[Span]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieved:
    """One page of memories. `dense`: whether meaning took part in finding them.

    `shaped` is for who passes it on: what was made of it once serves as long as the answer is kept.
    """

    page: Page
    namespaces: tuple[str, ...]
    dense: bool
    note: str
    next_cursor: str | None
    shaped: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was found, by which model's meaning (empty: none took part), counted in whose tokens; `lasting`: it may be kept."""

    answer: Retrieved
    model: str
    tokenizer: str
    lasting: bool


@dataclass(frozen=True, slots=True)
class _Ranking:
    """A ranking with what it is of: versions of the namespaces, and a model."""

    versions: tuple[int, ...]
    model: str
    searched: Searched


class Finder:
    """Searches, weighs, loads and presents; keeps rankings for the next page, or one of another size."""

    def __init__(
        self,
        *,
        store: Store,
        retriever: Retriever,
        reranker: Reranker | None,
        learner: Learner,
        spaces: Callable[[], Mapping[str, int]],
        model: Callable[[], str],
        tokenizer: Callable[[], Awaitable[Tokenizer]],
        searched: Callable[[], None],
        ttl_s: float,
    ) -> None:
        """Take what it needs. `model()` names the model that answers; `searched()` is called after each search."""
        self._store, self._retriever, self._reranker, self._learner = store, retriever, reranker, learner
        self._spaces, self._model, self._tokenizer, self._searched = spaces, model, tokenizer, searched
        self.rankings: LruCache[object, _Ranking] = LruCache(
            max_bytes=RANKINGS_BYTES,
            size_of=lambda _, kept: RANKED_BYTES * (1 + len(kept.searched.ranking)),
            ttl_s=ttl_s,
            clock=time.monotonic,
        )

    async def find(self, asked: Asked, versions: tuple[int, ...], *, complete: bool) -> Found:
        """Return the page asked for. `complete`: all that the asker knows of is indexed. Raises: StoreError."""
        query, spaces = asked.query, self._spaces()
        known = [name for name in query.namespaces or spaces if name in spaces]
        ranking = await self._ranking(asked, versions, [spaces[name] for name in known])
        searched = ranking.searched
        unknown = await self._unknown(query, searched)
        note = "; ".join(
            part for part in (searched.note, "" if complete else "your latest traces are still being indexed", unknown) if part
        )
        found, near_equal, end = await self._load(searched.ranking, asked.offset, query.k)
        tokenizer = await self._tokenizer()
        context = await self._learner.context([stored.row for stored, _, _ in found])

        # Of several questions each has a best of its own; whoever wants everything gets it.
        alone = len(query.texts) == 1 and query.detail == "concise"
        unfit = unfitting((ranked for _, ranked, _ in found), searched.ranking) if alone else ()

        def render() -> Page:
            return present(
                found, tokenizer=tokenizer, max_tokens=query.max_tokens, detail=query.detail, note=note,
                several=len(query.namespaces) != 1, told=context.told, patterns=context.patterns, near_equal=near_equal, unfit=unfit,
            )  # fmt: skip

        answer = Retrieved(
            page=await to_thread.run_sync(render), namespaces=tuple(known), dense=searched.dense, note=note,
            next_cursor=cursor_at(query, end) if end < len(searched.ranking) else None,
        )  # fmt: skip
        # What is less deep than it could be is not kept, nor what tells of namespaces that were not searched.
        well = not searched.note if searched.dense else not self._retriever.deep
        return Found(answer=answer, model=ranking.model, tokenizer=tokenizer.name, lasting=complete and well and not unknown)

    async def _ranking(self, asked: Asked, versions: tuple[int, ...], spaces: Sequence[int]) -> _Ranking:
        kept = self.rankings.get(asked.subject, lambda kept: kept.versions == versions and kept.model == self._model())
        if kept is not None:
            return kept
        texts, filters, periods = asked.query.texts, asked.query.filters, asked.periods
        searched = await self._retriever.search(texts, spaces, filters)
        ranking, note = await self._reranker.rerank(texts, searched.ranking) if self._reranker else (searched.ranking, "")
        if periods:
            moments = await self._store.read(lambda db: traces.occurred_at_ms(db, [found.row for found in ranking]))
            ranking = preferred(ranking, periods, moments)
        searched = replace(searched, ranking=await self._learner.weighed(ranking), note="; ".join(filter(None, (searched.note, note))))
        self._searched()
        found = _Ranking(versions, searched.model, searched)
        if not searched.note:
            self.rankings.put(asked.subject, found)
        return found

    async def _load(self, ranking: Sequence[Ranked], offset: int, k: int) -> tuple[list[_Loaded], dict[int, list[str]], int]:
        """Return the next k of the ranking that still exist, the ids of those that say the same by row, and where the page ends."""
        distinct: Distinct[_Loaded] = Distinct(lambda one: one[0].trace)
        while len(distinct) < k and offset < len(ranking):
            part = ranking[offset : offset + k - len(distinct)]
            rows = [ranked.row for ranked in part]
            stored, spans = await self._store.read(partial(_with_spans, rows=rows))
            found = [(stored[ranked.row], ranked, spans.get(ranked.row, [])) for ranked in part if ranked.row in stored]
            if sum(length_chars(one.trace) for one, _, _ in found) < SMALL_CHARS:
                distinct.add(found)
            else:
                await to_thread.run_sync(distinct.add, found)
            offset += len(part)
        near_equal = {one[0].row: [other[0].trace.trace_id for other in others] for one, others in distinct if others}
        return [one for one, _ in distinct], near_equal, offset

    async def _unknown(self, query: Query, searched: Searched) -> str:
        # Counting reads every trace's entry: only where a namespace is new to us, or may have been emptied.
        spaces = self._spaces()
        if not query.namespaces or (searched.ranking and all(name in spaces for name in query.namespaces)):
            return ""
        counts = await self._store.read(traces.namespaces)
        missing = [name for name in query.namespaces if name not in counts]
        if not missing:
            return ""
        known = ", ".join(list(counts)[:20]) or "none yet"
        return f"no traces in namespace {', '.join(missing)}; namespaces that have some: {known}"


def _with_spans(db: sqlite3.Connection, rows: Sequence[int]) -> tuple[dict[int, StoredTrace], dict[int, list[Span]]]:
    return traces.load(db, rows), vectors.spans(db, rows)
