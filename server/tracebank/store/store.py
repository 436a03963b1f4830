"""The store as the engine sees it: one writer thread, readers beside it, and the file's own figures."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

from tracebank.store import traces
from tracebank.store.opening import connect, open_store, translate, unopened
from tracebank.store.versions import Versions
from tracebank.store.writer import Writer

Result = TypeVar("Result")
READERS = 4


class Store:
    """Opened with `Store.open(path)`, closed with `close()`. `write` is durable when it returns."""

    def __init__(self, path: Path, writer: Writer, readers: queue.LifoQueue[sqlite3.Connection], versions: Versions) -> None:
        self.path, self.versions = path, versions
        self._writer, self._readers = writer, readers
        self._limiter = CapacityLimiter(READERS)

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open or create the store. Raises: StoreError and its kinds, DataDirError."""
        try:
            versions = Versions(db := open_store(path))
            writer = Writer(db, path, committed=versions.update)
            readers: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue()
            for _ in range(READERS):
                readers.put(connect(path, read_only=True))
        except sqlite3.Error as error:
            raise unopened(error, path) from error
        return cls(path, writer, readers, versions)

    def close(self) -> None:
        """Finish the writes that were submitted and close the file."""
        self._writer.close()
        for reader in [self._readers.get() for _ in range(READERS)]:
            reader.close()
            # Who comes too late gets a closed connection, and so an error: it must not wait for ever.
            self._readers.put(reader)

    async def write(self, action: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run `action` in the writer's thread and return its result once it is on disk.

        An action that has begun is not undone by cancelling the caller. Raises: StoreError, and what `action` raises.
        """
        return await asyncio.wrap_future(self._writer.submit(action))

    async def read(self, action: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run `action` on a reader's connection, in a thread. It sees everything written before. Raises: StoreError."""
        return await to_thread.run_sync(self.read_now, action, limiter=self._limiter)

    def read_now(self, action: Callable[[sqlite3.Connection], Result]) -> Result:
        """The same, in the caller's thread. All that `action` reads is of one moment; it must not read through the store again."""
        db = self._readers.get()
        try:
            db.execute("BEGIN")
            return action(db)
        except sqlite3.Error as error:
            raise translate(error, self.path) from error
        finally:
            with contextlib.suppress(sqlite3.Error):  # closed meanwhile
                if db.in_transaction:
                    db.execute("ROLLBACK")
            self._readers.put(db)

    def rest(self) -> None:
        """Let go of the pages that readers at rest hold, 2 MB each; the next reads fetch them again."""
        idle: list[sqlite3.Connection] = []
        with contextlib.suppress(queue.Empty):
            while True:
                idle.append(self._readers.get_nowait())
        for db in idle:
            with contextlib.suppress(sqlite3.Error):  # closed meanwhile
                db.execute("PRAGMA shrink_memory")
            self._readers.put(db)

    async def shrink(self) -> bool:
        """Move what the write-ahead log holds into the file and empty the log, so that nothing forgotten stays in it.

        Returns False where somebody read for so long that it could not be emptied. Raises: StoreError.
        """
        return await to_thread.run_sync(self._checkpoint, limiter=self._limiter)

    def _checkpoint(self) -> bool:
        db = connect(self.path)
        try:
            busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            raise translate(error, self.path) from error
        finally:
            db.close()
        return not busy

    def figures(self, db: sqlite3.Connection) -> dict[str, int | dict[str, int]]:
        """Return counts and bytes for `stats`."""
        counts = {
            table: int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]) for table in ("traces", "lessons", "chunks", "embeddings")
        }
        size = sum(p.stat().st_size for p in self.path.parent.glob(self.path.name + "*"))
        return {**counts, "bytes": size, "commits": self._writer.commits, "namespaces": traces.namespaces(db)}
