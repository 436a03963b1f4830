"""Which store the indexes, and what is kept of answers, are of.

A store that was put back from a copy, or whose former one was moved away, must not meet what was made of the other: it would be
found, and what is forgotten would stay. So a file in the directory of the indexes says of which store they are and how far into its
outbox they reach; a store of another number, or that has not come so far yet, gets new ones. The latter gets a new number, too: it
goes its own way from there, and the one that it is a copy of may come back.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

from tracebank.errors import DataDirError
from tracebank.store import Store
from tracebank.store.identity import Identity, identity, renew

log = logging.getLogger(__name__)

ORIGIN_NAME = "store.json"
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Origin:
    """The file in `directory`, that of the indexes."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._file = directory, directory / ORIGIN_NAME
        self._writing = threading.Lock()

    async def settle(self, store: Store, derived: Sequence[Path]) -> None:
        """Empty the directory of the indexes, and those of what else was derived, where they are not of this store.

        Where the file is not there, as before there was one, or damaged, they are taken for the store's.
        Raises: DataDirError, StoreError.
        """
        present, written = store.read_now(identity), self._read()
        if written is not None and (written.store != present.store or written.last_seq > present.last_seq):
            log.warning("the store is another one, or an older copy: its indexes are made anew")
            if written.store == present.store:
                present = await store.write(renew)
            for directory in (*derived, self._directory):
                self._empty(directory)
            written = None
        self._reached = written or present
        if written is None:
            # Last, so that after a kill the next start goes on.
            with contextlib.suppress(OSError):
                self._file.unlink()
            self._write(present)

    def reach(self, seq: int) -> None:
        """Say that an index is about to take an entry of the outbox. Blocks; any thread may. Raises: DataDirError."""
        with self._writing:
            if seq > self._reached.last_seq:
                self._write(self._reached._replace(last_seq=seq))

    def _read(self) -> Identity | None:
        try:
            written = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        match written:
            case {"store": str(store), "last_seq": int(last_seq)}:
                return Identity(store, last_seq)
        return None

    def _empty(self, directory: Path) -> None:
        """Delete all in a directory but the file; not the directory, which may be a link or a mount point. Raises: DataDirError."""
        try:
            for path in [*directory.iterdir()] if directory.exists() else []:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                elif path != self._file:
                    path.unlink()
        except OSError as error:
            raise DataDirError(
                f"{error.filename} is of another store and cannot be deleted: {error.strerror}; delete what is in {directory}"
            ) from error

    def _write(self, reached: Identity) -> None:
        """Write over what is there, which is never longer: to replace it would take milliseconds, before each batch."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.write(descriptor, json.dumps(reached._asdict()).encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            advice = "free some space" if error.errno in _FULL else "let this user write it"
            raise DataDirError(f"{self._file} cannot be written: {error.strerror}; {advice}") from error
        self._reached = reached
