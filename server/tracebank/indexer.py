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
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import get_args

from anyio import CapacityLimiter, to_thread

from tracebank.embedding import TokenEncoder, Vectors
from tracebank.errors import (
    DataDirError,
    EmbeddingError,
    IndexFaultError,
    IndexUnreachableError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    TracebankError,
)
from tracebank.index import IndexedText, WordIndex
from tracebank.index.base import Index
from tracebank.meaning import Meaning
from tracebank.metrics import Metrics
from tracebank.precedence import Precedence
from tracebank.settings import IndexSettings
from tracebank.store import Store, outbox, vectors
from tracebank.store.outbox import Entry, Sink
from tracebank.work import KNOWN_CHUNKS, Work, load_work

log = logging.getLogger(__name__)

ALL_SINKS: tuple[Sink, ...] = get_args(Sink)
ENTRIES_READ = 256
FREE_BYTES_WANTED = 32 * 1_048_576
RETRY_S = 5.0
MAX_REBUILDS = 3


class Indexer:
    """A loop for each sink, started with `run`."""

    def __init__(
        self,
        *,
        store: Store,
        words: WordIndex,
        settings: IndexSettings,
        metrics: Metrics,
        precedence: Precedence,
        reach: Callable[[int], None] = lambda seq: None,
    ) -> None:
        """Take what it serves. `reach(seq)` is called in a thread before an index takes entries up to that number."""
        self._reach = reach
        self._store, self._words, self._settings, self._metrics = store, words, settings, metrics
        self.precedence = precedence
        self._meanings: dict[Sink, Meaning] = {}
        self._wake = {sink: asyncio.Event() for sink in ALL_SINKS}
        self._refilling = {sink: asyncio.Lock() for sink in ALL_SINKS}
        self._serving = {sink: asyncio.Lock() for sink in ALL_SINKS}
        self._hurry = asyncio.Event()
        self._waiters = 0
        self._done = asyncio.Condition()
        self._limiter = {sink: CapacityLimiter(1) for sink in ALL_SINKS}
        self._rebuilding: set[Sink] = set()
        self._suspects: set[tuple[Sink, int]] = set()
        self.rebuilds: dict[str, int] = dict.fromkeys(ALL_SINKS, 0)
        self.faults: dict[str, str] = {}
        # Why an index does not go on, until it does: the disk is full or fails, or its server does not answer.
        self.stalled: dict[Sink, str] = {}

    def attach(self, meaning: Meaning, sink: Sink = "vectors") -> None:
        """Hand over a model and its vector index, once both are open: its loop may begin."""
        self._meanings[sink] = meaning
        self.notify()

    def detach(self, sink: Sink) -> None:
        """Take them away again."""
        self._meanings.pop(sink, None)

    @property
    def meanings(self) -> Mapping[Sink, Meaning]:
        """The models and vector indexes that are handed over, by sink."""
        return self._meanings

    @asynccontextmanager
    async def exchanging(self) -> AsyncIterator[None]:
        """Let the next model's index become the one that is searched; the body tells the store and who searches.

        Neither of the two is written meanwhile.
        """
        async with self._serving["vectors"], self._serving["vectors_next"]:
            yield
            self._meanings["vectors"] = self._meanings.pop("vectors_next")
        self.notify()

    @asynccontextmanager
    async def paused(self, sink: Sink) -> AsyncIterator[None]:
        """Let an index not be written, while somebody else does something with it."""
        async with self._serving[sink]:
            yield

    async def run(self) -> None:
        """Serve all sinks until cancelled."""
        async with asyncio.TaskGroup() as group:
            for sink in ALL_SINKS:
                group.create_task(self._loop(sink))

    def notify(self) -> None:
        """Something was put into the outbox."""
        for event in self._wake.values():
            event.set()

    async def wait(self, sinks: Sequence[Sink], *, up_to: int | None, timeout_s: float | None, hurry: bool = True) -> bool:
        """Wait until the sinks are done with everything (`up_to`: with what is waited for, up to that entry).

        Returns whether they are; a sink that has given up is not waited for. With `hurry` traces no longer wait for company.
        """
        if not await self._pending([s for s in sinks if s not in self.faults], up_to):
            return True
        self._waiters += hurry
        if hurry:
            self._hurry.set()
        try:
            async with asyncio.timeout(timeout_s), self._done:
                while await self._pending([s for s in sinks if s not in self.faults], up_to):
                    await self._done.wait()
        except TimeoutError:
            return False
        finally:
            self._waiters -= hurry
            if not self._waiters:
                self._hurry.clear()
        return True

    async def _pending(self, sinks: Sequence[Sink], up_to: int | None) -> bool:
        return await self._store.read(lambda db: any(outbox.is_due(db, sink, up_to=up_to) for sink in sinks))

    async def rebuild(self, sink: Sink) -> None:
        """Empty an index and fill it again from the store, in the background. It is searched meanwhile.

        One that has been given up is in use again.
        """
        self.faults.pop(sink, None)
        async with self._refilling[sink]:
            await self._refill(sink)

    async def _refill(self, sink: Sink) -> None:
        # Not between two parts of a batch: its entries would be done, and what was written before not there any more.
        async with self._serving[sink]:
            index = self._index_of(sink)
            if index is not None:
                await to_thread.run_sync(index.clear, limiter=self._limiter[sink])
            queued = await self._store.write(lambda db: outbox.fill(db, sink))
            if index is not None:
                await to_thread.run_sync(index.mark_filled)
        log.warning("rebuilding the index of %s from the store: %d traces", sink, queued)
        self.notify()

    async def repair(self, sink: Sink, fault: IndexFaultError) -> None:
        """Rebuild an index that failed in a search, unless it only could not be reached.

        Many searches may have failed before one rebuild is through.
        """
        if isinstance(fault, IndexUnreachableError):
            return
        if sink not in self._rebuilding and sink not in self.faults:
            log.warning("the index of %s failed in a search: %s", sink, fault)
            await self._recover(sink, fault)

    def _index_of(self, sink: Sink) -> Index | None:
        meaning = self._meanings.get(sink)
        return self._words if sink == "words" else meaning.index if meaning else None

    async def _loop(self, sink: Sink) -> None:
        while True:
            self._wake[sink].clear()
            try:
                await self._turn(sink)
            except (StoreError, DataDirError, IndexUnreachableError) as error:
                log.warning("%s; the index of %s waits", error, sink)
                # Another program lets go of the store sooner or later; nothing else passes by itself.
                if not isinstance(error, StoreLockedError):
                    self.stalled[sink] = str(error)
                    await self._announce()
                await asyncio.sleep(RETRY_S)
            except Exception:
                # Whatever it is: an indexer that ends would leave everything unindexed until the next start.
                log.exception("the index of %s waits", sink)
                await asyncio.sleep(RETRY_S)

    async def _turn(self, sink: Sink) -> None:
        """Do what is due, or wait until something is."""
        await self._finish_refill(sink)
        try:
            async with self._serving[sink]:
                served = await self._serve(sink)
                self.stalled.pop(sink, None)
        except IndexUnreachableError:
            raise
        except IndexFaultError as error:
            await self._recover(sink, error)
            return
        if not served:
            if not self._refilling[sink].locked():
                self._rebuilding.discard(sink)
            await self._announce()
            await self._wake[sink].wait()
        if served < ENTRIES_READ:
            await self._linger()

    async def _finish_refill(self, sink: Sink) -> None:
        """Begin again where a full disk cut a rebuild short."""
        async with self._refilling[sink]:
            if (index := self._index_of(sink)) is not None and index.fresh and sink not in self.faults:
                await self._refill(sink)

    async def _linger(self) -> None:
        # New traces often come in company, and a commit of the index costs as much for many as for one.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.linger_ms / 1000):
                await self._hurry.wait()

    async def _announce(self) -> None:
        async with self._done:
            self._done.notify_all()

    async def _serve(self, sink: Sink) -> int:
        """Index the first batches of what is due; return how many entries were seen."""
        usable = self._index_of(sink) is not None and sink not in self.faults
        entries = await self._store.read(lambda db: outbox.due(db, sink, limit=ENTRIES_READ)) if usable else []
        index = self._index_words if sink == "words" else partial(self._index_vectors, sink)
        meaning = self._meanings.get(sink)  # none for words
        load = partial(
            load_work, entries=entries, max_chunks=self._settings.batch_chunks, model=meaning.model_id if meaning else None,
            tokens=meaning is not None and isinstance(meaning.embedding.model, TokenEncoder),
            # In small parts all of a large batch would take seconds, and what somebody waits for comes with the next one.
            known_chunks=1 if meaning and self.precedence.lately else KNOWN_CHUNKS,
        )  # fmt: skip
        if entries and meaning:
            # Where it finds no space Chroma never comes back.
            self._look_for_space()
        if entries:
            await to_thread.run_sync(self._reach, max(entry.seq for entry in entries), limiter=self._limiter[sink])
        for work in await self._store.read(load) if entries else []:
            with self._metrics.timed(f"index_{sink}"):
                await self._index_or_set_aside(sink, work, index)
            self.stalled.pop(sink, None)
            await self._announce()
            await self.precedence.give_way()
        return len(entries)

    async def _index_or_set_aside(self, sink: Sink, work: Work, index: Callable[[Work], Awaitable[None]]) -> None:
        """Index a batch; where it fails, trace by trace, and set aside the ones that fail alone."""
        try:
            await index(work)
        except IndexUnreachableError:
            raise
        except (EmbeddingError, IndexFaultError) as error:
            self._look_for_space()
            if len(work.entries) > 1:
                for entry in work.entries:
                    await self._index_or_set_aside(sink, replace(work, entries=[entry]), index)
                return
            await self._set_aside(sink, work.entries[0], error)

    def _look_for_space(self) -> None:
        """Raise StoreFullError where there is hardly any left."""
        if (free := shutil.disk_usage(self._store.path.parent).free) < FREE_BYTES_WANTED:
            left = f"{free // 1_048_576} MiB, {FREE_BYTES_WANTED // 1_048_576} are wanted: free some"
            raise StoreFullError(f"no space left beside {self._store.path} for the index ({left})")

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
        try:
            async with self._refilling[sink]:
                await self._refill(sink)
        except IndexUnreachableError:
            self.rebuilds[sink] -= 1
            raise

    async def _index_words(self, work: Work) -> None:
        await to_thread.run_sync(self._words.apply, work.namespace_id, work.upserts(), work.removed_rows, limiter=self._limiter["words"])
        seqs = [e.seq for e in work.entries]
        await self._store.write(lambda db: outbox.clear(db, seqs))

    async def _index_vectors(self, sink: Sink, work: Work) -> None:
        meaning = self._meanings[sink]
        model = meaning.model_id
        texts = work.texts()
        cached = await self._store.read(lambda db: _kept(db, meaning, set(texts)))
        missing = {text: h for h, (text, _) in texts.items() if h not in cached}
        self._metrics.count("chunk_vectors_cached", len(texts) - len(missing))
        self._metrics.count("chunk_vectors_missed", len(missing))
        fresh = dict(zip(missing.values(), await meaning.embedding.read_chunks(list(missing)), strict=True))
        embedded = cached | {h: found.vector for h, found in fresh.items()}
        upserts = work.indexed_texts(embedded)
        await self._write(sink, meaning, work, upserts)
        seqs, kept = [e.seq for e in work.entries], {h: found.vector for h, found in fresh.items()}
        tokens = {h: found.tokens.codes for h, found in fresh.items() if found.tokens is not None}

        def finish(db: sqlite3.Connection) -> None:
            vectors.put(db, model, kept)
            vectors.put_tokens(db, model, tokens)
            outbox.clear(db, seqs)

        await self._store.write(finish)

    async def _write(self, sink: Sink, meaning: Meaning, work: Work, upserts: Sequence[IndexedText]) -> None:
        """Write to the index of vectors in parts, and give way to questions between them. Raises: IndexFaultError."""
        removals: Sequence[bytes] = work.removed_texts
        while True:
            at_once = self.precedence.texts
            gone, removals = removals[:at_once], removals[at_once:]
            # First all that goes.
            part, upserts = ([], upserts) if removals else (upserts[:at_once], upserts[at_once:])
            await to_thread.run_sync(meaning.index.apply, work.namespace_id, part, gone, limiter=self._limiter[sink])
            if not (upserts or removals):
                return
            await self.precedence.give_way()


def _kept(db: sqlite3.Connection, meaning: Meaning, hashes: set[bytes]) -> dict[bytes, Vectors]:
    """Return the vectors that are kept; where the model tells of tokens, those whose tokens are kept, too."""
    found = vectors.get(db, meaning.model_id, hashes)
    with_tokens = isinstance(meaning.embedding.model, TokenEncoder)
    complete = vectors.with_tokens(db, meaning.model_id, found) if with_tokens else found.keys()
    return {h: vector for h, vector in found.items() if h in complete}
