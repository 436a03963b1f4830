"""Search by meaning: the ChromaDB adapter. One collection per namespace, explicit embeddings, batches, no filters.

A record is one text, however many chunks of the namespace have it: its id is the text's hash, its document the text,
its metadata the basics of a trace that has it, so any Chroma client can read the collection. Namespaces are told apart
by collection because Chroma's `where` filter costs 30 times an unfiltered query.
"""

from __future__ import annotations

import contextlib
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from collections.abc import Collection as Keys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from tracebank.errors import IndexFaultError, IndexUnreachableError
from tracebank.index import leftovers
from tracebank.index.base import IndexedText, Vectors, mark_directory, prepare_directory, set_aside
from tracebank.index.database import DATABASE, write_less
from tracebank.index.generations import Generation, Generations, Pair
from tracebank.index.projection import Projection
from tracebank.index.projection import load as load_projection

if TYPE_CHECKING:
    from chromadb import Collection
    from chromadb.api import ClientAPI
    from chromadb.api.collection_configuration import CreateHNSWConfiguration

FORMAT_VERSION = 2
MAX_BATCH = 1_000
# At 100 thousand texts a search of this width finds .989 of the nearest 10 in 2.0 ms, Chroma's own width (100) .959 in 1.2.
HNSW: CreateHNSWConfiguration = {"space": "cosine", "ef_search": 300}
EXPORTER = "opentelemetry.exporter.otlp.proto.grpc.trace_exporter"
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, eq=False)
class _Open:
    """A collection in use, and what makes vectors as short as it holds them."""

    collection: Collection
    projection: Projection | None

    def short(self, vectors: Vectors) -> Vectors:
        return vectors if self.projection is None else self.projection(vectors)


class ChromaVectorIndex:
    """A `VectorIndex` in Chroma's embedded client."""

    # Put before the names of collections.
    prefix = ""

    def __init__(self, directory: Path, *, model: str, **place: str) -> None:
        """Open what is in the directory, or begin anew. `place` says what else it depends on."""
        self._directory = directory
        self._format = {"format": FORMAT_VERSION, "model": model, **place}
        self._lock = threading.Lock()
        # A writer whose task was cancelled still writes: whoever clears or closes waits for it.
        self._writing = threading.Lock()
        self._open: dict[str, _Open] = {}
        self._fresh = not prepare_directory(directory, self._format)
        try:
            self._begin()
        except IndexUnreachableError:
            raise
        except (IndexFaultError, ValueError):
            self._wipe()
            self._begin()
            self._fresh = True

    def _begin(self) -> None:
        self._client = self._connect()
        try:
            self._take_up()
        except BaseException:
            # Chroma gives a client that is open to whoever opens the same path again, whatever lies there by then.
            self._close_client()
            raise

    def _take_up(self) -> None:
        self._generations = Generations(self._directory)
        self._tidy()

    def _connect(self) -> ClientAPI:
        new = not (self._directory / DATABASE).exists()
        client = _open_client(self._directory)
        if new:
            write_less(self._directory)
        return client

    def _restart(self) -> None:
        self._close_client()
        self._wipe()
        self._begin()

    def _wipe(self) -> None:
        set_aside(self._directory)

    @property
    def fresh(self) -> bool:
        """Whether it has to be filled from the store."""
        return self._fresh

    def mark_filled(self) -> None:
        """Write down that the directory can be used at the next start."""
        mark_directory(self._directory, self._format)
        self._fresh = False

    def apply(self, namespace: int, upserts: Sequence[IndexedText], removals: Keys[bytes]) -> None:
        """Delete texts, and upsert others with their vectors; also in the generation that is being filled."""
        pair = self._generations.of(namespace)
        stale = [key.hex() for key in removals]
        for opened in [self._opened(generation) for generation in (pair.serving, pair.following) if generation is not None]:
            with self._writing:
                for i in range(0, len(stale), MAX_BATCH):
                    guarded(partial(opened.collection.delete, ids=stale[i : i + MAX_BATCH]))
            self._upsert(opened, upserts)

    def query(self, namespace: int, vector: Vectors, limit: int, *, following: bool = False) -> dict[bytes, float]:
        """Return cosine similarities, of short vectors where the namespace has them; with `following` from the next generation.

        Chroma returns distance (1 - cosine); we rank by similarity.
        """
        pair = self._generations.of(namespace)
        try:
            return self._query(pair.following if following and pair.following else pair.serving, vector, limit)
        except IndexFaultError:
            if (now := self._generations.of(namespace).serving) == pair.serving:
                raise
            # It has just been replaced.
            return self._query(now, vector, limit)

    def _query(self, generation: Generation, vector: Vectors, limit: int) -> dict[bytes, float]:
        opened = self._opened(generation)
        asked = opened.short(vector[None, :])
        found = guarded(lambda: opened.collection.query(query_embeddings=asked, n_results=limit, include=["distances"]))
        distances = found["distances"] or [[]]
        return {bytes.fromhex(id_): 1.0 - float(distance) for id_, distance in zip(found["ids"][0], distances[0], strict=True)}

    def count(self, namespace: int) -> int:
        """Return how many texts the namespace's collection holds. Waits for who writes, or cleans the database."""
        # Chroma and Python have each an SQLite of its own, and locks of files do not hold between two in one process: who reads
        # while the other one writes takes its journal for one that was left behind, and rolls it back.
        with self._writing:
            return int(guarded(self._opened(self._generations.of(namespace).serving).collection.count))

    def pair(self, namespace: int) -> Pair:
        """Return which generation of a namespace answers, and which is being filled."""
        return self._generations.of(namespace)

    def projection(self, generation: Generation) -> Projection | None:
        """Return what makes vectors as short as a generation holds them; None: they are whole."""
        return self._opened(generation).projection

    def begin(self, namespace: int, projection: Projection | None) -> None:
        """Begin another generation of a namespace; from now on what is written goes into it, too."""
        self.drop(namespace)
        with self._writing:
            following = self._generations.next(namespace, projection.dims if projection is not None else None)
            if projection is not None:
                # First what it needs: a kill in between leaves a file that nobody asks for.
                projection.save(self._projection_file(following))
            self._generations.begin(following)

    def fill(self, namespace: int, texts: Sequence[IndexedText], up_to_row: int | None) -> None:
        """Write texts into the generation that is being filled, and note how far it is; None: there is more of these rows."""
        following = self._generations.of(namespace).following
        assert following is not None
        self._upsert(self._opened(following), texts)
        if up_to_row is not None:
            with self._writing:
                self._generations.filled(namespace, up_to_row)

    def exchange(self, namespace: int, recall: float | None) -> None:
        """Let the generation that was filled answer. Nobody may search meanwhile; `tidy` then deletes the former one."""
        with self._writing:
            self._generations.exchange(namespace, recall)

    def drop(self, namespace: int) -> None:
        """Give up the generation that is being filled."""
        with self._writing:
            if self._generations.of(namespace).following is not None:
                self._generations.drop(namespace)
        self.tidy()

    def tidy(self) -> None:
        """Delete the collections that neither answer nor are being filled."""
        with self._writing:
            self._tidy()

    def _tidy(self) -> None:
        kept = self._generations.names()
        changed = tuple(f"namespace-{space}" for space in self._generations.changed_spaces())
        for collection in guarded(self._client.list_collections):
            name = collection.name.removeprefix(self.prefix)
            if name not in kept and (name in changed or name.rpartition("-")[0] in changed):
                guarded(partial(self._client.delete_collection, collection.name))
                self._open.pop(name, None)
                (self._directory / f"{name}.npz").unlink(missing_ok=True)
        if changed:
            self._sweep()

    def _sweep(self) -> None:
        leftovers.sweep(self._directory)

    def scrub(self) -> None:
        """Take what was deleted off the disk: Chroma keeps the last thousand writes, and what SQLite has freed is not erased.

        Nobody may search meanwhile (see `count`): it takes the file for itself, a second for a few hundred megabytes.
        """
        with self._writing:
            leftovers.erase_deleted(self._directory)

    def clear(self) -> None:
        """Set the directory aside and start an empty one: it must work on a broken index too."""
        with self._writing, self._lock:
            self._open.clear()
            # From the first deletion on it has to be filled, also where that is as far as it comes.
            self._fresh = True
            self._restart()

    def close(self) -> None:
        """Close the client; its files can be opened again."""
        with self._writing, self._lock:
            self._open.clear()
            self._close_client()

    def _close_client(self) -> None:
        # A client that is broken must not keep us from closing: its files are whole, or will be set aside.
        with contextlib.suppress(IndexFaultError):
            guarded(getattr(self._client, "close", lambda: None))
        # It has written its graphs once more.
        with contextlib.suppress(OSError, struct.error):
            leftovers.erase_unused(self._directory)

    def _upsert(self, opened: _Open, texts: Sequence[IndexedText]) -> None:
        for i in range(0, len(texts), MAX_BATCH):
            part = texts[i : i + MAX_BATCH]
            vectors = opened.short(np.stack([text.vector for text in part]))
            with self._writing:
                guarded(partial(_upsert, opened.collection, part, vectors))

    def _opened(self, generation: Generation) -> _Open:
        with self._lock:
            if generation.name not in self._open:
                projection = load_projection(self._projection_file(generation)) if generation.dims is not None else None
                collection = guarded(
                    lambda: self._client.get_or_create_collection(
                        self.prefix + generation.name, embedding_function=None, configuration={"hnsw": HNSW}
                    )
                )
                self._open[generation.name] = _Open(collection, projection)
            return self._open[generation.name]

    def _projection_file(self, generation: Generation) -> Path:
        return self._directory / f"{generation.name}.npz"


def import_chroma() -> None:
    """Import Chroma, 0.7 s, without gRPC and protobuf, 12 MB: what it would send traces of its own calls with, which are off."""
    stand_in = ModuleType(EXPORTER)
    stand_in.__dict__["OTLPSpanExporter"] = None
    sys.modules.setdefault(EXPORTER, stand_in)
    import chromadb  # noqa: F401

    if sys.modules.get(EXPORTER) is stand_in:
        del sys.modules[EXPORTER]  # whoever else wants the real one gets it


def _open_client(directory: Path) -> ClientAPI:
    import_chroma()
    import chromadb
    from chromadb.api.shared_system_client import SharedSystemClient
    from chromadb.config import Settings

    # Both whatever the environment says.
    settings = Settings(anonymized_telemetry=False, chroma_otel_granularity=None)
    try:
        return guarded(lambda: chromadb.PersistentClient(str(directory), settings=settings))
    except IndexFaultError:
        # Chroma keeps what it could not open, and would give it to whoever opens the same path again.
        SharedSystemClient.clear_system_cache()
        raise


def _upsert(collection: Collection, texts: Sequence[IndexedText], vectors: Vectors) -> None:
    collection.upsert(
        ids=[text.key.hex() for text in texts],
        embeddings=vectors,
        documents=[text.text for text in texts],
        metadatas=[{"trace_id": text.trace_id, "outcome": text.outcome, "occurred_at_ms": text.occurred_at_ms} for text in texts],
    )


def guarded(action: Callable[[], Result]) -> Result:
    """Run a Chroma call; whatever it raises becomes an IndexFaultError, of its kind where a server does not answer."""
    try:
        return action()
    except Exception as error:
        import httpx

        kind = IndexUnreachableError if isinstance(error, httpx.TransportError) else IndexFaultError
        raise kind(f"Chroma: {error}") from error
    except BaseException as error:
        # A panic in Chroma's native part arrives as an exception that is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise IndexFaultError(f"Chroma stopped: {error}") from error
