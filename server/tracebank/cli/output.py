"""Where an export goes: a file, which is replaced as a whole or stays as it was, or a stream."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tracebank.errors import EngineError

if sys.platform != "win32":
    import fcntl

PART_PREFIX, PART_SUFFIX = ".tracebank-", ".part"


@contextmanager
def writing(path: Path | None) -> Iterator[TextIO]:
    """Yield what is written to a file (None or -: standard output). Only with the body's success is a regular file replaced.

    Raises: EngineError where it cannot be written; BrokenPipeError where its reader has left.
    """
    try:
        if path is None or str(path) == "-" or _is_standard_output(path):
            yield sys.stdout
            sys.stdout.flush()
        elif path.exists() and not path.is_file():
            with path.open("w", encoding="utf-8") as file:
                yield file
        else:
            with _replacing(Path(os.path.realpath(path))) as file:
                yield file
    except BrokenPipeError:
        raise
    except OSError as error:
        raise EngineError(f"{path or 'standard output'} cannot be written: {error.strerror}") from error


def _is_standard_output(path: Path) -> bool:
    """Return whether the path (/dev/stdout) leads to what standard output is: the shell may have more to say there."""
    try:
        return os.path.samestat(path.stat(), os.fstat(1))
    except OSError:
        return False


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """Write a file beside the other one, and put it in its place when all of it is on the disk."""
    before = _writable(path)
    _discard_abandoned(path.parent)
    descriptor, part = _begin(path.parent)
    try:
        with open(descriptor, "w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
            if before is not None:
                part.chmod(stat.S_IMODE(before.st_mode))
            if sys.platform != "win32":
                part.replace(path)  # while it is locked
        if sys.platform == "win32":
            part.replace(path)  # what is open cannot be renamed there
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _begin(directory: Path) -> tuple[int, Path]:
    """Return a new file, open and locked for as long as it is."""
    while True:
        # It holds memories: who else may read them is for its owner to say, as he has for a file that is there.
        descriptor, name = tempfile.mkstemp(prefix=PART_PREFIX, suffix=PART_SUFFIX, dir=directory)
        if sys.platform != "win32":
            with contextlib.suppress(OSError):  # where a file system has no locks, nothing is taken for abandoned
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not os.fstat(descriptor).st_nlink:
                # Somebody has found it before it was locked.
                os.close(descriptor)
                continue
        return descriptor, Path(name)


def _discard_abandoned(directory: Path) -> None:
    """Delete what was left by exports that were killed: it holds memories, and nobody would ever look for it."""
    for part in directory.glob(f"{PART_PREFIX}*{PART_SUFFIX}"):
        with contextlib.suppress(OSError):  # it is being written, or another user's
            if sys.platform == "win32":
                part.unlink()  # what is open cannot be deleted there
            else:
                with part.open("r+b") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    part.unlink()


def _writable(path: Path) -> os.stat_result | None:
    """Return what the file is like, None where there is none. Raises: OSError where it may not be written."""
    try:
        with path.open("r+b") as file:
            return os.fstat(file.fileno())
    except FileNotFoundError:
        return None
