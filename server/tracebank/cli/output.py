"""Where an export goes: a file, which is replaced as a whole or stays as it was, or a stream."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tracebank.errors import EngineError


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
    # It holds memories: who else may read them is for its owner to say, as he has for a file that is there.
    descriptor, name = tempfile.mkstemp(prefix=".tracebank-", suffix=".part", dir=path.parent)
    part = Path(name)
    try:
        with open(descriptor, "w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        if before is not None:
            part.chmod(stat.S_IMODE(before.st_mode))
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _writable(path: Path) -> os.stat_result | None:
    """Return what the file is like, None where there is none. Raises: OSError where it may not be written."""
    try:
        with path.open("r+b") as file:
            return os.fstat(file.fileno())
    except FileNotFoundError:
        return None
