"""One thread that writes, so that concurrent writes share a commit (and its fsync)."""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tracebank.errors import StoreError
from tracebank.store.opening import translate

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Write = Callable[[sqlite3.Connection], Result]

# Bounds how long the first of a batch waits for its commit.
MAX_BATCH = 256


@dataclass(slots=True)
class _Job:
    write: Callable[[sqlite3.Connection], Any]
    done: Future[Any]
    result: Any = None
    error: BaseException | None = None


class Writer:
    """Runs writes one after the other in its thread; those that wait together are committed together.

    Each write has a savepoint of its own: one that fails is undone alone, and the others are kept.
    """

    def __init__(self, db: sqlite3.Connection, path: Path, *, committed: Callable[[sqlite3.Connection], None] = lambda db: None) -> None:
        """Begin. `committed(connection)` is called in the thread after each commit, before its callers hear of it."""
        self._db, self._path, self._committed = db, path, committed
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self.commits = 0
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def submit(self, write: Write[Result]) -> Future[Result]:
        """Queue a write. Its future is settled once the write is on disk, or has failed and left nothing.

        Raises: StoreError after `close`.
        """
        done: Future[Result] = Future()
        with self._lock:
            if self._closed:
                raise StoreError(f"{self._path} is closed")
            self._queue.put(_Job(write, done))
        return done

    def close(self) -> None:
        """Finish what was submitted, then end the thread and close the connection."""
        with self._lock:
            self._closed = True
            self._queue.put(None)
        self._thread.join()
        self._db.close()

    def _run(self) -> None:
        closing = False
        while not closing:
            first = self._queue.get()
            batch, closing = self._gather(first)
            if batch:
                self._commit_together(batch)

    def _gather(self, job: _Job | None) -> tuple[list[_Job], bool]:
        batch: list[_Job] = []
        while job is not None:
            if job.done.set_running_or_notify_cancel():
                batch.append(job)
            if len(batch) >= MAX_BATCH:
                return batch, False
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _commit_together(self, batch: Sequence[_Job]) -> None:
        try:
            self._transaction(batch)
        except Exception as error:  # the thread must go on, and every caller must hear of it
            if self._db.in_transaction:
                self._db.rollback()
            if len(batch) == 1:
                batch[0].error = self._own(error)
            else:
                # One write can take the whole transaction down (a full disk does): let each stand for itself.
                for job in batch:
                    self._commit_together([job])
                return
        else:
            self._tell_of_commit()
        for job in batch:
            if job.error is not None:
                job.done.set_exception(job.error)
            else:
                job.done.set_result(job.result)

    def _transaction(self, batch: Sequence[_Job]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        for job in batch:
            job.error = None
            self._db.execute("SAVEPOINT job")
            try:
                job.result = job.write(self._db)
            except Exception as error:  # whatever the write raises belongs to its caller, and the thread goes on
                if not self._db.in_transaction:
                    raise
                self._db.execute("ROLLBACK TO job")
                job.error = self._own(error)
            self._db.execute("RELEASE job")
        self._db.execute("COMMIT")
        self.commits += 1

    def _tell_of_commit(self) -> None:
        try:
            self._committed(self._db)
        except Exception:  # what is committed is committed: nobody may be told otherwise, or have it run again
            log.exception("a commit could not be told of")

    def _own(self, error: Exception) -> Exception:
        if not isinstance(error, sqlite3.Error):
            return error
        own = translate(error, self._path)
        own.__cause__ = error
        return own
