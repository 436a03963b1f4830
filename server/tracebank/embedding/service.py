"""One queue in front of the model, shared by all callers.

Questions go before bulk work and share a batch with each other; bulk work is cut into batches of texts of like
length, bounded by their padded size, so that a question waits for one small batch at most. The model loads in the
background; until it is there, nothing waits for it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from tracebank.caching import LruCache
from tracebank.embedding.base import EmbeddingModel, Vectors
from tracebank.errors import EmbeddingError, ModelLoadError, TracebankError
from tracebank.metrics import Metrics

# English has about 4 characters a token; only the shape of a batch depends on it, never a result.
CHARS_PER_TOKEN = 4
MAX_BATCH_TEXTS = 64


@dataclass(slots=True)
class _Job:
    texts: Sequence[str]
    done: Future[Vectors]
    batches: deque[list[int]] = field(default_factory=deque)
    rows: dict[int, Vectors] = field(default_factory=dict)

    def settle(self) -> None:
        if len(self.rows) == len(self.texts):
            self.done.set_result(np.stack([self.rows[i] for i in range(len(self.texts))]))


def length_batches(texts: Sequence[str], *, max_tokens: int) -> deque[list[int]]:
    """Return the positions of the texts in batches of like length, each at most `max_tokens` with its padding."""
    batches: deque[list[int]] = deque()
    batch: list[int] = []
    for i in sorted(range(len(texts)), key=lambda i: (len(texts[i]), i)):
        # Ascending lengths: the text that comes next decides the padding of the whole batch.
        padded_tokens = (len(batch) + 1) * (len(texts[i]) // CHARS_PER_TOKEN + 2)
        if batch and (padded_tokens > max_tokens or len(batch) >= MAX_BATCH_TEXTS):
            batches.append(batch)
            batch = []
        batch.append(i)
    if batch:
        batches.append(batch)
    return batches


class EmbeddingService:
    """Owns the model and the thread that runs it. `name` is known before the model is loaded."""

    def __init__(
        self,
        load: Callable[[], EmbeddingModel],
        *,
        name: str,
        max_batch_tokens: int,
        cache_size: int,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._load, self.name, self._max_batch_tokens, self._metrics = load, name, max_batch_tokens, metrics
        self.cache: LruCache[str, Vectors] = LruCache(capacity=cache_size, ttl_s=float("inf"), clock=clock)
        self._wake = threading.Condition()
        self._questions: deque[_Job] = deque()
        self._bulk: deque[_Job] = deque()
        self._closing = False
        self._loaded: Future[EmbeddingModel] = Future()
        # Running: who stops waiting for the model must not cancel it for the others.
        self._loaded.set_running_or_notify_cancel()
        self._thread = threading.Thread(target=self._run, name="embedding", daemon=True)

    def start(self) -> None:
        """Begin to load the model."""
        self._thread.start()

    def close(self) -> None:
        """Let the batch in work finish and end the thread; who still waits hears an EmbeddingError."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._loaded.done() and self._thread.is_alive():
            self._thread.join()
        # A model that is still loading cannot be interrupted; its thread is a daemon and ends with the process.
        self._abandon(EmbeddingError("the engine is shutting down"))

    @property
    def ready(self) -> bool:
        """Whether the model is loaded."""
        return self._loaded.done() and self._loaded.exception() is None

    @property
    def error(self) -> TracebankError | None:
        """Why the model could not be loaded, if so."""
        failure = self._loaded.exception() if self._loaded.done() else None
        return failure if isinstance(failure, TracebankError) else None

    @property
    def dim(self) -> int | None:
        """The length of a vector, once the model is loaded."""
        return self._loaded.result().dim if self.ready else None

    async def loaded(self) -> None:
        """Wait until the model is loaded. Raises: ModelLoadError."""
        await asyncio.wrap_future(self._loaded)

    async def embed_questions(self, texts: Sequence[str]) -> list[Vectors]:
        """Return a unit vector [dim] for each question, from the cache where it is known. Raises: EmbeddingError."""
        known = {text: self.cache.get(text) for text in dict.fromkeys(texts)}
        unknown = [text for text, vector in known.items() if vector is None]
        if unknown:
            with self._metrics.timed("embed_query"):
                vectors = await self._submit(self._questions, unknown)
            for text, vector in zip(unknown, vectors, strict=True):
                self.cache.put(text, vector)
                known[text] = vector
        return [vector for text in texts if (vector := known[text]) is not None]

    async def embed_chunks(self, texts: Sequence[str]) -> Vectors:
        """Return float32 [len(texts), dim] for many texts, behind the questions. Raises: EmbeddingError."""
        if not texts:
            return np.empty((0, self.dim or 0), np.float32)
        return await self._submit(self._bulk, texts)

    async def _submit(self, line: deque[_Job], texts: Sequence[str]) -> Vectors:
        job = _Job(texts, Future(), length_batches(texts, max_tokens=self._max_batch_tokens))
        # From here on the caller's cancellation no longer reaches the future: the thread settles it, alone.
        job.done.set_running_or_notify_cancel()
        with self._wake:
            if self._closing:
                raise self.error or EmbeddingError("the engine is shutting down")
            line.append(job)
            self._wake.notify()
        return await asyncio.wrap_future(job.done)

    def _run(self) -> None:
        started = time.perf_counter()
        try:
            model = self._load()
        except BaseException as error:  # whatever it is, everybody hears of it
            failure = error if isinstance(error, TracebankError) else ModelLoadError(f"the embedding model could not be loaded: {error}")
            failure.__cause__ = None if failure is error else error
            self._loaded.set_exception(failure)
            with self._wake:
                self._closing = True
            self._abandon(failure)
            return
        self._metrics.observe("model_load", (time.perf_counter() - started) * 1e3)
        self._loaded.set_result(model)
        while (work := self._next()) is not None:
            self._encode(model, work)
        self._abandon(EmbeddingError("the engine is shutting down"))

    def _next(self) -> list[tuple[_Job, list[int]]] | None:
        """Return the next batch as (job, positions) pairs, waiting for one; None at the end."""
        with self._wake:
            while not (self._questions or self._bulk or self._closing):
                self._wake.wait()
            if self._closing:
                return None
            if self._questions:
                work = [(job, batch) for job in self._questions for batch in job.batches]
                self._questions.clear()
                return work
            job = self._bulk[0]
            batch = job.batches.popleft()
            if not job.batches:
                self._bulk.popleft()
            return [(job, batch)]

    def _encode(self, model: EmbeddingModel, work: Sequence[tuple[_Job, list[int]]]) -> None:
        places = [(job, i) for job, batch in work for i in batch]
        started = time.perf_counter()
        try:
            encoded = list(zip(places, model.encode([job.texts[i] for job, i in places]), strict=True))
        except BaseException as error:  # every waiter is settled, and the next batch is served
            self._fail(work, error)
            return
        self._metrics.observe("embed_batch", (time.perf_counter() - started) * 1e3)
        self._metrics.count("embedded_texts", len(places))
        for (job, i), vector in encoded:
            job.rows[i] = vector
        for job in {id(job): job for job, _ in work}.values():
            job.settle()

    def _fail(self, work: Sequence[tuple[_Job, list[int]]], error: BaseException) -> None:
        failure = error if isinstance(error, EmbeddingError) else EmbeddingError(f"the model failed: {error}")
        failure.__cause__ = None if failure is error else error
        for job in {id(job): job for job, _ in work}.values():
            job.done.set_exception(failure)
            if self._bulk and self._bulk[0] is job:
                self._bulk.popleft()

    def _abandon(self, error: TracebankError) -> None:
        with self._wake:
            for job in (*self._questions, *self._bulk):
                if not job.done.done():
                    job.done.set_exception(error)
