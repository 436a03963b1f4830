"""A cache on disk: rows of JSON in one file for its owner alone, written all at once and read all at once.

It is worth nothing but time: what is damaged, cut short, or written under other circumstances (`about`) reads as empty,
and so does a file that is not there. A kill while it is written leaves the former one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class Snapshot:
    """The file. Every call blocks; one at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, about: Any, rows: Iterable[Any], *, max_bytes: int) -> int:
        """Write the first rows that find room, in place of all that was there. Returns how many. Raises: OSError."""
        room = max_bytes - len(_line(_head(about, "0" * 32)))
        lines: list[bytes] = []
        for row in rows:
            line = _line(row)
            room -= len(line)
            if room < 0:
                break
            lines.append(line)
        body = b"".join(lines)
        if not lines:
            self.delete()
            return 0
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        draft = self._path.with_suffix(".draft")
        # It quotes memories: nobody else may read it. Not synced: after a power cut it does not match its digest.
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o600)
        with open(descriptor, "wb") as file:
            file.write(_line(_head(about, _digest(body))))
            file.write(body)
        draft.replace(self._path)
        return len(lines)

    def read(self, about: Any) -> list[Any]:
        """Return the rows, or none where the file is not there, not whole, or about something else."""
        try:
            head, _, body = self._path.read_bytes().partition(b"\n")
            if _line(_head(about, _digest(body))) != head + b"\n":
                log.info("%s is of other circumstances or damaged: it is not used", self._path)
                return []
            return [json.loads(line) for line in body.splitlines()]
        except (OSError, ValueError, RecursionError) as error:
            if not isinstance(error, FileNotFoundError):
                log.warning("%s cannot be read: %s", self._path, error)
            return []

    def delete(self) -> None:
        """Remove the file and what a kill may have left of a draft. Raises: OSError."""
        for path in (self._path, self._path.with_suffix(".draft")):
            path.unlink(missing_ok=True)

    @property
    def nbytes(self) -> int:
        """Its size; 0 where there is none."""
        try:
            return self._path.stat().st_size
        except OSError:
            return 0


def _head(about: Any, digest: str) -> Any:
    return {"about": about, "digest": digest}


def _line(row: Any) -> bytes:
    # No line break but the last can come out of this: JSON escapes them.
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _digest(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=16).hexdigest()
