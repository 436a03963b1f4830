"""Which store the indexes, and what is kept of answers, are of.

A store that was put back from a copy, or whose former one was moved away, must not meet what was made of the other: it would be
found, and what is forgotten would stay. So a file in the directory of the indexes says of which store they are and how far into its
outbox they reach; a store of another number, or that has not come so far yet, gets new ones.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

from tracebank.errors import DataDirError
from tracebank.index.base import set_aside
from tracebank.store.identity import Identity

log = logging.getLogger(__name__)

ORIGIN_NAME = "store.json"


class Origin:
    """The file in `directory`, that of the indexes."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._file = directory, directory / ORIGIN_NAME
        self._writing = threading.Lock()

    def settle(self, present: Identity, derived: Sequence[Path]) -> None:
        """Delete the indexes, and what else was derived, where they are not of the present store. Raises: DataDirError.

        Where the file is not there, as before there was one, or damaged, they are taken for the store's.
        """
        written = self._read()
        if written is not None and (written.store != present.store or written.last_seq > present.last_seq):
            log.warning("the store is another one, or an older copy: its indexes are made anew")
            set_aside(self._directory)
            written = None
        # Also where a kill was in between.
        for path in (self._directory.with_name(self._directory.name + ".set-aside"), *(() if written else derived)):
            shutil.rmtree(path, ignore_errors=True)
        self._reached = written or present
        if written is None:
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
            return Identity(**json.loads(self._file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

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
            raise DataDirError(f"{self._file} cannot be written: {error.strerror}; free some space") from error
        self._reached = reached
