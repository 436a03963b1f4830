"""Which chunks of a namespace are nearest in meaning, and the exact cosines of those that others propose.

The vectors of a small namespace are held in memory and all scored exactly; a large one is searched by Chroma, which finds
texts, and the store says which chunks have them. Filters never reach Chroma: where few traces match they are all scored
exactly, where many do, more is asked for and the rest dropped.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from math import isqrt
from typing import NamedTuple

import numpy as np

from tracebank.caching import LruCache
from tracebank.embedding import Vectors
from tracebank.index import VectorIndex
from tracebank.meaning import Meaning
from tracebank.records import Filters
from tracebank.retrieval.held import Passed, Resident
from tracebank.scores import NO_SCORES, Numbers, Scores, row_of
from tracebank.store import Store, filtering, traces, vectors
from tracebank.store.vectors import Held

# Up to here a namespace's vectors are held: scoring them takes at most half a millisecond.
RESIDENT_CHUNKS = 4_096
RESIDENT_BYTES = 16 * 1_048_576
KNOWN_NAMESPACES = 10_000
# What found no room is read again after so long: what takes the room may not be asked for any more.
KNOWN_TTL_S = 60.0
# Reading them takes 6 µs each. More than these are not read again for the first question after a write: an agent that stores and
# asks in turn would pay for it each time, and the index answers one question sooner.
CHEAP_CHUNKS = 256
# So many traces that pass a filter are scored exactly: a few milliseconds.
FEW_TRACES = 1_000
# What passes a filter in a large namespace is held, too, a byte a number: who asks with a filter asks again with it.
PASSED_BYTES = 24 * 1_048_576
# How many traces a namespace has decides between two ways that find the same: it need not be of this moment.
COUNT_TTL_S = 60.0
# How much more is asked for where a filter drops some, at least and at most; where too little passes, again as much as it then
# takes. A quarter of what is wanted is enough.
OVERSAMPLING = 4
ENOUGH = 0.25
MAX_OVERSAMPLED = 10_000
# So many traces are scored exactly before the index is asked for one text more: what was scored is held for the next question.
INDEX_COST = 3
# A text that thousands of traces have must not crowd out the others.
HOLDERS = 4
# The index looks as wide as it is asked for, and among many short vectors has to look wide, or a question is lost in a part of the
# graph that is not its own. Of a million, in two graphs of the same texts, the nearest ten were found by .973 and .954 at 300 (the
# index's own least), .993 and .964 at 400, .994 and .995 at 800; each hundred takes 0.3 ms.
SEARCH_WIDTH = 400
WIDEST_SEARCH = 800
WIDEST_TRACES = 100_000
# Of shorter vectors so many times more are compared again with whole ones.
RESCORED = 2


class Near(NamedTuple):
    """The cosines of the nearest chunks; `whole`: of all that pass the filters and have a vector."""

    cosines: Scores
    whole: bool


class Dense:
    """Searches the vectors of one model. Its calls block; any thread may make them."""

    def __init__(self, store: Store, meaning: Meaning) -> None:
        self._store = store
        self._index: VectorIndex = meaning.index
        self.model_id = meaning.model_id
        # Several threads search.
        self._lock = threading.Lock()
        self._residents: LruCache[int, Resident] = LruCache(max_bytes=RESIDENT_BYTES, size_of=_bytes, clock=time.monotonic)
        # All of them without their vectors: of what found no room beside others it is known that it was read, and is not read again.
        self._known: LruCache[int, Resident] = LruCache(capacity=KNOWN_NAMESPACES, ttl_s=KNOWN_TTL_S, clock=time.monotonic)
        self._passed: LruCache[tuple[int, str], Passed] = LruCache(max_bytes=PASSED_BYTES, size_of=_bytes, clock=time.monotonic)
        self._counts: LruCache[int, int] = LruCache(capacity=1_000, ttl_s=COUNT_TTL_S, clock=time.monotonic)

    def nearest(self, space: int, question: Vectors, filters: Filters, limit: int) -> Near:
        """Return the `limit` chunks nearest to the question that pass the filters. Raises: IndexFaultError."""
        resident = self._resident(space)
        if resident.held is not None:
            return self._of_resident(space, resident, question, filters, limit)
        if not filters:
            found = self._query(space, question, limit)
            return Near(self._store.read_now(lambda db: _chunks_of(db, space, found, limit)), whole=False)
        return self._filtered(space, question, filters, limit)

    def forget(self, spaces: Collection[int]) -> None:
        """Let go of what is held of these namespaces: some of it was forgotten."""
        with self._lock:
            self._passed.drop(lambda key: key[0] in spaces)
            self._residents.drop(lambda space: space in spaces)
            self._known.drop(lambda space: space in spaces)

    def cosines(self, space: int, chunks: Numbers, question: Vectors) -> Scores:
        """Return the cosines of just these chunks, where their vectors are kept."""
        if not len(chunks):
            return NO_SCORES
        held = self._resident(space, asked=True).held
        if held is None:
            return cosines(self._store.read_now(lambda db: vectors.of_chunks(db, self.model_id, chunks)), question)
        places = np.flatnonzero(np.isin(held.numbers, chunks))
        return cosines(Held(held.numbers[places], held.matrix[places]), question)

    def _resident(self, space: int, *, asked: bool = False) -> Resident:
        """Return what is held of a namespace. `asked`: this question has been here before, and what it was passed over for stays so."""
        (version,) = self._store.versions.of([space])
        with self._lock:
            held = self._residents.get(space, lambda held: held.version == version)
            known = self._known.get(space)
        if held is not None:
            return held
        if known is not None and known.version == version and (asked or not known.passed_over):
            return known
        if known is not None and known.version != version and known.chunks > CHEAP_CHUNKS:
            found = Resident(version, None, known.chunks, passed_over=True)
        else:
            found = self._read(space, version)
        with self._lock:
            # Not what was forgotten while it was read.
            if self._store.versions.of([space]) == (version,):
                self._known.put(space, replace(found, held=None))
                if found.held is not None:
                    self._residents.put(space, found)
        return found

    def _read(self, space: int, version: int) -> Resident:
        held = self._store.read_now(lambda db: vectors.of_namespace(db, self.model_id, space, limit=RESIDENT_CHUNKS))
        return Resident(version, held, len(held.numbers) if held is not None else RESIDENT_CHUNKS)

    def _of_resident(self, space: int, resident: Resident, question: Vectors, filters: Filters, limit: int) -> Near:
        assert resident.held is not None
        numbers, matrix = resident.held
        if filters:
            rows = self._store.read_now(lambda db: filtering.matching(db, filters, space=space))
            places = np.flatnonzero(np.isin(row_of(numbers), rows))
            numbers, matrix = numbers[places], matrix[places]
        return _near(cosines(Held(numbers, matrix), question), limit)

    def _query(self, space: int, question: Vectors, limit: int) -> dict[bytes, float]:
        """Return the cosines of the nearest texts, the nearest first."""
        if self._index.pair(space).serving.dims is None:
            return self._nearest_texts(space, question, limit)
        near = self._nearest_texts(space, question, RESCORED * limit)
        scores = self._exact(space, question, near)
        return {text: scores[text] for text in sorted(scores, key=lambda text: -scores[text])[:limit]}

    def _nearest_texts(self, space: int, question: Vectors, limit: int) -> dict[bytes, float]:
        """Return the nearest texts as the index sees them, the nearest first."""
        width = search_width(self._count(space), short=self._index.pair(space).serving.dims is not None)
        return dict(islice(self._index.query(space, question, max(width, limit)).items(), limit))

    def _exact(self, space: int, question: Vectors, near: Mapping[bytes, float]) -> Mapping[bytes, float]:
        """Return the cosines of these texts by their whole vectors, where the index has shorter ones."""
        if self._index.pair(space).serving.dims is None:
            return near
        hashes, matrix = self._store.read_now(lambda db: vectors.of_texts(db, self.model_id, near))
        return dict(zip(hashes, (matrix @ question).tolist(), strict=True)) if hashes else {}

    # No reader of the store is held while the index is asked: it may need one itself, and there are few.

    def _filtered(self, space: int, question: Vectors, filters: Filters, limit: int) -> Near:
        (version,) = self._store.versions.of([space])
        with self._lock:
            passed = self._passed.get((space, repr(filters)), lambda held: held.version == version)  # true is not 1
        if passed is not None:
            best = _top(Scores(passed.numbers, passed.scores(question).astype(np.float64)), RESCORED * limit).numbers
            held = self._store.read_now(lambda db: vectors.of_chunks(db, self.model_id, best))
            return _near(cosines(held, question), limit)._replace(whole=len(passed.numbers) <= limit)
        # So many have to be asked for, times how many match, that twice as many pass as are enough, where those that do lie anywhere.
        asked_matching = 2 * ENOUGH * limit * self._count(space)
        # Up to here to ask for them takes longer than to score exactly what matches.
        few = max(FEW_TRACES, min(isqrt(int(INDEX_COST * asked_matching)), INDEX_COST * MAX_OVERSAMPLED))
        # From here on the least that is asked for is enough.
        many = int(asked_matching / (OVERSAMPLING * limit))
        matching = self._store.read_now(lambda db: filtering.at_most(db, filters, space=space, limit=max(few + 1, many)))
        if matching <= few:
            passing_rows = self._store.read_now(lambda db: filtering.matching(db, filters, space=space))
            return self._exactly(space, version, question, filters, passing_rows, limit)
        wanted = min(MAX_OVERSAMPLED, max(OVERSAMPLING * limit, int(asked_matching / matching)))
        passing = self._passing(space, question, filters, wanted)
        if len(passing) < ENOUGH * limit:
            # They lie apart from the question, or few meet all conditions.
            wanted, before = min(MAX_OVERSAMPLED, wanted * limit // max(1, len(passing))), wanted
            few = INDEX_COST * wanted
            rows = self._store.read_now(lambda db: filtering.matching(db, filters, space=space, limit=few + 1))
            if len(rows) <= few:
                return self._exactly(space, version, question, filters, rows, limit)
            if wanted > before:
                passing = self._passing(space, question, filters, wanted)
        return Near(_top(passing, limit), whole=False)

    def _count(self, space: int) -> int:
        """Return how many traces a namespace has, or had a minute ago: to count a third of a million takes 10 ms."""
        with self._lock:
            found = self._counts.get(space)
        if found is None:
            found = self._store.read_now(lambda db: traces.count(db, space))
            with self._lock:
                self._counts.put(space, found)
        return found

    def _exactly(self, space: int, version: int, question: Vectors, filters: Filters, rows: Sequence[int], limit: int) -> Near:
        """Return the best of all chunks of these traces, the ones that pass, and hold them."""
        held = self._store.read_now(lambda db: vectors.of_traces(db, self.model_id, sorted(rows)))
        if Passed.bytes_of(held) <= PASSED_BYTES:
            passed = Passed.of(version, held)
            with self._lock:
                # Not what was forgotten while it was read.
                if self._store.versions.of([space]) == (version,):
                    self._passed.put((space, repr(filters)), passed)
        return _near(cosines(held, question), limit)

    def _passing(self, space: int, question: Vectors, filters: Filters, wanted: int) -> Scores:
        """Return the cosines of those of the nearest `wanted` that pass."""
        near = self._nearest_texts(space, question, wanted)

        def passing(db: sqlite3.Connection) -> dict[int, bytes]:
            holders = vectors.holders(db, space, near, limit=HOLDERS * wanted)
            allowed = set(filtering.matching(db, filters, space=space, rows={row_of(number) for number in holders}))
            return {number: text for number, text in holders.items() if row_of(number) in allowed}

        texts = self._store.read_now(passing)
        scores = self._exact(space, question, {text: near[text] for text in texts.values()})
        return Scores.by({number: scores[text] for number, text in texts.items() if text in scores})


def search_width(traces: int, *, short: bool) -> int:
    """Return how wide the index has to look at least for the nearest of so many traces; 0: as wide as it does by itself."""
    if traces >= WIDEST_TRACES:
        return WIDEST_SEARCH
    return SEARCH_WIDTH if short else 0


def _chunks_of(db: sqlite3.Connection, space: int, found: Mapping[bytes, float], limit: int) -> Scores:
    holders = vectors.holders(db, space, found, limit=HOLDERS * limit)
    return Scores.by({number: found[text] for number, text in holders.items()})


def cosines(held: Held, question: Vectors) -> Scores:
    """Return the cosine of each unit vector with the question's."""
    return Scores(held.numbers, (held.matrix @ question).astype(np.float64)) if len(held.numbers) else NO_SCORES


def _near(scores: Scores, limit: int) -> Near:
    return Near(_top(scores, limit), whole=len(scores) <= limit)


def _top(scores: Scores, limit: int) -> Scores:
    """Return the highest scores, of the same those of the lower numbers."""
    if len(scores) <= limit:
        return scores
    best = np.flatnonzero(scores.values >= np.partition(scores.values, -limit)[-limit])
    best = np.sort(best[np.argsort(-scores.values[best], kind="stable")][:limit])
    return Scores(scores.numbers[best], scores.values[best])


def _bytes(_: object, held: Resident | Passed) -> int:
    return held.nbytes
