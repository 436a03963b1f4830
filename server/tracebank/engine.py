"""The engine: opens and owns the store, the indexes, the model and the caches of one data directory.

    async with Engine.open(settings) as engine:
        session = engine.session()
        await engine.add({"task": "…"}, session)

This is what tools call. Raw arguments come in and are checked here; nothing is stored before all of them are.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import uuid_utils
from anyio import from_thread, to_thread

from tracebank import __version__
from tracebank.caching import LruCache
from tracebank.chunking import Chunk, chunks_of
from tracebank.compression import Compressed, compress
from tracebank.compression.extract.rendering import bare_mark, numbered_mark
from tracebank.compression.meaning import read_in_small_batches
from tracebank.embedding import EmbeddingService, load_model, vectors_name
from tracebank.embedding.base import Vectors
from tracebank.errors import DataDirError, TracebankError
from tracebank.index import ChromaVectorIndex, TantivyWordIndex
from tracebank.indexer import Indexer
from tracebank.locking import DataDirLock
from tracebank.metrics import Metrics
from tracebank.records import Limits, Query, Trace, parse_trace
from tracebank.retrieval import Page, Ranked, Retriever, Searched, present
from tracebank.retrieval.presentation import Span
from tracebank.retrieval.request import cursor_at, offset_of, parse_query
from tracebank.settings import Settings
from tracebank.store import Added, Store, StoredTrace, originals, outbox, traces, vectors
from tracebank.store.outbox import Sink
from tracebank.tokens import Tokenizer, TokenizerLoader

log = logging.getLogger(__name__)

STORE_NAME = "tracebank.sqlite3"
# Below this a text is chunked and counted on the event loop: a thread would cost more.
SMALL_CHARS = 20_000
CACHED_RANKINGS = 200
# Above every number of the outbox: all that somebody waits for, but no bulk work.
EVERYTHING = 2**62
FORGET_TIMEOUT_S = 60.0


@dataclass(slots=True)
class Session:
    """One client's connection: its namespace, and what it wrote last, which its searches wait for."""

    engine: Engine
    namespace: str
    last_seq: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedTrace:
    """What `add` did. `indexed`: it can already be found by meaning, too."""

    trace_id: str
    status: Literal["created", "updated", "unchanged"]
    chunks: int
    tokens: int
    indexed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieved:
    """One page of memories. `dense`: whether meaning took part in finding them."""

    page: Page
    namespaces: tuple[str, ...]
    dense: bool
    note: str
    next_cursor: str | None


@dataclass(slots=True)
class _Startup:
    """How long each part took to come up, in milliseconds."""

    began: float = field(default_factory=time.perf_counter)
    parts_ms: dict[str, float] = field(default_factory=dict)

    def done(self, part: str, since: float | None = None) -> None:
        self.parts_ms[part] = round((time.perf_counter() - (since or self.began)) * 1e3, 1)


class Engine:
    """Everything of one data directory. Open it with `Engine.open`; its methods belong to one event loop."""

    def __init__(self, settings: Settings, store: Store, words: TantivyWordIndex, startup: _Startup, *, clock: Callable[[], float]) -> None:
        self.settings, self.store, self.words, self.startup = settings, store, words, startup
        self.limits, self.metrics = Limits(), Metrics()
        self.started_at = clock()
        self._clock = clock
        self.vectors: ChromaVectorIndex | None = None
        self.problems: dict[str, str] = {}
        # What the outermost floor has to say of its plug-ins, for `stats`.
        self.plugins: dict[str, Any] = {}
        self.tokenizers = TokenizerLoader(settings.tokens.encoding, cache_dir=settings.data_dir / "tiktoken")
        cache = settings.cache
        self.results: LruCache[object, Retrieved] = LruCache(capacity=cache.results, ttl_s=cache.results_ttl_s, clock=time.monotonic)
        self.rankings: LruCache[object, Searched] = LruCache(capacity=CACHED_RANKINGS, ttl_s=cache.results_ttl_s, clock=time.monotonic)
        self.spaces: dict[str, int] = {}
        self._generations: dict[int, int] = {}
        # The last trace that somebody waits for, and up to where words are known to be searchable.
        self._last_seq = self._searchable_seq = 0
        # Set when meaning takes part in search, or it is known that it will not.
        self.warm = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        model = settings.embedding
        self.embedding = EmbeddingService(
            lambda: load_model(
                model.model, device=model.device, precision=model.precision, engine=model.engine,
                directory=Path(model.cache_dir).expanduser() if model.cache_dir else settings.data_dir / "models",
            ),
            name=vectors_name(model.model, precision=model.precision, engine=model.engine),
            max_batch_tokens=model.batch_tokens, cache_size=cache.query_vectors,
            metrics=self.metrics, clock=time.monotonic,
        )  # fmt: skip
        self.indexer = Indexer(
            store=store, words=words, embedding=self.embedding, settings=settings.index, metrics=self.metrics, changed=self._changed
        )
        self.retriever = Retriever(
            store=store, words=words, embedding=self.embedding, candidates=settings.retrieval.candidates, metrics=self.metrics
        )

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, *, mode: str = "engine", clock: Callable[[], float] = time.time) -> AsyncIterator[Engine]:
        """Open the data directory for this process alone; close it cleanly at the end.

        Words are searchable when this returns; the model and Chroma follow in the background. `mode` tells others who
        find the directory in use whether they can connect.
        Raises: DataDirError and its kinds, StoreError and its kinds.
        """
        startup = _Startup()
        prepare_data_dir(settings.data_dir)
        lock = DataDirLock(settings.data_dir)
        about = {"pid": os.getpid(), "version": __version__, "data_dir": str(settings.data_dir), "started_at": clock(), "mode": mode}
        lock.acquire(about)
        try:
            store = Store.open(settings.data_dir / STORE_NAME)
            startup.done("store")
            try:
                words = TantivyWordIndex(settings.data_dir / "index" / "words")
                engine = cls(settings, store, words, startup, clock=clock)
                async with engine._running():
                    yield engine
            finally:
                store.close()
        finally:
            lock.release()

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        self.spaces = await self.store.read(traces.namespace_ids)
        if self.words.fresh:
            await self.store.write(lambda db: outbox.fill(db, "words"))
            self.words.mark_filled()
        self.startup.done("words")
        self.tokenizers.start()
        self.embedding.start()
        self._spawn("indexer", self.indexer.run)
        self._spawn("meaning", self._warm_up).add_done_callback(lambda _: self.warm.set())
        try:
            yield
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self.embedding.close()
            self.words.close()
            if self.vectors is not None:
                self.vectors.close()

    async def _warm_up(self) -> None:
        """Open Chroma while the model loads; when both are there, meaning takes part."""
        began = time.perf_counter()
        model = self.embedding.name
        directory = self.settings.data_dir / "index" / "vectors"
        opening = asyncio.ensure_future(asyncio.to_thread(ChromaVectorIndex, directory, model=model))
        try:
            index = await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The thread goes on; the directory is ours until it has ended and its index is closed.
            (await opening).close()
            raise
        self.startup.done("chroma", began)
        self.vectors = index
        if index.fresh:
            await self.store.write(lambda db: outbox.fill(db, "vectors"))
            index.mark_filled()
        model_id = await self.store.write(lambda db: vectors.model_id(db, model))
        await self.embedding.loaded()
        self.startup.done("model", began)
        self.indexer.attach(index, model_id)
        self.retriever.attach(index, model_id)

    def _spawn(self, name: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        task = asyncio.create_task(self._supervised(name, work), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _supervised(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:  # a part that fails is told in `stats`, and the others go on
            cause: BaseException = error
            while isinstance(cause, BaseExceptionGroup):
                cause = cause.exceptions[0]
            self.problems[name] = str(cause)
            # What we raise on purpose says it all; of anything else the place is wanted.
            log.error("%s has failed: %s", name, cause, exc_info=not isinstance(cause, TracebankError))  # noqa: TRY400 - as just said

    def session(self, namespace: str | None = None) -> Session:
        """Return a session for one client."""
        return Session(self, namespace or self.settings.namespace)

    # -- storing ------------------------------------------------------------------------------------------------

    async def add(self, raw: Mapping[str, Any], session: Session) -> AddedTrace:
        """Store one trace; it is on disk when this returns. Raises: InputError, StoreError."""
        with self.metrics.timed("add_trace"):
            trace = parse_trace(raw, limits=self.limits, namespace=session.namespace, trace_id=new_trace_id())
            chunks, tokens = await self._cut(trace)
            added = await self._put([(trace, chunks)], outbox.INTERACTIVE)
        if added[0].seq is not None:
            # Another add may have come in between: never back.
            session.last_seq = max(added[0].seq, session.last_seq or 0)
            self._last_seq = max(added[0].seq, self._last_seq)
        indexed = added[0].seq is None and not await self.store.read(lambda db: outbox.is_waiting(db, added[0].row))
        return AddedTrace(trace_id=trace.trace_id, status=added[0].status, chunks=added[0].chunks, tokens=tokens, indexed=indexed)

    async def add_many(self, items: Sequence[Trace]) -> list[Added]:
        """Store checked traces in one commit, to be indexed behind what somebody waits for. Raises: StoreError."""
        cut = await to_thread.run_sync(lambda: [(trace, self._chunks(trace)) for trace in items])
        return await self._put(cut, outbox.BULK)

    async def _put(self, items: Sequence[tuple[Trace, Sequence[Chunk]]], priority: int) -> list[Added]:
        now_ms = round(self._clock() * 1000)
        added = await self.store.write(
            lambda db: [traces.upsert(db, trace, chunks, now_ms=now_ms, priority=priority) for trace, chunks in items]
        )
        if any(trace.namespace not in self.spaces for trace, _ in items):
            self.spaces = await self.store.read(traces.namespace_ids)
        for space in {self.spaces[trace.namespace] for trace, _ in items}:
            self._changed(space)
        self.indexer.notify()
        return added

    async def _cut(self, trace: Trace) -> tuple[list[Chunk], int]:
        tokenizer = await self.tokenizer()

        def cut() -> tuple[list[Chunk], int]:
            return self._chunks(trace), tokenizer.count(trace.text)

        return cut() if len(trace.content) < SMALL_CHARS else await to_thread.run_sync(cut)

    def _chunks(self, trace: Trace) -> list[Chunk]:
        return chunks_of(trace, words=self.settings.index.chunk_words, overlap_words=self.settings.index.chunk_overlap_words)

    async def forget(self, rows: Sequence[int]) -> int:
        """Delete traces for good: from the store and its file now, from the indexes at once after. Returns how many."""
        spaces = await self.store.read(lambda db: traces.spaces_of(db, rows))
        deleted = await self.store.write(lambda db: traces.delete(db, rows))
        for space in spaces:
            self._changed(space)
        self.indexer.notify()
        await self.indexer.wait(self._sinks, up_to=EVERYTHING, timeout_s=FORGET_TIMEOUT_S)
        await self.store.shrink()
        return deleted

    # -- finding ------------------------------------------------------------------------------------------------

    async def retrieve(self, raw: Mapping[str, Any], session: Session) -> Retrieved:
        """Return the memories that help with a task. Raises: InputError, StoreError."""
        query = parse_query(raw, limits=self.limits, defaults=self.settings.retrieval, namespace=session.namespace)
        offset = offset_of(query)
        with self.metrics.timed("retrieve"):
            complete = await self._settle(session)
            key = (query, self._generation(query), self.retriever.deep)
            answer = self.results.get(key)
            if answer is None:
                answer = await self._answer(query, offset, complete)
                # An answer that is less deep than it could be is not kept.
                if complete and (answer.dense or not self.retriever.deep):
                    self.results.put(key, answer)
        return answer

    async def _settle(self, session: Session) -> bool:
        """Wait, bounded, until everybody's writes are found by words and the session's own by meaning, too.

        Returns whether they are.
        """
        timeout_s = self.settings.retrieval.wait_ms / 1000
        if self._searchable_seq < (latest := self._last_seq):
            if not await self.indexer.wait(("words",), up_to=latest, timeout_s=timeout_s):
                return False
            self._searchable_seq = latest
        if (own := session.last_seq) is not None and self.retriever.deep:
            if not await self.indexer.wait(("vectors",), up_to=own, timeout_s=timeout_s):
                return False
            if session.last_seq == own:
                session.last_seq = None
        return True

    @property
    def _sinks(self) -> tuple[Sink, ...]:
        return ("words", "vectors") if self.retriever.deep else ("words",)

    async def _answer(self, query: Query, offset: int, complete: bool) -> Retrieved:
        known = [name for name in query.namespaces or self.spaces if name in self.spaces]
        searched = await self._ranking(query, [self.spaces[name] for name in known])
        self._see_to_faults()
        notes = [searched.note, "" if complete else "your latest traces are still being indexed", await self._unknown(query, searched)]
        note = "; ".join(part for part in notes if part)
        found, end = await self._load(searched.ranking, offset, query.k)
        tokenizer = await self.tokenizer()
        several = len(query.namespaces) != 1

        def render() -> Page:
            return present(found, tokenizer=tokenizer, max_tokens=query.max_tokens, detail=query.detail, note=note, several=several)

        return Retrieved(
            page=await to_thread.run_sync(render), namespaces=tuple(known), dense=searched.dense, note=note,
            next_cursor=cursor_at(query, end) if end < len(searched.ranking) else None,
        )  # fmt: skip

    async def _ranking(self, query: Query, spaces: Sequence[int]) -> Searched:
        key = (query.texts, query.namespaces, query.filters, self._generation(query), self.retriever.deep)
        searched = self.rankings.get(key)
        if searched is None:
            searched = await self.retriever.search(query.texts, spaces, query.filters)
            if searched.dense or not searched.note:
                self.rankings.put(key, searched)
        return searched

    async def _load(self, ranking: Sequence[Ranked], offset: int, k: int) -> tuple[list[tuple[StoredTrace, Ranked, list[Span]]], int]:
        """Return the next k of the ranking that still exist, and where the page behind them begins."""
        found: list[tuple[StoredTrace, Ranked, list[Span]]] = []
        while len(found) < k and offset < len(ranking):
            part = ranking[offset : offset + k - len(found)]
            rows = [ranked.row for ranked in part]
            stored, spans = await self.store.read(partial(_with_spans, rows=rows))
            found += [(stored[ranked.row], ranked, spans.get(ranked.row, [])) for ranked in part if ranked.row in stored]
            offset += len(part)
        return found, offset

    async def _unknown(self, query: Query, searched: Searched) -> str:
        # Counting reads every trace's entry: only where a namespace is new to us, or may have been emptied.
        if not query.namespaces or (searched.ranking and all(name in self.spaces for name in query.namespaces)):
            return ""
        counts = await self.store.read(traces.namespaces)
        missing = [name for name in query.namespaces if name not in counts]
        if not missing:
            return ""
        known = ", ".join(list(counts)[:20]) or "none yet"
        return f"no traces in namespace {', '.join(missing)}; namespaces that have some: {known}"

    def _see_to_faults(self) -> None:
        for sink, fault in self.retriever.take_faults().items():
            self._spawn(f"repair of {sink}", partial(self.indexer.repair, sink, fault))

    def _changed(self, space: int) -> None:
        self._generations[space] = self._generations.get(space, 0) + 1

    def _generation(self, query: Query) -> tuple[int, ...]:
        """Return what changes whenever an answer to this query may: the write counts of the namespaces it searches."""
        if not query.namespaces:
            return (sum(self._generations.values()),)
        return tuple(self._generations.get(self.spaces.get(name, 0), 0) for name in query.namespaces)

    async def trace(self, trace_id: str, session: Session) -> StoredTrace | None:
        """Return a trace by its id: from the session's namespace, else from the only other one that has it."""
        rows = await self.store.read(lambda db: traces.rows_of(db, [trace_id], [session.namespace]) or traces.rows_of(db, [trace_id]))
        if len(rows) != 1:
            return None
        return (await self.store.read(lambda db: traces.load(db, rows))).get(rows[0])

    # -- compressing --------------------------------------------------------------------------------------------

    async def tokenizer(self) -> Tokenizer:
        """Return the real tokenizer, or after a bounded wait the estimate."""
        waited_s = time.perf_counter() - self.startup.began
        timeout_s = max(0.0, self.settings.tokens.timeout_s - waited_s)
        if self.tokenizers.settled or not timeout_s:
            return self.tokenizers.current(0)
        return await to_thread.run_sync(self.tokenizers.current, timeout_s)

    async def compress(
        self, text: str, *, budget_tokens: int | None, ratio: float | None, keep_original: bool = False, **options: Any
    ) -> tuple[Compressed, str | None]:
        """Fit a text into a budget, or into a fraction of its own length. Raises: InputError, StoreError.

        Returns the id of what was cut, too, if it is to be kept and anything was.
        """
        tokenizer = await self.tokenizer()
        defaults = self.settings.compression

        def run() -> Compressed:
            budget = budget_tokens
            if budget is None:
                budget = max(1, int(tokenizer.count(text) * (ratio or defaults.ratio)))
            ends = (defaults.head_share, defaults.tail_share)
            mark = numbered_mark if keep_original else bare_mark
            return compress(
                text, budget_tokens=budget, tokenizer=tokenizer, meaning=self._meaning_in_thread, ends=ends, mark=mark, **options
            )

        with self.metrics.timed("compress_prompt"):
            compressed = await to_thread.run_sync(run)
            original_id = await self._keep(text, compressed) if keep_original and compressed.text != text else None
        self.metrics.count("compressed_tokens_in", compressed.original_tokens)
        self.metrics.count("compressed_tokens_out", compressed.tokens)
        return compressed, original_id

    async def _keep(self, text: str, compressed: Compressed) -> str:
        defaults, now_ms = self.settings.compression, round(self._clock() * 1000)
        bounds = originals.Bounds(max_bytes=defaults.originals_bytes, max_age_ms=round(defaults.originals_age_s * 1000))
        return await self.store.write(
            lambda db: originals.put(db, text, compressed.cut_from, compressed.gaps, now_ms=now_ms, bounds=bounds)
        )

    async def original(self, original_id: str) -> originals.Original | None:
        """Return what `compress` has kept under an id; None where there is nothing (any more)."""
        return await self.store.read(lambda db: originals.get(db, original_id))

    def _meaning_in_thread(self, texts: Sequence[str]) -> Vectors | None:
        """Embed texts from a worker thread; None where the model is not there."""
        return from_thread.run(read_in_small_batches, self.embedding, texts)


def _with_spans(db: sqlite3.Connection, rows: Sequence[int]) -> tuple[dict[int, StoredTrace], dict[int, list[Span]]]:
    return traces.load(db, rows), vectors.spans(db, rows)


def new_trace_id() -> str:
    """Return a UUIDv7: unique, and in the order of time."""
    return str(uuid_utils.uuid7())


def prepare_data_dir(data_dir: Path) -> None:
    """Create the directory for its owner alone. Raises: DataDirError."""
    # Memories are their owner's alone, whatever files a library makes.
    os.umask(0o077)
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise DataDirError(
            f"{data_dir} cannot be created: {error.strerror}; set TRACEBANK_DATA_DIR to a directory that can be written"
        ) from error
