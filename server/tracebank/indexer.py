"""From the outbox into the indexes: chunks, embeddings, Chroma and tantivy, cleared.

Each index (a sink) has a loop of its own, so words are searchable at once and meaning follows when the model has
been through. A loop reads what is due, writes it to its index, and clears it from the outbox afterwards: killed
anywhere in between, it does the same work once more with the same result.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from anyio import CapacityLimiter, to_thread

from tracebank.chunking import text_hash
from tracebank.embedding import EmbeddingService, TokenEncoder, Vectors
from tracebank.errors import DataDirError, EmbeddingError, IndexFaultError, StoreError, StoreFullError, TracebankError
from tracebank.index import IndexedTrace, Removal, VectorIndex, WordIndex
from tracebank.index.base import Index
from tracebank.metrics import Metrics
from tracebank.settings import IndexSettings
from tracebank.store import Store, StoredTrace, outbox, traces, vectors
from tracebank.store.outbox import Entry, Sink

log = logging.getLogger(__name__)

ENTRIES_READ = 256
FREE_BYTES_WANTED = 32 * 1_048_576
RETRY_S = 5.0
MAX_REBUILDS = 3


@dataclass(frozen=True, slots=True)
class _Work:
    """Entries of one namespace with what the store has of them."""

    namespace_id: int
    entries: Sequence[Entry]
    stored: Mapping[int, StoredTrace]
    spans: Mapping[int, list[tuple[str, int, int, int]]]

    @property
    def removals(self) -> list[Removal]:
        return [Removal(row=e.row, stale_chunks=e.stale_chunks) for e in self.entries if e.row not in self.stored]

    def upserts(self, embedded: Mapping[str, Vectors] | None) -> list[IndexedTrace]:
        return [self._indexed(e, self.stored[e.row], embedded) for e in self.entries if e.row in self.stored]

    def _indexed(self, entry: Entry, stored: StoredTrace, embedded: Mapping[str, Vectors] | None) -> IndexedTrace:
        trace = stored.trace
        texts = self.texts(entry.row)
        return IndexedTrace(
            row=entry.row, trace_id=trace.trace_id, text=trace.text, chunks=tuple(texts), outcome=str(trace.outcome), tags=trace.tags,
            occurred_at_ms=trace.occurred_at_ms or 0, stale_chunks=entry.stale_chunks,
            vectors=None if embedded is None else np.stack([embedded[text] for text in texts]),
        )  # fmt: skip

    def texts(self, row: int) -> list[str]:
        return [part_text(self.stored[row], part, item)[start:end] for part, item, start, end in self.spans.get(row, ())]


def part_text(stored: StoredTrace, part: str, item: int) -> str:
    """Return the text that a chunk's span counts its characters in."""
    trace = stored.trace
    return trace.lessons[item].text if part == "lesson" else trace.task if part == "task" else trace.content


class Indexer:
    """Two loops, started with `run`. `changed(namespace_id)` is called after each batch that can be found."""

    def __init__(
        self,
        *,
        store: Store,
        words: WordIndex,
        embedding: EmbeddingService,
        settings: IndexSettings,
        metrics: Metrics,
        changed: Callable[[int], None],
    ) -> None:
        self._store, self._words, self._embedding, self._settings = store, words, embedding, settings
        self._metrics, self._changed = metrics, changed
        self._vectors: VectorIndex | None = None
        self._wake = {"words": asyncio.Event(), "vectors": asyncio.Event()}
        self._refilling = {"words": asyncio.Lock(), "vectors": asyncio.Lock()}
        self._hurry = asyncio.Event()
        self._waiters = 0
        self._done = asyncio.Condition()
        self._model_id: int | None = None
        self._limiter = {"words": CapacityLimiter(1), "vectors": CapacityLimiter(1)}
        self._rebuilding: set[Sink] = set()
        self._suspects: set[tuple[Sink, int]] = set()
        self.rebuilds = {"words": 0, "vectors": 0}
        self.faults: dict[str, str] = {}

    def attach(self, index: VectorIndex, model_id: int) -> None:
        """Hand over the vector index, once it is open: its loop may begin."""
        self._vectors, self._model_id = index, model_id
        self.notify()

    async def run(self) -> None:
        """Serve both sinks until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._loop("words", self._index_words))
            group.create_task(self._loop("vectors", self._index_vectors))

    def notify(self) -> None:
        """Something was put into the outbox."""
        for event in self._wake.values():
            event.set()

    async def wait(self, sinks: Sequence[Sink], *, up_to: int | None, timeout_s: float | None) -> bool:
        """Wait until the sinks are done with everything (`up_to`: with what is waited for, up to that entry).

        Returns whether they are; a sink that has given up is not waited for.
        """
        if not await self._pending([s for s in sinks if s not in self.faults], up_to):
            return True
        self._waiters += 1
        self._hurry.set()
        try:
            async with asyncio.timeout(timeout_s), self._done:
                while await self._pending([s for s in sinks if s not in self.faults], up_to):
                    await self._done.wait()
        except TimeoutError:
            return False
        finally:
            self._waiters -= 1
            if not self._waiters:
                self._hurry.clear()
        return True

    async def _pending(self, sinks: Sequence[Sink], up_to: int | None) -> bool:
        return await self._store.read(lambda db: any(outbox.waiting(db, sink, up_to=up_to) for sink in sinks))

    async def rebuild(self, sink: Sink) -> None:
        """Empty an index and fill it again from the store, in the background. It is searched meanwhile.

        One that has been given up is in use again.
        """
        self.faults.pop(sink, None)
        async with self._refilling[sink]:
            await self._refill(sink)

    async def _refill(self, sink: Sink) -> None:
        index = self._index_of(sink)
        if index is not None:
            await to_thread.run_sync(index.clear, limiter=self._limiter[sink])
        # A batch that was written before has given up the limiter and, in the same step, its entries: they are queued anew.
        queued = await self._store.write(lambda db: outbox.fill(db, sink))
        if index is not None:
            index.mark_filled()
        log.warning("rebuilding the index of %s from the store: %d traces", sink, queued)
        self.notify()

    async def repair(self, sink: Sink, fault: IndexFaultError) -> None:
        """Rebuild an index that failed in a search. Many searches may have failed before one rebuild is through."""
        if sink not in self._rebuilding and sink not in self.faults:
            log.warning("the index of %s failed in a search: %s", sink, fault)
            await self._recover(sink, fault)

    def _index_of(self, sink: Sink) -> Index | None:
        return self._words if sink == "words" else self._vectors

    async def _loop(self, sink: Sink, index: Callable[[_Work], Awaitable[None]]) -> None:
        while True:
            self._wake[sink].clear()
            try:
                await self._turn(sink, index)
            except (StoreError, DataDirError) as error:
                log.warning("%s; the index of %s waits", error, sink)
                await asyncio.sleep(RETRY_S)

    async def _turn(self, sink: Sink, index: Callable[[_Work], Awaitable[None]]) -> None:
        """Do what is due, or wait until something is."""
        await self._finish_refill(sink)
        usable = self._index_of(sink) is not None and sink not in self.faults
        entries = await self._store.read(lambda db: outbox.due(db, sink, limit=ENTRIES_READ)) if usable else []
        if not entries:
            if not self._refilling[sink].locked():
                self._rebuilding.discard(sink)
            await self._announce()
            await self._wake[sink].wait()
            await self._linger()
            return
        try:
            await self._serve(sink, entries, index)
            if len(entries) < ENTRIES_READ:
                await self._linger()
        except IndexFaultError as error:
            await self._recover(sink, error)

    async def _finish_refill(self, sink: Sink) -> None:
        """Begin again where a full disk cut a rebuild short."""
        async with self._refilling[sink]:
            if (index := self._index_of(sink)) is not None and index.fresh and sink not in self.faults:
                await self._refill(sink)

    async def _linger(self) -> None:
        # New traces often come in company, and a commit of the index costs as much for many as for one.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), self._settings.linger_ms / 1000)

    async def _announce(self) -> None:
        async with self._done:
            self._done.notify_all()

    async def _serve(self, sink: Sink, entries: Sequence[Entry], index: Callable[[_Work], Awaitable[None]]) -> None:
        for work in await self._store.read(lambda db: self._load(db, entries)):
            with self._metrics.timed(f"index_{sink}"):
                await self._index_or_set_aside(sink, work, index)
            self._changed(work.namespace_id)
            await self._announce()

    def _load(self, db: sqlite3.Connection, entries: Sequence[Entry]) -> list[_Work]:
        """Return the first entries, at most a batch of chunks and at least one trace, by namespace."""
        spans = vectors.spans(db, [e.row for e in entries])
        taken: list[Entry] = []
        chunks = 0
        for entry in entries:
            chunks += len(spans.get(entry.row, ()))
            if taken and chunks > self._settings.batch_chunks:
                break
            taken.append(entry)
        stored = traces.load(db, [e.row for e in taken])
        taken.sort(key=lambda e: e.namespace_id)
        return [_Work(space, list(group), stored, spans) for space, group in groupby(taken, key=lambda e: e.namespace_id)]

    async def _index_or_set_aside(self, sink: Sink, work: _Work, index: Callable[[_Work], Awaitable[None]]) -> None:
        """Index a batch; where it fails, trace by trace, and set aside the ones that fail alone."""
        try:
            await index(work)
        except (EmbeddingError, IndexFaultError) as error:
            if shutil.disk_usage(self._store.path.parent).free < FREE_BYTES_WANTED:
                raise StoreFullError(f"no space left beside {self._store.path} for the index") from error
            if len(work.entries) > 1:
                for entry in work.entries:
                    await self._index_or_set_aside(sink, replace(work, entries=[entry]), index)
                return
            await self._set_aside(sink, work.entries[0], error)

    async def _set_aside(self, sink: Sink, entry: Entry, error: TracebankError) -> None:
        """Keep a trace that cannot be indexed out of everybody's way. Raises: IndexFaultError where it is not its fault."""
        suspect = (sink, entry.row)
        if isinstance(error, IndexFaultError) and suspect not in self._suspects:
            # The index is to blame first. What fails in a new one again is the trace's own fault.
            self._suspects.add(suspect)
            raise error
        message = str(error)
        log.warning("trace in row %d is set aside: %s", entry.row, message)
        await self._store.write(lambda db: outbox.set_aside(db, entry.seq, message))

    async def _recover(self, sink: Sink, error: IndexFaultError) -> None:
        """Rebuild a broken index; after too many times give up on it."""
        if self.rebuilds[sink] >= MAX_REBUILDS:
            self.faults[sink] = str(error)
            log.error("the index of %s is out of use: %s", sink, error)
            await self._announce()
            return
        self.rebuilds[sink] += 1
        self._rebuilding.add(sink)
        log.warning("the index of %s is broken: %s", sink, error)
        async with self._refilling[sink]:
            await self._refill(sink)

    async def _index_words(self, work: _Work) -> None:
        await to_thread.run_sync(self._words.apply, work.namespace_id, work.upserts(None), work.removals, limiter=self._limiter["words"])
        seqs = [e.seq for e in work.entries]
        await self._store.write(lambda db: outbox.clear(db, seqs))

    async def _index_vectors(self, work: _Work) -> None:
        assert self._vectors is not None
        assert self._model_id is not None
        model = self._model_id
        texts = list(dict.fromkeys(text for e in work.entries if e.row in work.stored for text in work.texts(e.row)))
        hashes = {text: text_hash(text) for text in texts}
        cached = await self._store.read(lambda db: self._kept(db, model, set(hashes.values())))
        missing = [text for text in texts if hashes[text] not in cached]
        self._metrics.count("chunk_vectors_cached", len(texts) - len(missing))
        fresh = dict(zip(missing, await self._embedding.read_chunks(missing), strict=True))
        embedded = {text: fresh[text].vector if text in fresh else cached[hashes[text]] for text in texts}
        await to_thread.run_sync(
            self._vectors.apply, work.namespace_id, work.upserts(embedded), work.removals, limiter=self._limiter["vectors"]
        )
        seqs, kept = [e.seq for e in work.entries], {hashes[text]: found.vector for text, found in fresh.items()}
        tokens = {hashes[text]: found.tokens.codes for text, found in fresh.items() if found.tokens is not None}

        def finish(db: sqlite3.Connection) -> None:
            vectors.put(db, model, kept)
            vectors.put_tokens(db, model, tokens)
            outbox.clear(db, seqs)

        await self._store.write(finish)

    def _kept(self, db: sqlite3.Connection, model: int, hashes: set[bytes]) -> dict[bytes, Vectors]:
        """Return the vectors that are kept; where the model tells of tokens, those whose tokens are kept, too."""
        found = vectors.get(db, model, hashes)
        complete = vectors.with_tokens(db, model, found) if isinstance(self._embedding.model, TokenEncoder) else found.keys()
        return {h: vector for h, vector in found.items() if h in complete}
