"""Deleting for good: out of the store and what is kept of answers, and off the disk out of every index that may keep some of it.

A file says that it is due and in which namespaces, from before the deletion until nothing is left: a kill, a model that is still
loading or one that is being prepared must not keep what was forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from functools import partial
from pathlib import Path

from anyio import to_thread

from tracebank.background import Background
from tracebank.errors import IndexFaultError, StoreError
from tracebank.gate import Gate
from tracebank.index import VectorIndex, WordIndex, delete_set_aside
from tracebank.indexer import Indexer
from tracebank.lasting import Lasting
from tracebank.rewriting import rewrite_words
from tracebank.semantics import Semantics
from tracebank.store import Store, traces
from tracebank.store.outbox import SINKS, Sink

log = logging.getLogger(__name__)

DUE_NAME = "scrub-due"
# How long somebody who forgets waits for the indexes; after that it goes on in the background.
TIMEOUT_S = 60.0
AGAIN_S = 60.0
# Above every number of the outbox: all that somebody waits for, but no bulk work.
EVERYTHING = 2**62
# The index of vectors that is searched, and with that of a model which shall take the place of the present one.
SEARCHED: Sequence[Sink] = ("vectors",)
ALL: Sequence[Sink] = ("vectors", "vectors_next")
# The words of a namespace are written anew while its caller waits, a second for ten thousand chunks; of a larger one afterwards.
AT_ONCE_CHUNKS = 20_000


class Eraser:
    """Deletes, and cleans the indexes in `directory`. It belongs to one event loop."""

    def __init__(
        self,
        *,
        directory: Path,
        store: Store,
        words: WordIndex,
        indexer: Indexer,
        semantics: Semantics,
        searching: Gate,
        background: Background,
        forget_answers: Callable[[Collection[int]], Awaitable[None]],
    ) -> None:
        """Take what it cleans. `forget_answers(spaces)` drops what is kept of answers from these namespaces."""
        self._directory, self._due = directory, directory / DUE_NAME
        self._store, self._words, self._indexer, self._semantics = store, words, indexer, semantics
        self._searching, self._background, self._forget_answers = searching, background, forget_answers
        self._forgetting = Lasting()
        # Whoever deletes marks in the store's thread.
        self._marking, self._marks = threading.Lock(), 0
        self._deletions = itertools.count(1)
        # Those that are under way: until what is kept of answers is gone, too, another one must not say that nothing is due.
        self._deleting = 0
        self._later: asyncio.Task[None] | None = None
        # The namespaces whose words have to be written anew, with the deletion that was the last there.
        self._stale: dict[int, int] = {}
        self._rewriting = asyncio.Lock()

    def start(self, spaces: Collection[int]) -> None:
        """Take up what was due when the last engine ended; `spaces` are the namespaces that there are."""
        if self._due.exists():
            self._stale = dict.fromkeys(self._marked(spaces), 0)
            self._erase_later()

    def _marked(self, spaces: Collection[int]) -> Collection[int]:
        known = {str(space).encode(): space for space in spaces}
        try:
            return {known[mark] for mark in self._due.read_bytes().split()}
        except (KeyError, OSError):
            # Whose a damaged mark was nobody knows.
            return spaces

    async def close(self) -> None:
        """Wait until all that was begun is deleted."""
        await self._forgetting.settled()

    async def forget(self, choose: Callable[[sqlite3.Connection], Sequence[int]]) -> int:
        """Delete the traces that `choose` returns in the transaction that deletes them. Returns how many. Raises: StoreError."""
        # Whoever gives up waiting does not undo it: what is gone from the store must not stay anywhere else.
        return await self._forgetting.run(self._forget(choose))

    async def _forget(self, choose: Callable[[sqlite3.Connection], Sequence[int]]) -> int:
        def write(db: sqlite3.Connection) -> tuple[int, set[int]]:
            rows = choose(db)
            spaces = set(traces.spaces_of(db, rows))
            if rows:
                self._mark(spaces)
            return traces.delete(db, rows), spaces

        self._deleting += 1
        try:
            deleted, spaces = await self._store.write(write)
            if deleted:
                self._stale |= dict.fromkeys(spaces, next(self._deletions))
                self._indexer.notify()
                await self._forget_answers(spaces)
        finally:
            self._deleting -= 1
        if deleted:
            await self._erase()
        return deleted

    async def empty_log(self) -> None:
        """Take what was deleted without a trace of its own out of the store's log, now or as soon as nobody reads any more."""
        if not await self._shrunk():
            try:
                await to_thread.run_sync(self._mark, ())
            except StoreError as error:
                # It is deleted all the same; who ends the engine cleanly empties the log.
                log.warning("what was forgotten is not erased yet: %s", error)
            self._erase_later()

    def _mark(self, spaces: Iterable[int]) -> None:
        """Write down that something is about to be deleted in these namespaces. Any thread may say so. Raises: StoreError."""
        try:
            with self._marking, self._due.open("a") as file:
                self._marks += 1
                # What a full disk has cut short ends before it.
                file.writelines(f"\n{space}\n" for space in spaces)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(f"{self._due} cannot be written: {error.strerror}; nothing was deleted") from error

    async def _erase(self) -> None:
        """Take what was deleted out of the store's log and the indexes, as far as they are open; the rest follows in the background."""
        marks = self._marks
        emptied = await self._shrunk()
        await to_thread.run_sync(delete_set_aside, self._directory)
        rewritten, erased = await asyncio.gather(self._rewritten(at_once=True), self._erased(SEARCHED))
        if not (emptied and rewritten and erased and await self._unmarked(marks, SEARCHED)):
            self._erase_later()

    def _erase_later(self) -> None:
        if self._later is None or self._later.done():
            self._later = self._background.spawn("erasing", self._until_erased)

    async def _until_erased(self) -> None:
        while not await self._erased_now():  # noqa: ASYNC110 - what keeps it from being erased tells nobody
            await asyncio.sleep(AGAIN_S)

    async def _erased_now(self) -> bool:
        marks = self._marks
        try:
            done = [await self._shrunk(), await self._rewritten()]
            await self._semantics.warm.wait()
            return await self._erased(ALL) and all(done) and await self._unmarked(marks, ALL)
        except StoreError as error:
            log.warning("what was forgotten is not erased yet: %s", error)
            return False

    async def _shrunk(self) -> bool:
        try:
            return await self._store.shrink()
        except StoreError as error:
            log.warning("what was forgotten is not erased yet: %s", error)
            return False

    async def _rewritten(self, *, at_once: bool = False) -> bool:
        """Write the words of every namespace anew that something was deleted of; `at_once` leaves out large ones.

        Returns whether all are written.
        """
        if "words" in self._indexer.faults or not await self._indexer.wait(("words",), up_to=EVERYTHING, timeout_s=TIMEOUT_S):
            return False
        async with self._rewriting:
            for space, deletion in list(self._stale.items()):
                if at_once and await to_thread.run_sync(self._words.count, space) > AT_ONCE_CHUNKS:
                    continue
                # Where something else was deleted meanwhile the copy may have it.
                if await rewrite_words(self._store, self._words, self._indexer, space) and self._stale[space] == deletion:
                    del self._stale[space]
        return not self._stale

    async def _unmarked(self, marks: int, sinks: Sequence[Sink]) -> bool:
        """Say that nothing is due any more. Not so where more was deleted since, or where an index was left out or is yet to come."""
        if self._stale or self._deleting:
            return False
        left_out = self._semantics.change is not None and "vectors_next" not in self._indexer.meanings.keys() & set(sinks)
        return not left_out and await to_thread.run_sync(self._unmark, marks)

    def _unmark(self, marks: int) -> bool:
        with self._marking:
            if marks != self._marks:
                return False
            with contextlib.suppress(OSError):
                self._due.unlink(missing_ok=True)
            return True

    async def _erased(self, sinks: Sequence[Sink]) -> bool:
        """Clean those of these indexes that are open. Returns whether that was possible."""
        if not self._semantics.warm.is_set():
            return False
        meanings = self._indexer.meanings
        if "vectors" not in meanings:
            return await self._emptied()
        return all([await self._scrubbed(sink, meanings[sink].index) for sink in sinks if sink in meanings])

    async def _scrubbed(self, sink: Sink, index: VectorIndex) -> bool:
        up_to = EVERYTHING if sink in SINKS else None
        if sink in self._indexer.faults or not await self._indexer.wait((sink,), up_to=up_to, timeout_s=TIMEOUT_S):
            return False
        async with self._indexer.paused(sink), self._searching.closed():
            return await self._well(index.scrub)

    async def _emptied(self) -> bool:
        """Empty the index of a model that cannot be loaded: nobody would delete from it. It is filled again from the store."""
        index = self._semantics.index
        return index is not None and await self._well(index.clear) and await self._well(partial(delete_set_aside, self._directory))

    async def _well(self, action: Callable[[], object]) -> bool:
        try:
            await to_thread.run_sync(action)
        except (IndexFaultError, OSError) as error:
            log.warning("what was forgotten is not erased yet: %s", error)
            return False
        return True
