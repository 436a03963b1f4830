"""An append-only journal: what was written to it outlives the process, at the price of one `write`.

It holds what is acknowledged and not yet in the store. A segment is begun when the one before is about to be stored,
and deleted when it is. A record is in the system's page cache when `append` returns, so a kill -9 loses none; it is
not synced, so a power cut may lose what was acknowledged since the last flush.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tracebank.errors import DataDirError, StoreError, StoreFullError

log = logging.getLogger(__name__)

_SUFFIX, _DIGITS = ".jsonl", 12
# Windows would translate line ends.
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)


class Journal:
    """JSON lines in numbered segments of a directory. Every call blocks; one thread at a time."""

    def __init__(self, directory: Path) -> None:
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            self._old = sorted(directory.glob("[0-9]" * _DIGITS + _SUFFIX))
        except OSError as error:
            raise DataDirError(f"{directory} cannot be used for the journal of steps: {error.strerror}") from error
        self._directory = directory
        self._number = int(self._old[-1].stem) if self._old else 0
        self._path: Path | None = None
        self._descriptor = -1
        self._size_bytes = 0

    def replay(self) -> Iterator[Mapping[str, Any]]:
        """Yield the records that were there when the journal was opened, in their order.

        A line that a kill cut short was never acknowledged, and is left out.
        """
        for path in self._old:
            for line in path.read_bytes().splitlines(keepends=True):
                try:
                    if line.endswith(b"\n"):
                        yield json.loads(line)
                except ValueError:
                    log.warning("%s has a damaged line of %d bytes: it is left out", path, len(line))

    def append(self, record: Mapping[str, Any]) -> None:
        """Write a record; all of it or nothing. Raises: StoreFullError."""
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        try:
            if self._path is None:
                self._begin()
            self._write(line)
        except OSError as error:
            if self._descriptor >= 0:
                os.ftruncate(self._descriptor, self._size_bytes)
            raise StoreFullError(f"{self._directory} cannot be written: {error.strerror}; nothing of this call was stored") from error
        self._size_bytes += len(line)

    def _begin(self) -> None:
        self._number += 1
        path = self._directory / f"{self._number:0{_DIGITS}d}{_SUFFIX}"
        self._descriptor = os.open(path, _FLAGS, 0o600)
        self._path, self._size_bytes = path, 0

    def _write(self, line: bytes) -> None:
        view = memoryview(line)
        while view:
            view = view[os.write(self._descriptor, view) :]

    @property
    def empty(self) -> bool:
        """Whether there is no segment."""
        return self._path is None and not self._old

    def rotate(self) -> Sequence[Path]:
        """End the current segment, so that the next record begins another. Returns all segments that have ended. Raises: StoreError."""
        if self._path is not None:
            path, self._path = self._path, None
            descriptor, self._descriptor = self._descriptor, -1
            self._old = [*self._old, path]
            try:
                # Closed it is in any case, and its number may be another file's by the next time.
                os.close(descriptor)
            except OSError as error:
                raise StoreError(f"{path} could not be closed: {error.strerror}; repeat the call") from error
        return tuple(self._old)

    def drop(self, segments: Sequence[Path]) -> None:
        """Delete segments whose records are stored. Raises: StoreError; those that are left are among the ended ones still."""
        for path in segments:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise StoreError(f"{path} cannot be deleted: {error.strerror}; it quotes steps that are stored: repeat the call") from error
        self._old = [path for path in self._old if path not in segments]

    def close(self) -> None:
        """End the current segment."""
        self.rotate()
