"""What an index is: two small contracts, and the directory that both keep the same way.

Every call blocks and may be made from any thread, one writer at a time. What `apply` did is on disk when it
returns, and doing it again changes nothing, so a kill in the middle only means that it is done once more.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tracebank.errors import DataDirError
from tracebank.records import Filters

Vectors = NDArray[np.float32]
ChunkKey = tuple[int, int]  # (row of the trace in the store, ordinal of the chunk)

FORMAT_FILE = "format.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedTrace:
    """A trace as an index needs it. `vectors` is [len(chunks), dim]; the word index does without."""

    row: int
    trace_id: str
    text: str
    chunks: tuple[str, ...]
    vectors: Vectors | None = None
    outcome: str
    tags: tuple[str, ...]
    occurred_at_ms: int
    stale_chunks: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """A trace to delete, of which the index may hold this many chunks."""

    row: int
    stale_chunks: int


@dataclass(frozen=True, slots=True)
class WordHits:
    """BM25 relative to the highest score that the query could have, 0 to 1: by chunk, and by whole trace."""

    chunks: Mapping[ChunkKey, float] = field(default_factory=dict)
    traces: Mapping[int, float] = field(default_factory=dict)


class Index(Protocol):
    """What both indexes do."""

    @property
    def fresh(self) -> bool:
        """Whether it was empty or unusable when opened, and is to be filled from the store."""

    def mark_filled(self) -> None:
        """Write down that everything of the store is here or in the outbox."""

    def apply(self, namespace: int, upserts: Sequence[IndexedTrace], removals: Sequence[Removal]) -> None:
        """Write and delete traces of one namespace, durably. Raises: IndexFaultError."""

    def count(self, namespace: int) -> int:
        """Return how many chunks are held. Raises: IndexFaultError."""

    def clear(self) -> None:
        """Delete everything, in all namespaces."""

    def close(self) -> None:
        """Let go of files and threads."""


class VectorIndex(Index, Protocol):
    """Search by meaning."""

    def query(self, namespace: int, vector: Vectors, limit: int) -> dict[ChunkKey, float]:
        """Return the cosine similarity of the (approximately) nearest chunks. Raises: IndexFaultError."""


class WordIndex(Index, Protocol):
    """Search by words."""

    def query(self, namespace: int, text: str, limit: int, filters: Filters) -> WordHits:
        """Return the best chunks and the best traces that share a word with the text. Raises: IndexFaultError."""

    def score(self, namespace: int, text: str, keys: Sequence[ChunkKey], rows: Sequence[int]) -> WordHits:
        """Return the scores of just these chunks and traces; absent means 0. Raises: IndexFaultError."""

    def idf(self, namespace: int, words: Sequence[str]) -> list[float]:
        """Return how much each word tells among the namespace's chunks: its inverse document frequency. Raises: IndexFaultError."""


def prepare_directory(directory: Path, wanted: Mapping[str, object]) -> bool:
    """Make `directory` an index of the wanted format; return whether what it held can be used.

    One of another format (an older Tracebank's, another model's) or unreadable is set aside, never mixed with ours.
    """
    file = directory / FORMAT_FILE
    try:
        if json.loads(file.read_text(encoding="utf-8")) == dict(wanted):
            return True
    except (OSError, ValueError):
        pass
    set_aside(directory)
    return False


def mark_directory(directory: Path, wanted: Mapping[str, object]) -> None:
    """Write down that the directory is a complete index of this format. Raises: DataDirError."""
    try:
        (directory / FORMAT_FILE).write_text(json.dumps(dict(wanted)), encoding="utf-8")
    except OSError as error:
        raise DataDirError(f"{directory} cannot be written: {error.strerror}") from error


def set_aside(directory: Path) -> None:
    """Move what is there to `<name>.set-aside` (of which the last one is kept) and leave an empty directory.

    Raises: DataDirError.
    """
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            aside = directory.with_name(directory.name + ".set-aside")
            shutil.rmtree(aside, ignore_errors=True)
            aside.unlink(missing_ok=True) if aside.is_file() else None
            directory.rename(aside)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise DataDirError(f"{directory} cannot be written: {error.strerror}") from error
