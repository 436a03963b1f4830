"""Large namespaces get shorter vectors in Chroma, in the background, and whole ones again where that does not pay.

The store keeps every vector, so nothing is given up: a new generation of the namespace's collection is filled from it while
the present one answers, what is written meanwhile goes into both, its recall is measured, and then the two change places.
How far it is filled is written down: killed anywhere, it goes on at the next start.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from anyio import to_thread

from tracebank.embedding import Vectors
from tracebank.errors import TracebankError
from tracebank.index import ChromaVectorIndex, IndexedText
from tracebank.index.projection import Projection, fit
from tracebank.indexer import Indexer
from tracebank.meaning import Meaning
from tracebank.retrieval.dense import RESCORED, search_width
from tracebank.settings import IndexSettings
from tracebank.store import Store, traces, vectors
from tracebank.store.outbox import Entry
from tracebank.work import load_work

log = logging.getLogger(__name__)

LOOK_EVERY_S = 60.0
SAMPLE = 20_000
PROBES = 100
PART = 5_000
UNBOUNDED = 10**9
TOP = 10
LEAST_RECALL = 0.98
# What `auto` tries, one after the other, until the recall is reached: shares of a whole vector's numbers.
AUTO_SHARES = (0.25, 0.5)
# Where new texts keep so much less of their variance, the directions are no longer theirs.
DRIFT = 0.9
# A namespace that has shrunk to this share of the bound gets whole vectors again.
SHRUNK = 0.5
# So many at a time; so few while somebody asks (see `precedence`).
QUIET_TRACES, ASKED_TRACES = 200, 4
# What a text takes in the graph besides its numbers: 32 links and their count, its label, its share of the upper levels.
GRAPH_BYTES = 148


@dataclass(slots=True)
class Compaction:
    """Looks after the serving index, one namespace at a time. `between_searches` lets nobody search."""

    store: Store
    indexer: Indexer
    settings: IndexSettings
    candidates: int
    between_searches: Callable[[], AbstractAsyncContextManager[None]]
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    # By namespace and numbers: at which size too little was found, so that it is not tried again at once.
    _refused: dict[tuple[int, int], int] = field(default_factory=dict)

    async def turn(self, meaning: Meaning) -> None:
        """Look, and wait until it is time to look again."""
        await self.look(meaning)
        await asyncio.sleep(LOOK_EVERY_S)

    async def look(self, meaning: Meaning) -> None:
        """Bring every namespace to the shape it should have. Raises: ExceptionGroup of what kept some from it."""
        index, problems = meaning.index, list[TracebankError]()
        if not isinstance(index, ChromaVectorIndex):
            return
        async with self._looking:
            for space in (await self.store.read(traces.namespace_ids)).values():
                pair = index.pair(space)
                bound = self.settings.compression_from
                few = not await self.store.read(lambda db: vectors.has_chunks(db, space, bound))  # noqa: B023
                if few and pair.serving.dims is None and pair.following is None:
                    # To count the texts Chroma would open the collection, a megabyte each.
                    continue
                try:
                    while await self._step(meaning, index, space):
                        pass
                except TracebankError as error:
                    # The others are brought to their shape all the same.
                    problems.append(error)
        if problems:
            raise ExceptionGroup("some namespaces cannot be brought to another shape yet", problems)

    async def _step(self, meaning: Meaning, index: ChromaVectorIndex, space: int) -> bool:
        """Do one rebuild of a namespace where it is due. Returns whether another may be."""
        # Chroma is asked only while nobody cleans its database: that takes it for itself.
        async with self.indexer.paused("vectors"):
            count, pair = await to_thread.run_sync(index.count, space), index.pair(space)
        dim = meaning.embedding.dim or 0
        wanted = self.dims(space, count, dim, pair.serving.dims)
        if pair.following is None or pair.following.dims != wanted:
            if wanted == pair.serving.dims and not (wanted and await self._drifted(meaning, index, space)):
                if pair.following is not None:
                    await to_thread.run_sync(index.drop, space)
                return False
            projection = await self._projection(meaning, space, wanted)
            async with self.indexer.paused("vectors"):
                await to_thread.run_sync(index.begin, space, projection)
        if not await self._fill(meaning, index, space):
            return False
        recall = await self._recall(meaning, index, space) if wanted else None
        if wanted and recall is not None and recall < LEAST_RECALL:
            log.warning("vectors of %d numbers find %.3f of the nearest in namespace %d: too few", wanted, recall, space)
            self._refused[space, wanted] = count
            async with self.indexer.paused("vectors"):
                await to_thread.run_sync(index.drop, space)
            return True
        async with self.indexer.paused("vectors"), self.between_searches():
            if index.pair(space).following is None:
                return False
            await to_thread.run_sync(index.exchange, space, recall)
        async with self.indexer.paused("vectors"):
            await to_thread.run_sync(index.tidy)
        log.warning("namespace %d has vectors of %s numbers in its index from now on", space, wanted or dim)
        return False

    def dims(self, space: int, count: int, dim: int, present: int | None) -> int | None:
        """Return how many numbers a vector of the namespace should have; None: all."""
        setting = self.settings.compression
        bound = self.settings.compression_from * (SHRUNK if present else 1)
        if setting == "off" or count < max(bound, PROBES):
            return None
        tried = [setting] if isinstance(setting, int) else [int(dim * share) for share in AUTO_SHARES]
        # Of fewer texts than directions none are found.
        fitting = [dims for dims in tried if dims < min(dim, count) and count > 2 * self._refused.get((space, dims), 0)]
        return present if present in fitting else fitting[0] if fitting else None

    async def _drifted(self, meaning: Meaning, index: ChromaVectorIndex, space: int) -> bool:
        projection = index.projection(index.pair(space).serving)
        newest = await self.store.read(lambda db: traces.newest(db, space, limit=500))
        held = await self.store.read(lambda db: vectors.of_traces(db, meaning.model_id, newest))
        return projection is not None and len(held.numbers) >= PROBES and projection.kept_of(held.matrix) < DRIFT * projection.kept

    async def _projection(self, meaning: Meaning, space: int, dims: int | None) -> Projection | None:
        if dims is None:
            return None
        # In the order of hashes, which is by chance.
        _, sample = await self.store.read(lambda db: vectors.by_hash(db, meaning.model_id, space, after=b"", limit=SAMPLE))
        return await to_thread.run_sync(fit, sample, dims)

    async def _fill(self, meaning: Meaning, index: ChromaVectorIndex, space: int) -> bool:
        """Write everything of the store into the generation that follows, from where it was left.

        Returns False where that is gone: the index was emptied meanwhile.
        """
        precedence = self.indexer.precedence
        while True:
            # Nothing is written to the index meanwhile: what is deleted here after it was read is deleted there after it came.
            async with self.indexer.paused("vectors"):
                if (pair := index.pair(space)).following is None:
                    return False
                after, at_once = pair.filled_to, ASKED_TRACES if precedence.lately else QUIET_TRACES
                rows = await self.store.read(lambda db: traces.next_rows(db, [space], after=after, limit=at_once))  # noqa: B023
                if not rows:
                    return True
                texts = await self.store.read(lambda db: _texts(db, meaning.model_id, space, rows))  # noqa: B023
                while len(texts) > (size := precedence.texts):
                    part, texts = texts[:size], texts[size:]
                    await to_thread.run_sync(index.fill, space, part, None)
                    await precedence.give_way()
                await to_thread.run_sync(index.fill, space, texts, rows[-1])
            await precedence.give_way()

    async def _recall(self, meaning: Meaning, index: ChromaVectorIndex, space: int) -> float:
        """Return how much of the exact nearest 10 of a sample the next generation finds, rescored as a search does."""
        probes, best = await to_thread.run_sync(self._nearest, meaning, space)
        if not len(probes):
            # Nothing is left to be found.
            return 1.0
        async with self.indexer.paused("vectors"):
            width = search_width(await self.store.read(lambda db: traces.count(db, space)), short=True)
            rescored = await to_thread.run_sync(lambda: [self._rescored(meaning, index, space, probe, width) for probe in probes])
        # Those as near as the tenth of all; the margin is what adding up in another order makes.
        return round(float(np.mean(np.stack(rescored) >= best.min(axis=1, keepdims=True) - 1e-5)), 4)

    def _nearest(self, meaning: Meaning, space: int) -> tuple[Vectors, Vectors]:
        """Return vectors to ask with, [PROBES, dim], and the cosines of the exact nearest of each, [PROBES, TOP]. Blocks."""
        after, probes, best = b"", np.empty((0, 0), np.float32), np.empty((0, TOP), np.float32)
        while True:
            hashes, matrix = self.store.read_now(lambda db: vectors.by_hash(db, meaning.model_id, space, after=after, limit=PART))  # noqa: B023
            if not hashes:
                break
            if not after:
                probes = _probes(matrix)
                best = np.full((len(probes), TOP), -2.0, np.float32)
            best = -np.partition(-np.hstack([best, probes @ matrix.T]), TOP - 1, axis=1)[:, :TOP]
            after = hashes[-1]
        return probes, best

    def _rescored(self, meaning: Meaning, index: ChromaVectorIndex, space: int, probe: Vectors, width: int) -> Vectors:
        """Return the cosines of the best that are found, [TOP]."""
        taken = RESCORED * self.candidates
        near = list(islice(index.query(space, probe, max(width, taken), following=True), taken))
        _, matrix = self.store.read_now(lambda db: vectors.of_texts(db, meaning.model_id, near))
        scores = np.full(TOP, -2.0, np.float32)
        scores[: min(TOP, len(matrix))] = np.sort(matrix @ probe)[::-1][:TOP]
        return scores


def _probes(sample: Vectors) -> Vectors:
    """Return vectors to ask with, [PROBES, dim]: texts of the sample, off by half of another text, as a question is."""
    first = sample[: min(PROBES, len(sample))]
    mixed: Vectors = first + 0.5 * np.roll(sample, 1, axis=0)[: len(first)]
    mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
    return mixed


def _texts(db: sqlite3.Connection, model: int, space: int, rows: Sequence[int]) -> list[IndexedText]:
    """Return the texts of these traces that have a vector; the others come when they have one."""
    (work,) = load_work(db, [Entry(seq=0, row=row, namespace_id=space) for row in rows], max_chunks=UNBOUNDED)
    return work.indexed_texts(vectors.get(db, model, work.texts()))


def figures(index: ChromaVectorIndex, space: int, count: int, dim: int) -> dict[str, float | int | None]:
    """Return what `stats` tells of a namespace's vectors: numbers each, recall, and memory now and with whole vectors, by calculation."""
    serving = index.pair(space).serving
    dims = serving.dims or dim
    return {
        "texts": count, "dims": dims, "recall_at_10": serving.recall,
        "bytes": count * (4 * dims + GRAPH_BYTES), "bytes_whole": count * (4 * dim + GRAPH_BYTES),
    }  # fmt: skip
