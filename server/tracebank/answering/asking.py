"""The asking side of an engine: requests are read, answered from what is kept or found, remembered, and prepared for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from tracebank import __version__
from tracebank.answering.answers import Answers
from tracebank.answering.finder import Finder
from tracebank.answering.freshness import Freshness, Waiting
from tracebank.answering.history import History
from tracebank.answering.keeping import Keeper
from tracebank.answering.pages import Retrieved
from tracebank.answering.requests import Asked, Requests
from tracebank.answering.warming import Warmer
from tracebank.background import Background
from tracebank.embedding import EmbeddingService
from tracebank.idle import Idle
from tracebank.indexer import Indexer
from tracebank.precedence import Precedence
from tracebank.records import Limits
from tracebank.retrieval import Retriever
from tracebank.settings import Settings
from tracebank.store import Store, outbox
from tracebank.store.schema import MIGRATIONS

CACHE_NAME = "cache"


class Asking:
    """Owns the caches, on disk too, and what prepares answers. It belongs to one event loop."""

    def __init__(
        self,
        *,
        settings: Settings,
        store: Store,
        indexer: Indexer,
        retriever: Retriever,
        finder: Finder,
        spaces: Callable[[], Mapping[str, int]],
        embedding: Callable[[], EmbeddingService],
        warm: Callable[[], Awaitable[object]],
        idle: Idle,
        limits: Limits,
        clock: Callable[[], float],
        precedence: Precedence,
    ) -> None:
        """Take what it needs. `warm()` waits until meaning takes part in search, or it is known that it will not."""
        cache = settings.cache
        self._settings, self._store, self._indexer, self._retriever, self._warm = settings, store, indexer, retriever, warm
        self._embedding = embedding

        def now_ms() -> int:
            return round(clock() * 1000)

        self._requests = Requests(limits=limits, defaults=settings.retrieval, now_ms=now_ms)
        self._freshness = Freshness(indexer=indexer, deep=lambda: retriever.deep, timeout_s=settings.retrieval.wait_ms / 1000)
        self.answers = Answers(
            finder=finder, versions=store.versions, spaces=spaces, models=self._models, settings=cache, precedence=precedence
        )
        self.history = History(now_ms=now_ms)
        self.warmer = Warmer(
            answers=self.answers, history=self.history, idle=idle, quiet_s=cache.idle_s, ready=self.indexed, limit=cache.warm
        )
        self.keeper = Keeper(
            directory=settings.data_dir / CACHE_NAME, answers=self.answers, history=self.history, embedding=embedding, idle=idle,
            quiet_s=cache.idle_s, about=self._circumstances(), max_bytes=cache.disk_bytes, clock=clock,
        )  # fmt: skip

    async def start(self, background: Background) -> None:
        """Take back what survived, and begin to prepare and to save in idle time."""
        self._freshness.found(await self._store.read(outbox.last_seq))
        await self.keeper.restore()
        background.spawn("warmer", self.warmer.run)
        background.spawn("cache", self.keeper.run)

    async def close(self) -> None:
        """Write down what shall survive. The background tasks have ended."""
        await self.keeper.save()

    async def answer(self, raw: Mapping[str, Any], namespace: str, who: Waiting) -> Retrieved:
        """Return the answer to a request; who asks finds what they wrote last. Raises: InputError, StoreError."""
        asked = self._requests.read(raw, namespace)
        answer = await self.answers.answer(asked, complete=await self._freshness.settle(who))
        self.history.used(asked)
        self.keeper.touch()
        return answer

    def wrote(self, who: Waiting, seq: int | None) -> None:
        """Let searches wait for an entry of the outbox."""
        self._freshness.wrote(who, seq)

    async def forget(self, matches: Callable[[Asked], bool]) -> int:
        """Forget what was asked and answered, in memory and on disk. Returns how many questions. Raises: DataDirError."""
        self._requests.clear()
        return await self.keeper.forget(matches)

    def report(self) -> dict[str, Any]:
        """Return the figures for `stats`."""
        return {**self.answers.report(), "warmer": self.warmer.report(), "disk": self.keeper.report()}

    async def indexed(self) -> None:
        """Wait until everything that is stored can be found."""
        await self._warm()
        await self._indexer.wait(self._retriever.sinks, up_to=None, timeout_s=None, hurry=False)

    def _models(self) -> tuple[str, ...]:
        """Return the model whose answers are served, and while that loads words alone, too."""
        embedding = self._embedding()
        return (embedding.name,) if self._retriever.deep else ("",) if embedding.error else (embedding.name, "")

    def _circumstances(self) -> dict[str, Any]:
        """Return what changes answers, and is neither in the store nor said by the answers themselves."""
        sections = ("embedding", "index", "retrieval", "learning", "tokens")
        about = {name: getattr(self._settings, name).model_dump(mode="json") for name in sections}
        return {"version": __version__, "schema": len(MIGRATIONS), **about}
