"""Which chunks of a namespace are nearest in meaning, and the exact cosines of those that others propose.

The vectors of a small namespace are held in memory and all scored exactly; a large one is searched by Chroma, which finds
texts, and the store says which chunks have them. Filters never reach Chroma: where few traces match they are all scored
exactly, where many do, more is asked for and the rest dropped.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tracebank.caching import LruCache
from tracebank.embedding import Vectors
from tracebank.index import ChunkKey, VectorIndex
from tracebank.meaning import Meaning
from tracebank.records import Filters
from tracebank.store import Store, traces, vectors
from tracebank.store.vectors import Held

# Up to here a namespace's vectors are held: scoring them takes at most half a millisecond.
RESIDENT_CHUNKS = 4_096
RESIDENT_BYTES = 16 * 1_048_576
# Reading them takes 6 µs each. More than these are not read again for the first question after a write: an agent that stores and
# asks in turn would pay for it each time, and the index answers one question sooner.
CHEAP_CHUNKS = 256
# A key in a list and in a dictionary.
KEY_BYTES = 200
# So many traces that pass a filter are scored exactly: a few milliseconds.
FEW_TRACES = 1_000
# How much more is asked for where a filter drops some; where too little passes, again as much as it then takes, unless no more
# traces pass at all: to score one exactly takes about as long as to ask the index for one more.
OVERSAMPLING = 4
ENOUGH = 0.25
MAX_OVERSAMPLED = 10_000
# A text that thousands of traces have must not crowd out the others.
HOLDERS = 4
# Of shorter vectors so many times more are compared again with whole ones.
RESCORED = 2


@dataclass(frozen=True)
class Resident:
    """The vectors of a whole namespace as of a version of it in the store.

    `held` None: it is too large or, where it is `passed_over`, not worth reading for one question. `chunks`: how many it had.
    """

    version: int
    held: Held | None
    chunks: int
    passed_over: bool = False

    @cached_property
    def places(self) -> dict[ChunkKey, int]:
        """Where each chunk's vector is."""
        return {key: i for i, key in enumerate(self.held.keys)} if self.held is not None else {}

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """The trace of each vector."""
        return np.array([row for row, _ in self.held.keys] if self.held is not None else [], np.int64)


class Dense:
    """Searches the vectors of one model. Its calls block; any thread may make them."""

    def __init__(self, store: Store, meaning: Meaning, *, candidates: int) -> None:
        self._store, self._candidates = store, candidates
        self._index: VectorIndex = meaning.index
        self.model_id = meaning.model_id
        # Several threads search.
        self._lock = threading.Lock()
        self._residents: LruCache[int, Resident] = LruCache(max_bytes=RESIDENT_BYTES, size_of=_resident_bytes, clock=time.monotonic)

    def nearest(self, space: int, question: Vectors, filters: Filters) -> dict[ChunkKey, float]:
        """Return the cosines of the chunks nearest to the question that pass the filters. Raises: IndexFaultError."""
        resident = self._resident(space)
        if resident.held is not None:
            return self._of_resident(space, resident, question, filters)
        if not filters:
            found = self._query(space, question, self._candidates)
            return self._store.read_now(lambda db: self._chunks_of(db, space, found))
        return self._filtered(space, question, filters)

    def cosines(self, space: int, keys: Sequence[ChunkKey], question: Vectors) -> dict[ChunkKey, float]:
        """Return the cosines of just these chunks, where their vectors are kept."""
        if not keys:
            return {}
        resident = self._resident(space, asked=True)
        if resident.held is None:
            return cosines(self._store.read_now(lambda db: vectors.of_chunks(db, self.model_id, keys)), question)
        known = [key for key in keys if key in resident.places]
        return cosines(Held(known, resident.held.matrix[[resident.places[key] for key in known]]), question)

    def _resident(self, space: int, *, asked: bool = False) -> Resident:
        """Return what is held of a namespace. `asked`: this question has been here before, and what it was passed over for stays so."""
        (version,) = self._store.versions.of([space])
        with self._lock:
            found = self._residents.get(space)
        if found is None or found.version != version or (found.passed_over and not asked):
            if found is not None and found.version != version and found.chunks > CHEAP_CHUNKS:
                found = Resident(version, None, found.chunks, passed_over=True)
            else:
                found = self._read(space, version)
            with self._lock:
                self._residents.put(space, found)
        return found

    def _read(self, space: int, version: int) -> Resident:
        held = self._store.read_now(lambda db: vectors.of_namespace(db, self.model_id, space, limit=RESIDENT_CHUNKS))
        return Resident(version, held, len(held.keys) if held is not None else RESIDENT_CHUNKS)

    def _of_resident(self, space: int, resident: Resident, question: Vectors, filters: Filters) -> dict[ChunkKey, float]:
        assert resident.held is not None
        keys, matrix = resident.held
        if not filters:
            return _top(keys, matrix @ question if keys else np.empty(0), self._candidates)
        rows = self._store.read_now(lambda db: traces.matching(db, filters, space=space))
        places = np.flatnonzero(np.isin(resident.rows, rows)).tolist()
        return _top([keys[i] for i in places], matrix[places] @ question if places else np.empty(0), self._candidates)

    def _query(self, space: int, question: Vectors, limit: int) -> dict[bytes, float]:
        """Return the cosines of the nearest texts, the nearest first; where Chroma has shorter vectors, by the whole ones."""
        if self._index.pair(space).serving.dims is None:
            return self._index.query(space, question, limit)
        near = self._index.query(space, question, RESCORED * limit)
        hashes, matrix = self._store.read_now(lambda db: vectors.of_texts(db, self.model_id, near))
        scores = matrix @ question if hashes else np.empty(0, np.float32)
        return {hashes[i]: float(scores[i]) for i in np.argsort(-scores)[:limit]}

    def _chunks_of(self, db: sqlite3.Connection, space: int, found: Mapping[bytes, float]) -> dict[ChunkKey, float]:
        holders = vectors.holders(db, space, found, limit=HOLDERS * self._candidates)
        return {key: found[text] for key, text in holders.items()}

    # No reader of the store is held while the index is asked: it may need one itself, and there are few.

    def _filtered(self, space: int, question: Vectors, filters: Filters) -> dict[ChunkKey, float]:
        if (exact := self._exactly(space, question, filters, at_most=FEW_TRACES)) is not None:
            return exact
        wanted = OVERSAMPLING * self._candidates
        passing = self._passing(space, question, filters, wanted)
        if len(passing) < ENOUGH * self._candidates:
            wanted = min(MAX_OVERSAMPLED, wanted * self._candidates // max(1, len(passing)))
            if (exact := self._exactly(space, question, filters, at_most=wanted)) is not None:
                return exact
            passing = self._passing(space, question, filters, wanted)
        return dict(list(passing.items())[: self._candidates])

    def _exactly(self, space: int, question: Vectors, filters: Filters, *, at_most: int) -> dict[ChunkKey, float] | None:
        """Return the best of all that passes; None where that is more than so many traces."""
        few = self._store.read_now(lambda db: traces.matching(db, filters, space=space, limit=at_most + 1))
        if len(few) > at_most:
            return None
        keys, matrix = self._store.read_now(lambda db: vectors.of_traces(db, self.model_id, few))
        return _top(keys, matrix @ question if keys else np.empty(0), self._candidates)

    def _passing(self, space: int, question: Vectors, filters: Filters, wanted: int) -> dict[ChunkKey, float]:
        found = self._query(space, question, wanted)

        def held(db: sqlite3.Connection) -> tuple[dict[ChunkKey, bytes], set[int]]:
            holders = vectors.holders(db, space, found, limit=HOLDERS * wanted)
            return holders, set(traces.matching(db, filters, space=space, rows={row for row, _ in holders}))

        holders, allowed = self._store.read_now(held)
        return {key: found[text] for key, text in holders.items() if key[0] in allowed}


def cosines(held: Held, question: Vectors) -> dict[ChunkKey, float]:
    """Return the cosine of each unit vector with the question's."""
    return dict(zip(held.keys, (held.matrix @ question).tolist(), strict=True)) if held.keys else {}


def _top(keys: Sequence[ChunkKey], scores: NDArray[np.floating], limit: int) -> dict[ChunkKey, float]:
    """Return the highest scores, the highest first, those of the same in the order of the keys."""
    best = np.flatnonzero(scores >= np.partition(scores, -limit)[-limit]).tolist() if len(scores) > limit else range(len(scores))
    found = sorted(((keys[i], float(scores[i])) for i in best), key=lambda item: (-item[1], item[0]))
    return dict(found[:limit])


def _resident_bytes(space: int, resident: Resident) -> int:
    return KEY_BYTES * (1 + len(resident.held.keys)) + resident.held.matrix.nbytes if resident.held is not None else KEY_BYTES
