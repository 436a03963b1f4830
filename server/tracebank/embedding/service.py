"""One queue in front of the model, shared by all callers.

Questions share a batch with each other; documents are put together by length, whoever they come from. A model that can
compute two batches at a time gives questions one thread and documents another of lower priority; with any other model
questions go first, and wait for one small batch at most. A text that several callers want is embedded once. The model
loads in the background; until it is there, what comes waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
from anyio import CapacityLimiter, to_thread

from tracebank.caching import LruCache
from tracebank.embedding.base import EmbeddingModel, Vectors
from tracebank.embedding.batches import estimated_tokens, next_batch
from tracebank.embedding.threads import thread_for_documents
from tracebank.embedding.token_vectors import DocumentEncoder, Embedded, TokenEncoder, TokenVectors
from tracebank.errors import EmbeddingError, ModelLoadError, TracebankError
from tracebank.metrics import Metrics

# Among how many waiting documents the next batch looks for some of one length.
SORTED_TEXTS = 512
# Above this a caller waits before it queues more; so the queue holds a few MB, whoever imports what.
MAX_WAITING_TEXTS = 4_096

# What came of a batch: of each text what the model says of it, or why it says nothing.
_Outcome = list[Embedded] | TracebankError
_Compute = Callable[[Sequence[str]], Awaitable[_Outcome]]
_Read = Callable[[Sequence[str]], tuple[Vectors, Sequence[TokenVectors | None]]]


@dataclass(slots=True, eq=False)
class _Wanted:
    """A text that is to be embedded, and everybody who waits for its vector."""

    text: str
    tokens: int
    waiters: list[asyncio.Future[Embedded]] = field(default_factory=list)

    def settle(self, outcome: Embedded | TracebankError) -> None:
        for waiter in self.waiters:
            if waiter.done():  # its caller was cancelled
                continue
            if isinstance(outcome, TracebankError):
                waiter.set_exception(outcome)
            else:
                waiter.set_result(outcome)


class EmbeddingService:
    """Owns the model. `name` is known before it is loaded. Everything here belongs to one event loop."""

    def __init__(
        self,
        load: Callable[[], EmbeddingModel],
        *,
        name: str,
        cache_bytes: int,
        metrics: Metrics,
        clock: Callable[[], float],
        batch_tokens: int = 0,
    ) -> None:
        """Make it; nothing is loaded yet. With `batch_tokens` 0 the model says itself what suits it."""
        self._load, self.name, self._batch_tokens, self._metrics = load, name, batch_tokens, metrics
        self.cache: LruCache[str, Embedded] = LruCache(max_bytes=cache_bytes, size_of=_bytes, clock=clock)
        self._model: EmbeddingModel | None = None
        self._failure: TracebankError | None = None
        self._settled = asyncio.Event()
        # Everything that waits or is in work, by text; and in the order of service, what waits.
        self._wanted: dict[str, _Wanted] = {}
        self._questions: dict[str, _Wanted] = {}
        self._documents: dict[str, _Wanted] = {}
        self._wakes: list[asyncio.Event] = []
        self._room = asyncio.Event()
        self._computing = CapacityLimiter(1)
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to load the model."""
        self._task = asyncio.create_task(self._run(), name="embedding")

    async def close(self) -> None:
        """Let the batch in work finish; who still waits hears an EmbeddingError."""
        self._closing = True
        self._wake()
        if isinstance(self._model, DocumentEncoder):
            await to_thread.run_sync(self._model.close)  # the batch in work may hang there
        if self._task is not None:
            if not self._settled.is_set():
                # Loading cannot be interrupted; its thread ends with the process.
                self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._abandon(self._failure or EmbeddingError("the engine is shutting down"))

    @property
    def ready(self) -> bool:
        """Whether the model is loaded."""
        return self._model is not None

    @property
    def error(self) -> TracebankError | None:
        """Why the model could not be loaded, if so."""
        return self._failure

    @property
    def model(self) -> EmbeddingModel | None:
        """The model, once it is loaded."""
        return self._model

    @property
    def dim(self) -> int | None:
        """The length of a vector, once the model is loaded."""
        return self._model.dim if self._model else None

    async def loaded(self) -> EmbeddingModel:
        """Wait until the model is loaded, and return it. Raises: ModelLoadError."""
        await self._settled.wait()
        if self._failure is not None:
            raise self._failure
        assert self._model is not None
        return self._model

    async def embed_questions(self, texts: Sequence[str]) -> list[Vectors]:
        """Return a unit vector [dim] for each question, from the cache where it is known. Raises: EmbeddingError."""
        return [embedded.vector for embedded in await self.read_questions(texts)]

    async def read_questions(self, texts: Sequence[str]) -> list[Embedded]:
        """Return vector and tokens of each question, from the cache where it is known. Raises: EmbeddingError."""
        known = {text: self.cache.get(text) for text in dict.fromkeys(texts)}
        unknown = [text for text, vector in known.items() if vector is None]
        if unknown:
            model = await self._usable()
            with self._metrics.timed("embed_query"):
                vectors = await self._embed([model.prompts.question + text for text in unknown], urgent=True)
            for text, embedded in zip(unknown, vectors, strict=True):
                known[text] = _without(model.prompts.question, embedded)
                self.cache.put(text, _without(model.prompts.question, embedded))
        return [vector for text in texts if (vector := known[text]) is not None]

    async def embed_chunks(self, texts: Sequence[str]) -> Vectors:
        """Return float32 [len(texts), dim] for documents, behind the questions. Raises: EmbeddingError."""
        found = await self.read_chunks(texts)
        return np.stack([embedded.vector for embedded in found]) if found else np.empty((0, self.dim or 0), np.float32)

    async def read_chunks(self, texts: Sequence[str]) -> list[Embedded]:
        """Return vector and tokens of documents, behind the questions. Raises: EmbeddingError."""
        if not texts:
            return []
        prompt = (await self._usable()).prompts.document
        return [_without(prompt, embedded) for embedded in await self._embed([prompt + text for text in texts], urgent=False)]

    async def _usable(self) -> EmbeddingModel:
        if self._closing:
            raise self._failure or EmbeddingError("the engine is shutting down")
        return await self.loaded()

    async def _embed(self, texts: Sequence[str], *, urgent: bool) -> list[Embedded]:
        waiting: list[asyncio.Future[Embedded]] = []
        try:
            for text in texts:
                while len(self._documents) >= MAX_WAITING_TEXTS and not urgent and not self._closing:
                    self._room.clear()
                    await self._room.wait()
                waiting.append(self._want(text, urgent=urgent))
        except BaseException:
            for future in waiting:
                future.cancel()
            raise
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]

    def _want(self, text: str, *, urgent: bool) -> asyncio.Future[Embedded]:
        if self._closing:
            raise self._failure or EmbeddingError("the engine is shutting down")
        wanted = self._wanted.get(text)
        if wanted is None:
            wanted = self._wanted[text] = _Wanted(text, estimated_tokens(text))
            (self._questions if urgent else self._documents)[text] = wanted
        elif urgent and self._documents.pop(text, None) is not None:
            self._questions[text] = wanted
        wanted.waiters.append(future := asyncio.get_running_loop().create_future())
        self._wake()
        return future

    def _wake(self) -> None:
        for event in self._wakes:
            event.set()

    async def _run(self) -> None:
        started = time.perf_counter()
        model = await to_thread.run_sync(_loaded, self._load, limiter=self._computing, abandon_on_cancel=True)
        if isinstance(model, TracebankError):
            self._failure, self._closing = model, True
            self._settled.set()
            self._abandon(model)
            return
        self._metrics.observe("model_load", (time.perf_counter() - started) * 1e3)
        self._model = model
        self._settled.set()
        await self._serve_lines(model)

    async def _serve_lines(self, model: EmbeddingModel) -> None:
        """Documents beside questions, where the model can compute two batches at a time, else behind them."""
        read = _reading(model)
        read_documents = model.encode_documents if isinstance(model, DocumentEncoder) else read
        loop = asyncio.get_running_loop()

        def at_once(texts: Sequence[str]) -> Awaitable[_Outcome]:
            return to_thread.run_sync(_encoded, read, texts, limiter=self._computing)

        def behind(texts: Sequence[str]) -> Awaitable[_Outcome]:
            return loop.run_in_executor(apart, _encoded, read_documents, texts)

        def tokens() -> int:
            return self._batch_tokens or model.batch_tokens

        def documents_tokens() -> int:
            return self._batch_tokens or (model.documents_batch_tokens if isinstance(model, DocumentEncoder) else model.batch_tokens)

        if model.concurrency == 1:
            await self._work(at_once, tokens, self._questions, self._documents)
            return
        with thread_for_documents() as apart:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._work(at_once, tokens, self._questions))
                group.create_task(self._work(behind, documents_tokens, self._documents))

    async def _work(self, compute: _Compute, max_tokens: Callable[[], int], *lines: dict[str, _Wanted]) -> None:
        """Serve these lines, the first before the next, until the end."""
        self._wakes.append(wake := asyncio.Event())
        while not self._closing:
            if batch := self._next(lines, max_tokens()):
                await self._serve(compute, batch)
            else:
                wake.clear()
                await wake.wait()

    def _next(self, lines: Sequence[dict[str, _Wanted]], max_tokens: int) -> list[_Wanted]:
        """Take the next batch out of the first line where somebody waits: texts of like length."""
        batch: list[_Wanted] = []
        # Who left may be all that is looked at, and others wait behind them.
        while not batch and (line := next((line for line in lines if line), None)):
            waiting = list(islice(line.values(), SORTED_TEXTS))
            wanted = [w for w in waiting if not all(waiter.done() for waiter in w.waiters)]
            for abandoned in set(waiting) - set(wanted):
                del line[abandoned.text], self._wanted[abandoned.text]
            batch = [wanted[i] for i in next_batch([w.tokens for w in wanted], max_tokens=max_tokens)] if wanted else []
            for taken in batch:
                del line[taken.text]
        self._room.set()
        return batch

    async def _serve(self, compute: _Compute, batch: Sequence[_Wanted]) -> None:
        started = time.perf_counter()
        outcome = await compute([w.text for w in batch])
        if isinstance(outcome, TracebankError) and len(batch) > 1 and not self._closing:
            # One text's fault is nobody else's.
            for wanted in batch:
                await self._serve(compute, [wanted])
            return
        if not isinstance(outcome, TracebankError):
            self._metrics.observe("embed_batch", (time.perf_counter() - started) * 1e3)
            self._metrics.count("embedded_texts", len(batch))
        for i, wanted in enumerate(batch):
            del self._wanted[wanted.text]
            wanted.settle(outcome if isinstance(outcome, TracebankError) else outcome[i])

    def _abandon(self, error: TracebankError) -> None:
        for wanted in self._wanted.values():
            wanted.settle(error)
        for line in (self._wanted, self._questions, self._documents):
            line.clear()
        self._failure = self._failure or (error if not self._settled.is_set() else None)
        self._settled.set()
        self._room.set()


def _loaded(load: Callable[[], EmbeddingModel]) -> EmbeddingModel | TracebankError:
    try:
        return load()
    except TracebankError as error:
        return error
    except BaseException as error:  # whatever it is, everybody hears of it
        failure = ModelLoadError(f"the embedding model could not be loaded: {error}")
        failure.__cause__ = error
        return failure


def _reading(model: EmbeddingModel) -> _Read:
    """Return how a model reads texts: with their tokens, where it tells of them."""
    return model.encode_tokens if isinstance(model, TokenEncoder) else lambda texts: (model.encode(texts), [None] * len(texts))


def _encoded(read: _Read, texts: Sequence[str]) -> _Outcome:
    try:
        vectors, tokens = read(texts)
        if len(vectors) == len(texts):
            # A copy: a row of it would keep the whole batch in the cache.
            return [Embedded(vector=vector.copy(), tokens=own) for vector, own in zip(vectors, tokens, strict=True)]
        failure = EmbeddingError(f"the model failed: it gave {len(vectors)} vectors for {len(texts)} texts")
    except EmbeddingError as error:
        return error
    except BaseException as error:  # every waiter is settled, and the next batch is served
        failure = EmbeddingError(f"the model failed: {error}")
        failure.__cause__ = error
    return failure


def _without(prompt: str, embedded: Embedded) -> Embedded:
    return replace(embedded, tokens=embedded.tokens.behind(len(prompt))) if prompt and embedded.tokens is not None else embedded


def _bytes(text: str, embedded: Embedded) -> int:
    return len(text) + embedded.nbytes
