"""What an index is: two small contracts, and the directory that both keep the same way.

Every call blocks and may be made from any thread, one writer at a time. What `apply` did is on disk when it
returns, and doing it again changes nothing, so a kill in the middle only means that it is done once more.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tracebank.errors import DataDirError
from tracebank.index.generations import Pair
from tracebank.records import Filters, Scalar
from tracebank.scores import NO_SCORES, Numbers, Scores

Vectors = NDArray[np.float32]

FORMAT_FILE = "format.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedTrace:
    """A trace as the index of words needs it."""

    row: int
    text: str
    chunks: tuple[str, ...]
    outcome: str
    tags: tuple[str, ...]
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    occurred_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedText:
    """A text as the index of vectors needs it: once, however many chunks have it. The rest is of one trace that has it.

    `key` stands for the text (its hash), `vector` is float32 [dim] of length 1.
    """

    key: bytes
    text: str
    vector: Vectors
    trace_id: str
    outcome: str
    occurred_at_ms: int


class WordHits(NamedTuple):
    """BM25 relative to the highest score that the query could have, 0 to 1: by chunk, and by whole trace."""

    chunks: Scores = NO_SCORES
    traces: Scores = NO_SCORES


class Index(Protocol):
    """What both indexes do."""

    @property
    def fresh(self) -> bool:
        """Whether it was empty or unusable when opened, and is to be filled from the store."""

    def mark_filled(self) -> None:
        """Write down that everything of the store is here or in the outbox."""

    def count(self, namespace: int) -> int:
        """Return how many chunks, or distinct texts of chunks, are held. Raises: IndexFaultError."""

    def clear(self) -> None:
        """Delete everything, in all namespaces."""

    def close(self) -> None:
        """Let go of files and threads."""


class VectorIndex(Index, Protocol):
    """Search by meaning.

    Each text is held once: a graph of near neighbours loses those that lie beside hundreds of equal vectors.
    """

    def apply(self, namespace: int, upserts: Sequence[IndexedText], removals: Collection[bytes]) -> None:
        """Write and delete texts of one namespace, durably. Raises: IndexFaultError."""

    def query(self, namespace: int, vector: Vectors, limit: int) -> dict[bytes, float]:
        """Return the cosine similarity of the (approximately) nearest texts, by key. Raises: IndexFaultError."""

    def scrub(self) -> None:
        """Take what was deleted off the disk. Nobody may search meanwhile. Raises: IndexFaultError."""

    def pair(self, namespace: int) -> Pair:
        """Return which generation of a namespace answers, and which is being filled to take its place."""


class WordIndex(Index, Protocol):
    """Search by words."""

    def apply(self, namespace: int, upserts: Sequence[IndexedTrace], removals: Sequence[int]) -> None:
        """Write traces of one namespace and delete others by their row, durably. Raises: IndexFaultError."""

    def query(self, namespace: int, text: str, limit: int, filters: Filters) -> WordHits:
        """Return the best chunks and the best traces that share a word with the text. Raises: IndexFaultError."""

    def score(self, namespace: int, text: str, chunks: Numbers, rows: Numbers) -> WordHits:
        """Return the scores of just these chunks and traces; absent means 0. Raises: IndexFaultError."""

    def idf(self, namespace: int, words: Sequence[str]) -> list[float]:
        """Return how much each word tells among the namespace's chunks: its inverse document frequency. Raises: IndexFaultError."""

    def begin_copy(self, namespace: int) -> None:
        """Begin a copy of a namespace without what was deleted; what is written from now on goes into both. Raises: IndexFaultError."""

    def fill_copy(self, namespace: int, traces: Sequence[IndexedTrace]) -> bool:
        """Write traces into the copy only. Returns False where it is gone: all was emptied meanwhile. Raises: IndexFaultError."""

    def exchange_copy(self, namespace: int) -> bool:
        """Let the copy, which is filled, take the namespace's place. Returns False where it is gone. Raises: IndexFaultError."""


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


def delete_set_aside(directory: Path) -> None:
    """Delete all indexes in `directory` that were set aside: what is forgotten must not stay in them."""
    for aside in directory.glob("*.set-aside"):
        shutil.rmtree(aside, ignore_errors=True)
        if aside.is_file():
            aside.unlink(missing_ok=True)


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
