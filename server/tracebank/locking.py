"""One engine per data directory: a lock file that the system lets go of when its holder dies. Standard library only."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from tracebank.errors import DataDirError, DataDirLockedError

LOCK_NAME = "engine.lock"


def _try_lock(file: IO[str]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            # Beyond the text, so that others can still read who holds it.
            file.seek(1 << 20)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


class DataDirLock:
    """Held from `acquire` to `release`, or until the process ends in whatever way."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / LOCK_NAME
        self._file: IO[str] | None = None

    def acquire(self, about: Mapping[str, Any]) -> None:
        """Take the lock and write down who holds it. Raises: DataDirLockedError naming the holder, DataDirError."""
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise DataDirError(
                f"{self.path.parent} cannot be written: {error.strerror}; set TRACEBANK_DATA_DIR to a directory that can"
            ) from error
        file = os.fdopen(descriptor, "r+", encoding="utf-8")
        if not _try_lock(file):
            holder = _read(file)
            file.close()
            raise DataDirLockedError(
                f"{self.path.parent} is in use by process {holder.get('pid', '(unknown)')}: "
                "end it with `tracebank stop`, or set TRACEBANK_DATA_DIR to another directory"
            )
        file.seek(0)
        file.truncate()
        file.write(json.dumps(dict(about)))
        file.flush()
        self._file = file

    def release(self) -> None:
        """Give the lock back. The file stays: removing it would let two hold a lock of the same name."""
        if self._file is not None:
            self._file.close()
            self._file = None


def holder_of(data_dir: Path) -> dict[str, Any] | None:
    """Return what the engine that holds the directory wrote down, or None where there is none."""
    try:
        with (data_dir / LOCK_NAME).open("r+", encoding="utf-8") as file:
            return None if _try_lock(file) else _read(file)
    except OSError:
        return None


def _read(file: IO[str]) -> dict[str, Any]:
    file.seek(0)
    try:
        about = json.loads(file.read())
    except ValueError:
        return {}
    return about if isinstance(about, dict) else {}
