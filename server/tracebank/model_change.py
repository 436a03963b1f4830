"""Another model takes the place of the present one, while the present one goes on answering.

The store has all texts, so the new model's index is filled from it, in the background and behind everything else; what
is written meanwhile goes into both. When the new index has everything, the two change places between two searches. How
far it has come is in the store: killed anywhere, it goes on at the next start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from pathlib import Path

from tracebank.embedding import EmbeddingService
from tracebank.errors import EmbeddingError, IndexFaultError, TracebankError
from tracebank.index import ChromaServer, ChromaVectorIndex, ServedVectorIndex
from tracebank.indexer import Indexer
from tracebank.meaning import Meaning
from tracebank.store import Store, models, outbox
from tracebank.token_basis import settle_tokens

log = logging.getLogger(__name__)


class ModelChange:
    """One change, begun in the store. `between_searches` lets nobody search, `serve` hands the new meaning to who does."""

    def __init__(
        self,
        *,
        store: Store,
        indexer: Indexer,
        embedding: EmbeddingService,
        model_id: int,
        directory: Path,
        server: ChromaServer | None,
        between_searches: Callable[[], AbstractAsyncContextManager[None]],
        serve: Callable[[Meaning], None],
    ) -> None:
        self._store, self._indexer, self.embedding, self._model_id, self._directory = store, indexer, embedding, model_id, directory
        self._server = server
        self._between_searches, self._serve = between_searches, serve

    async def run(self) -> None:
        """Bring the change to its end. Raises: whatever keeps it from that; the present model goes on, and nothing is left of this."""
        index: ChromaVectorIndex | None = None
        self.embedding.start()
        try:
            await self.embedding.loaded()
            index = await open_vectors(self._directory, self.embedding.name, self._server)
            if index.fresh:
                await self._store.write(lambda db: outbox.fill(db, "vectors_next"))
                await asyncio.to_thread(index.mark_filled)
            meaning = Meaning(index, self.embedding, self._model_id)
            await settle_tokens(self._store, meaning, "vectors_next", _nothing)
            self._indexer.attach(meaning, "vectors_next")
            await self._indexer.wait(("vectors_next",), up_to=None, timeout_s=None, hurry=False)
            await self._check()
            await self._exchange(meaning)
        except BaseException as error:
            self._indexer.detach("vectors_next")
            try:
                # Cancelled, it goes on at the next start.
                if isinstance(error, Exception):
                    await self._store.write(models.drop_next)
            finally:
                await self.embedding.close()
                if index is not None:
                    index.close()
            raise

    async def _check(self) -> None:
        """Look whether the new index has what the present one has. Raises: IndexFaultError, EmbeddingError."""
        if (fault := self._indexer.faults.get("vectors_next")) is not None:
            raise IndexFaultError(f"the index of {self.embedding.name} cannot be filled: {fault}")
        missing, before = await self._store.read(lambda db: (outbox.aside(db, "vectors_next"), outbox.aside(db, "vectors")))
        if missing > before:
            raise EmbeddingError(f"{self.embedding.name} cannot embed {missing} of the traces, the present model all but {before}")

    async def _exchange(self, meaning: Meaning) -> None:
        async with self._indexer.exchanging(), self._between_searches():
            await self._store.write(lambda db: models.serve(db, meaning.model_id))
            self._serve(meaning)
        log.warning("the vectors of %s answer from now on", meaning.embedding.name)


async def _nothing() -> None:
    """Of questions a model that has not answered yet knows none."""


async def open_vectors(directory: Path, name: str, server: ChromaServer | None = None) -> ChromaVectorIndex:
    """Open the index of a model's vectors, in a thread; cancelled, it is closed again before this returns."""
    opened = partial(ServedVectorIndex, server=server) if server is not None else ChromaVectorIndex
    opening = asyncio.ensure_future(asyncio.to_thread(opened, directory, model=name))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        # The thread goes on; the directory is ours until it has ended and its index is closed.
        with suppress(TracebankError):
            (await opening).close()
        raise
