"""File locks that the system lets go of when their holder dies, however it dies. Standard library only.

`DataDirLock` is what makes one engine per data directory: its file also tells who holds it.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import time

from tracebank.errors import DataDirError, DataDirLockedError

TYPE_CHECKING = False  # as in typing, which would cost every client 2 ms and 0.7 MB
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

LOCK_NAME = "engine.lock"
# Somebody who looks whether there is a holder has the lock for a moment, and longer where the machine is busy.
PATIENCE_S = 2.0
# What the system answers where somebody else has the lock (Windows also after ten seconds of waiting). Whatever else it
# answers is no question of time.
TAKEN = (errno.EACCES, errno.EDEADLK) if sys.platform == "win32" else (errno.EAGAIN, errno.EWOULDBLOCK)


class FileLock:
    """A lock on a file that stays in place: removing it would let two hold a lock of the same name.

    Raises: OSError where the file cannot be made, DataDirError from everything that locks where the file system has no locks.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)

    def try_acquire(self, patience_s: float = 0.0) -> bool:
        """Take the lock, waiting so long for those who only look at it. Returns whether it is ours."""
        give_up_at = time.monotonic() + patience_s
        while not (ours := self._lock(wait=False)) and time.monotonic() < give_up_at:
            if sys.platform != "win32" and self.is_held():
                return False
            time.sleep(0.01)
        return ours

    def wait(self) -> None:
        """Take the lock when it is free."""
        while not self._lock(wait=True):
            pass

    def is_held(self) -> bool:
        """Return whether somebody has taken the lock. Two who look at the same moment do not see each other."""
        if not self._lock(wait=False, shared=True):
            return True
        self._unlock()
        return False

    def _lock(self, *, wait: bool, shared: bool = False) -> bool:
        try:
            if sys.platform == "win32":
                import msvcrt

                # Beyond the text, so that others can still read who holds it.
                os.lseek(self._descriptor, 1 << 20, os.SEEK_SET)
                msvcrt.locking(self._descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
                fcntl.flock(self._descriptor, kind if wait else kind | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in TAKEN:
                return False
            raise DataDirError(
                f"{self._path} cannot be locked: {error.strerror}; set TRACEBANK_DATA_DIR to a directory whose file system has locks"
            ) from error
        return True

    def _unlock(self) -> None:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(self._descriptor, msvcrt.LK_UNLCK, 1)
        else:
            import fcntl

            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def write(self, text: str) -> None:
        """Replace the file's text."""
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.write(self._descriptor, text.encode())

    def read(self) -> str:
        """Return the file's text."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        return os.read(self._descriptor, 65_536).decode("utf-8", "replace")

    def close(self) -> None:
        """Give the lock back."""
        os.close(self._descriptor)


class DataDirLock:
    """Held from `acquire` to `release`, or until the process ends in whatever way."""

    def __init__(self, data_dir: str | os.PathLike[str]) -> None:
        self._data_dir = os.fspath(data_dir)
        self._file: FileLock | None = None

    def acquire(self, about: Mapping[str, Any]) -> None:
        """Take the lock and write down who holds it. Raises: DataDirLockedError naming the holder, DataDirError."""
        try:
            file = FileLock(os.path.join(self._data_dir, LOCK_NAME))
        except OSError as error:
            raise DataDirError(
                f"{self._data_dir} cannot be written: {error.strerror}; set TRACEBANK_DATA_DIR to a directory that can be"
            ) from error
        try:
            ours = file.try_acquire(patience_s=PATIENCE_S)
        except DataDirError:
            file.close()
            raise
        if not ours:
            holder = _parsed(file.read())
            file.close()
            raise DataDirLockedError(
                f"{self._data_dir} is in use by process {holder.get('pid', '(unknown)')}: "
                "end it with `tracebank stop`, or set TRACEBANK_DATA_DIR to another directory"
            )
        try:
            file.write(json.dumps(dict(about)))
        except OSError as error:
            file.close()
            raise DataDirError(
                f"{self._data_dir} cannot be written: {error.strerror}; free some space, or set TRACEBANK_DATA_DIR to another directory"
            ) from error
        self._file = file

    def release(self) -> None:
        """Give the lock back."""
        if self._file is not None:
            self._file.close()
            self._file = None


def pid_space() -> str:
    """Return among whose processes a process id here counts: on another host, and in another container, it is a stranger's."""
    try:
        # Of this start of this machine: its name may change with the network that it is in.
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return socket.gethostname()


def holder_of(data_dir: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return what the engine that holds the directory wrote down, or None where there is none. Raises: DataDirError."""
    path = os.path.join(data_dir, LOCK_NAME)
    if not os.path.exists(path):
        return None
    try:
        file = FileLock(path)
    except OSError:
        return None
    try:
        return _parsed(file.read()) if file.is_held() else None
    finally:
        file.close()


def _parsed(text: str) -> dict[str, Any]:
    try:
        about = json.loads(text)
    except ValueError:
        return {}
    return about if isinstance(about, dict) else {}
