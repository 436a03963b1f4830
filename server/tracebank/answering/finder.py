"""Finding the memories for a request that no kept answer serves."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from anyio import CapacityLimiter, to_thread

from tracebank.answering.pages import Pages, Retrieved, Written
from tracebank.answering.requests import Asked
from tracebank.caching import LruCache
from tracebank.retrieval import Reranker, Retriever, Searched

# For the pages behind the first, which are asked for soon or never.
RANKINGS_BYTES = 4_194_304
RANKED_BYTES, PASSAGE_BYTES = 350, 100
# So many are written at a time: more would only wait for the store's readers, in threads that others could use.
PAGES_AT_ONCE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was found, by which model's meaning (empty: none took part), and what was `lacking`; `lasting`: it may be kept."""

    answer: Retrieved
    model: str
    lacking: str
    lasting: bool


@dataclass(frozen=True, slots=True)
class _Ranking:
    """What was found, weighed, with the versions of the namespaces that it is of."""

    versions: tuple[int, ...]
    searched: Searched


class Finder:
    """Searches, and has the page written; keeps rankings for the next page, or one of another size."""

    def __init__(
        self,
        *,
        retriever: Retriever,
        reranker: Reranker | None,
        pages: Pages,
        spaces: Callable[[], Mapping[str, int]],
        model: Callable[[], str],
        searched: Callable[[], None],
        ttl_s: float,
    ) -> None:
        """Take what it needs. `model()` names the model that answers; `searched()` is called after each search."""
        self._retriever, self._reranker, self._pages = retriever, reranker, pages
        self._spaces, self._model, self._searched = spaces, model, searched
        self._limiter = CapacityLimiter(PAGES_AT_ONCE)
        self.rankings: LruCache[object, _Ranking] = LruCache(max_bytes=RANKINGS_BYTES, size_of=_bytes, ttl_s=ttl_s, clock=time.monotonic)

    @property
    def lacking(self) -> str:
        """Why answers are less deep than they could be, as their note tells it; empty: they are not."""
        return _told_together(self._retriever.lacking, self._reranker.lacking if self._reranker is not None else "")

    async def find(self, asked: Asked, versions: tuple[int, ...], *, complete: bool) -> Found:
        """Return the page asked for. `complete`: all that the asker knows of is indexed. Raises: StoreError."""
        spaces = self._spaces()
        names = [name for name in asked.query.namespaces or spaces if name in spaces]
        kept = self.rankings.get(asked.subject, lambda kept: kept.versions == versions and kept.searched.model == self._model())
        found = kept.searched if kept is not None else await self._search(asked, [spaces[name] for name in names])

        def write() -> tuple[Searched, Written]:
            searched = found if kept is not None else self._pages.weighed(found, asked.periods)
            return searched, self._pages.write(asked, searched, names, complete=complete)

        searched, written = await to_thread.run_sync(write, limiter=self._limiter)
        if kept is None and not searched.note:
            self.rankings.put(asked.subject, _Ranking(versions, searched))
        # What is less deep than it could be now is not kept, nor what tells of namespaces that were not searched.
        lasting = complete and searched.note == self.lacking and not written.unknown
        return Found(answer=written.answer, model=searched.model, lacking=searched.note, lasting=lasting)

    async def _search(self, asked: Asked, spaces: Sequence[int]) -> Searched:
        texts = asked.query.texts
        searched = await self._retriever.search(texts, spaces, asked.query.filters)
        self._searched()
        if self._reranker is None:
            return searched
        ranking, note = await self._reranker.rerank(texts, searched.ranking)
        return replace(searched, ranking=ranking, note=_told_together(searched.note, note))


def _bytes(_: object, kept: _Ranking) -> int:
    ranking, views = kept.searched.ranking, kept.searched.views
    return RANKED_BYTES * (1 + len(ranking)) + PASSAGE_BYTES * sum(map(len, (*(found.passages for found in ranking), *views)))


def _told_together(*notes: str) -> str:
    return "; ".join(filter(None, notes))
