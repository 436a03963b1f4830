"""Search by meaning: the ChromaDB adapter. One collection per namespace, explicit embeddings, batches, no filters.

A record's id is `<row>-<ordinal>`; its document is the chunk's text and its metadata the trace's basics, so any
Chroma client can read the collection. Namespaces are told apart by collection because Chroma's `where` filter
costs 30 times an unfiltered query.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from tracebank.errors import IndexFaultError
from tracebank.index.base import ChunkKey, IndexedTrace, Removal, Vectors, mark_directory, prepare_directory, set_aside

if TYPE_CHECKING:
    from chromadb import Collection
    from chromadb.api import ClientAPI

FORMAT_VERSION = 1
MAX_BATCH = 1_000
Result = TypeVar("Result")


class ChromaVectorIndex:
    """A `VectorIndex` in Chroma's embedded client."""

    def __init__(self, directory: Path, *, model: str) -> None:
        self._directory = directory
        self._format = {"format": FORMAT_VERSION, "model": model}
        self._lock = threading.Lock()
        # A writer whose task was cancelled still writes: whoever clears or closes waits for it.
        self._writing = threading.Lock()
        self._collections: dict[int, Collection] = {}
        self._fresh = not prepare_directory(directory, self._format)
        try:
            self._client = _open_client(directory)
        except IndexFaultError:
            set_aside(directory)
            self._client = _open_client(directory)
            self._fresh = True

    @property
    def fresh(self) -> bool:
        """Whether it has to be filled from the store."""
        return self._fresh

    def mark_filled(self) -> None:
        """Write down that the directory can be used at the next start."""
        mark_directory(self._directory, self._format)
        self._fresh = False

    def apply(self, namespace: int, upserts: Sequence[IndexedTrace], removals: Sequence[Removal]) -> None:
        """Upsert the chunks with their vectors; delete those beyond each trace's end, and those of the removed."""
        collection = self._collection(namespace)
        stale = [f"{t.row}-{i}" for t in upserts for i in range(len(t.chunks), t.stale_chunks)]
        stale += [f"{r.row}-{i}" for r in removals for i in range(r.stale_chunks)]
        records = [(t, i, text) for t in upserts for i, text in enumerate(t.chunks)]
        vectors = np.concatenate([_vectors_of(t) for t in upserts]) if records else np.empty((0, 0), np.float32)
        with self._writing:
            for i in range(0, len(stale), MAX_BATCH):
                _guarded(partial(collection.delete, ids=stale[i : i + MAX_BATCH]))
            for i in range(0, len(records), MAX_BATCH):
                _guarded(partial(_upsert, collection, records[i : i + MAX_BATCH], vectors[i : i + MAX_BATCH]))

    def query(self, namespace: int, vector: Vectors, limit: int) -> dict[ChunkKey, float]:
        """Return cosine similarities. Chroma returns distance (1 - cosine); we rank by similarity."""
        collection = self._collection(namespace)
        found = _guarded(lambda: collection.query(query_embeddings=vector[None, :], n_results=limit, include=["distances"]))
        distances = found["distances"] or [[]]
        return {_key(id_): 1.0 - float(distance) for id_, distance in zip(found["ids"][0], distances[0], strict=True)}

    def count(self, namespace: int) -> int:
        """Return how many chunks the namespace's collection holds."""
        return int(_guarded(self._collection(namespace).count))

    def clear(self) -> None:
        """Set the directory aside and start an empty one: it must work on a broken index too."""
        with self._writing, self._lock:
            self._collections.clear()
            self._close_client()
            set_aside(self._directory)
            self._client = _open_client(self._directory)
            self._fresh = True

    def close(self) -> None:
        """Close the client; its files can be opened again."""
        with self._writing, self._lock:
            self._collections.clear()
            self._close_client()

    def _close_client(self) -> None:
        # A client that is broken must not keep us from closing: its files are whole, or will be set aside.
        with contextlib.suppress(IndexFaultError):
            _guarded(getattr(self._client, "close", lambda: None))

    def _collection(self, namespace: int) -> Collection:
        with self._lock:
            if namespace not in self._collections:
                self._collections[namespace] = _guarded(
                    lambda: self._client.get_or_create_collection(
                        f"namespace-{namespace}", embedding_function=None, configuration={"hnsw": {"space": "cosine"}}
                    )
                )
            return self._collections[namespace]


def _open_client(directory: Path) -> ClientAPI:
    import chromadb  # 0.7 s: only where an index is opened
    from chromadb.api.shared_system_client import SharedSystemClient
    from chromadb.config import Settings

    try:
        return _guarded(lambda: chromadb.PersistentClient(str(directory), settings=Settings(anonymized_telemetry=False)))
    except IndexFaultError:
        # Chroma keeps what it could not open, and would give it to whoever opens the same path again.
        SharedSystemClient.clear_system_cache()
        raise


def _upsert(collection: Collection, records: Sequence[tuple[IndexedTrace, int, str]], vectors: Vectors) -> None:
    collection.upsert(
        ids=[f"{trace.row}-{i}" for trace, i, _ in records],
        embeddings=vectors,
        documents=[text for _, _, text in records],
        metadatas=[
            {"trace_id": trace.trace_id, "outcome": trace.outcome, "occurred_at_ms": trace.occurred_at_ms} for trace, _, _ in records
        ],
    )


def _vectors_of(trace: IndexedTrace) -> Vectors:
    if trace.vectors is None or len(trace.vectors) != len(trace.chunks):
        raise IndexFaultError(f"trace {trace.trace_id!r} has {len(trace.chunks)} chunks and not as many vectors")
    return trace.vectors


def _key(record_id: str) -> ChunkKey:
    row, _, ordinal = record_id.partition("-")
    return int(row), int(ordinal)


def _guarded(action: Callable[[], Result]) -> Result:
    """Run a Chroma call; whatever it raises becomes an IndexFaultError."""
    try:
        return action()
    except Exception as error:
        raise IndexFaultError(f"Chroma: {error}") from error
    except BaseException as error:
        # A panic in Chroma's native part arrives as an exception that is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise IndexFaultError(f"Chroma stopped: {error}") from error
