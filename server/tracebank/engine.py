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
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import uuid_utils
from anyio import to_thread

from tracebank import __version__, memory
from tracebank.background import Background
from tracebank.caching import LruCache
from tracebank.chunking import Chunk, chunks_of
from tracebank.compression import Compressed
from tracebank.compressor import Compressor
from tracebank.embedding import EmbeddingService, ModelTokens
from tracebank.errors import DataDirError
from tracebank.gate import Gate
from tracebank.index import TantivyWordIndex, VectorIndex
from tracebank.indexer import Indexer
from tracebank.learning import Completed, Episode, Episodes, Judge, Learner, ModelReflector, Reflector, StepLog, StepReflector
from tracebank.llm import LlmClient, Spending, World
from tracebank.locking import DataDirLock
from tracebank.meaning import Meaning
from tracebank.metrics import Metrics
from tracebank.records import Filters, Limits, Query, Trace, parse_trace
from tracebank.retrieval import Page, Ranked, Retriever, Searched, present
from tracebank.retrieval.presentation import Span
from tracebank.retrieval.request import cursor_at, offset_of, parse_query
from tracebank.semantics import Semantics
from tracebank.settings import Settings
from tracebank.store import Added, Store, StoredTrace, originals, outbox, traces, vectors
from tracebank.store.outbox import Sink
from tracebank.tokens import Tokenizer, TokenizerLoader

log = logging.getLogger(__name__)

STORE_NAME, JOURNAL_NAME = "tracebank.sqlite3", "journal"
# Below this a text is chunked and counted on the event loop: a thread would cost more.
SMALL_CHARS = 20_000
# For the pages behind the first, which are asked for soon or never.
RANKINGS_BYTES = 4_194_304
RANKED_BYTES = 500
# Above every number of the outbox: all that somebody waits for, but no bulk work.
EVERYTHING = 2**62
FORGET_TIMEOUT_S = 60.0
TRIM_EVERY_S = 5.0
QUIET_TURNS = 3
# Memories that a client was shown lately: those of them that its next successful episode may owe something to.
RECALLED_TRACES = 20
# Traces that an episode is compared with.
COMPARED_TRACES = 20


@dataclass(slots=True)
class Session:
    """One client's connection: its namespace, and what it wrote last, which its searches wait for."""

    engine: Engine
    namespace: str
    last_seq: int | None = None
    # The namespace and id of what it was shown since its last episode, the newest last.
    recalled: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=RECALLED_TRACES))


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
        self.background = Background()
        # What the outermost floor has to say of its plug-ins, for `stats`.
        self.plugins: dict[str, Any] = {}
        self.tokenizers = TokenizerLoader(settings.tokens.encoding, cache_dir=settings.data_dir / "tiktoken")
        cache = settings.cache
        self.results: LruCache[object, Retrieved] = LruCache(
            capacity=cache.results, max_bytes=cache.results_bytes, size_of=_answer_bytes, ttl_s=cache.results_ttl_s, clock=time.monotonic
        )
        self.rankings: LruCache[object, Searched] = LruCache(
            max_bytes=RANKINGS_BYTES, size_of=_ranking_bytes, ttl_s=cache.results_ttl_s, clock=time.monotonic
        )
        self.spaces: dict[str, int] = {}
        self._generations: dict[int, int] = {}
        # The last trace that somebody waits for, and up to where words are known to be searchable.
        self._last_seq = self._searchable_seq = 0
        self._searching = Gate()
        self.token_spans = ModelTokens(settings.embedding, settings.models_dir)
        self.semantics = Semantics(
            settings=settings, store=store, metrics=self.metrics, background=self.background, searching=self._searching,
            came_up=startup.done, serves=self._serves,
        )  # fmt: skip
        self.indexer = Indexer(store=store, words=words, settings=settings.index, metrics=self.metrics, changed=self._changed)
        self.retriever = Retriever(
            store=store, words=words, embedding=self.embedding, candidates=settings.retrieval.candidates, metrics=self.metrics
        )
        self.compressor = Compressor(
            settings=settings.compression, store=store, metrics=self.metrics, tokenizer=self.tokenizer,
            embedding=lambda: self.embedding, now_ms=self.now_ms,
        )  # fmt: skip
        llm = settings.llm
        spending = Spending(store, daily_tokens=llm.daily_tokens, daily_usd=llm.daily_usd, clock=clock)
        world = World(
            spending=spending,
            metrics=self.metrics,
            tokenizer=self.tokenizer,
            compress=self._shortened,
            environ=os.environ,
            wall_clock=clock,
        )
        self.llm = LlmClient(llm, world)
        # Whoever learns more from an episode than its steps show is put before the one who reads the steps.
        self.reflectors: list[Reflector] = [*([ModelReflector(self.llm)] if self.llm.configured else ()), StepReflector()]
        self.learner = self._learner()

    def _learner(self) -> Learner:
        settings, limits = self.settings.learning, self.limits
        step_log = StepLog(
            store=self.store, directory=self.settings.data_dir / JOURNAL_NAME, settings=settings, limits=limits,
            metrics=self.metrics, now_ms=self.now_ms, new_id=new_trace_id,
        )  # fmt: skip
        judge = Judge(store=self.store, similar=self._similar, reflectors=self.reflectors, settings=settings, metrics=self.metrics)
        episodes = Episodes(
            store=self.store, step_log=step_log, judge=judge, keep=self._keep, changed=self._changed,
            settings=settings, limits=limits, now_ms=self.now_ms,
        )  # fmt: skip
        return Learner(store=self.store, episodes=episodes, changed=self._changed, settings=settings, limits=limits, now_ms=self.now_ms)

    def now_ms(self) -> int:
        """Return the time: milliseconds since 1970."""
        return round(self._clock() * 1000)

    @property
    def embedding(self) -> EmbeddingService:
        """The model that answers, with its queue."""
        return self.semantics.embedding

    @property
    def vectors(self) -> VectorIndex | None:
        """The index of its vectors, once it is open."""
        return self.semantics.index

    @property
    def warm(self) -> asyncio.Event:
        """Set when meaning takes part in search, or it is known that it will not."""
        return self.semantics.warm

    @property
    def problems(self) -> dict[str, str]:
        """What has gone wrong in the background, by the name of the part."""
        return self.background.problems

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
        await self.learner.start()
        self.tokenizers.start()
        self.background.spawn("indexer", self.indexer.run)
        self.background.spawn("learning", self.learner.run)
        self.background.spawn("memory", self._give_memory_back)
        await self.semantics.start(self.indexer, self.retriever)
        try:
            yield
        finally:
            await self.background.cancel()
            await self.learner.episodes.close()
            await self.llm.close()
            await self.semantics.close()
            self.words.close()

    def _serves(self, meaning: Meaning) -> None:
        self.learner.consolidator.model_id = meaning.model_id
        # What they hold was found by another model, or by none.
        self.results.clear()
        self.rankings.clear()

    async def _give_memory_back(self) -> None:
        """Hand back what is free, every few seconds in which something was done; at rest also what only writing needs."""
        done, quiet = 0, 0
        while True:
            await asyncio.sleep(TRIM_EVERY_S)
            quiet = 0 if self.metrics.total != done else quiet + 1
            done = self.metrics.total
            if quiet == QUIET_TURNS:
                await to_thread.run_sync(self.words.rest)
            if quiet in (0, QUIET_TURNS):
                await to_thread.run_sync(memory.give_back)

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
        self._wrote(session, added[0].seq)
        indexed = added[0].seq is None and not await self.store.read(lambda db: outbox.is_waiting(db, added[0].row))
        return AddedTrace(trace_id=trace.trace_id, status=added[0].status, chunks=added[0].chunks, tokens=tokens, indexed=indexed)

    async def add_many(self, items: Sequence[Trace]) -> list[Added]:
        """Store checked traces in one commit, to be indexed behind what somebody waits for. Raises: StoreError."""
        cut = await to_thread.run_sync(lambda: [(trace, self._chunks(trace)) for trace in items])
        return await self._put(cut, outbox.BULK)

    def _wrote(self, session: Session, seq: int | None) -> None:
        """Let searches wait for an entry of the outbox: everybody's for words, the session's own for meaning, too."""
        if seq is not None:
            # Another add may have come in between: never back.
            session.last_seq = max(seq, session.last_seq or 0)
            self._last_seq = max(seq, self._last_seq)

    async def _put(
        self,
        items: Sequence[tuple[Trace, Sequence[Chunk]]],
        priority: int,
        also: Callable[[sqlite3.Connection, Added], None] | None = None,
    ) -> list[Added]:
        """Store traces in one commit, and what `also` writes with each of them."""
        now_ms = self.now_ms()

        def write(db: sqlite3.Connection) -> list[Added]:
            added = [traces.upsert(db, trace, chunks, now_ms=now_ms, priority=priority) for trace, chunks in items]
            if also is not None:
                for one in added:
                    also(db, one)
            return added

        added = await self.store.write(write)
        self.learner.consolidator.touch(news=True)
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
        index = self.settings.index
        return chunks_of(trace, self.token_spans, tokens=index.chunk_tokens, overlap_tokens=index.chunk_overlap_tokens)

    async def _keep(self, trace: Trace, also: Callable[[sqlite3.Connection, Added], None]) -> Added:
        chunks = self._chunks(trace) if len(trace.content) < SMALL_CHARS else await to_thread.run_sync(self._chunks, trace)
        (added,) = await self._put([(trace, chunks)], outbox.INTERACTIVE, also)
        return added

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
        self.learner.consolidator.touch(news=False)
        session.recalled.extend((found.namespace, found.trace_id) for found in answer.page.results)
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
        context = await self.learner.context([stored.row for stored, _, _ in found])

        def render() -> Page:
            return present(
                found, tokenizer=tokenizer, max_tokens=query.max_tokens, detail=query.detail, note=note, several=several,
                told=context.told, patterns=context.patterns,
            )  # fmt: skip

        return Retrieved(
            page=await to_thread.run_sync(render), namespaces=tuple(known), dense=searched.dense, note=note,
            next_cursor=cursor_at(query, end) if end < len(searched.ranking) else None,
        )  # fmt: skip

    async def _ranking(self, query: Query, spaces: Sequence[int]) -> Searched:
        key = (query.texts, query.namespaces, query.filters, self._generation(query), self.retriever.deep)
        searched = self.rankings.get(key)
        if searched is None:
            async with self._searching.passing():
                searched = await self.retriever.search(query.texts, spaces, query.filters)
            searched = replace(searched, ranking=await self.learner.weighed(searched.ranking))
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
            self.background.spawn(f"repair of {sink}", partial(self.indexer.repair, sink, fault))

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

    async def _similar(self, task: str, namespace: str) -> list[tuple[int, float]]:
        """Return the traces whose best passage is most like a task, with how like it is, 0 to 1."""
        space = self.spaces.get(namespace)
        if space is None:
            return []
        found = await self.retriever.search([task], [space], Filters())
        return [(r.row, min(1.0, max(r.dense, r.lexical))) for r in found.ranking[:COMPARED_TRACES]]

    # -- learning -----------------------------------------------------------------------------------------------

    async def log_steps(self, raw: Mapping[str, Any], session: Session) -> Episode:
        """Take steps of an episode; they survive a kill when this returns. Raises: InputError, StoreError."""
        with self.metrics.timed("log_steps"):
            return await self.learner.episodes.log(raw, session.namespace)

    async def complete_episode(self, raw: Mapping[str, Any], session: Session) -> Completed:
        """End an episode and store its trace. Raises: InputError, StoreError."""
        with self.metrics.timed("complete_episode"):
            completed = await self.learner.episodes.complete(raw, tuple(dict.fromkeys(session.recalled)))
        session.recalled.clear()
        self._wrote(session, completed.seq)
        return completed

    async def feedback(self, raw: Mapping[str, Any], session: Session) -> int:
        """Record whether memories helped. Returns how many. Raises: InputError, StoreError."""
        with self.metrics.timed("feedback"):
            return await self.learner.feedback(raw, session.namespace)

    # -- compressing --------------------------------------------------------------------------------------------

    async def tokenizer(self) -> Tokenizer:
        """Return the real tokenizer, or after a bounded wait the estimate."""
        waited_s = time.perf_counter() - self.startup.began
        timeout_s = max(0.0, self.settings.tokens.timeout_s - waited_s)
        if self.tokenizers.settled or not timeout_s:
            return self.tokenizers.current(0)
        return await to_thread.run_sync(self.tokenizers.current, timeout_s)

    async def compress(self, text: str, **options: Any) -> tuple[Compressed, str | None]:
        """Fit a text into a budget. Returns the id of what was cut, too, if it is to be kept. Raises: InputError, StoreError."""
        return await self.compressor.compress(text, **options)

    async def original(self, original_id: str) -> originals.Original | None:
        """Return what `compress` has kept under an id; None where there is nothing (any more)."""
        return await self.compressor.original(original_id)

    async def _shortened(self, text: str, budget_tokens: int) -> str:
        compressed, _ = await self.compress(text, budget_tokens=budget_tokens, ratio=None)
        return compressed.text


def _answer_bytes(key: object, answer: Retrieved) -> int:
    # The text is held twice: as a whole and in the results.
    return 2 * len(answer.page.text.encode("utf-8", "replace")) + RANKED_BYTES * (1 + len(answer.page.results))


def _ranking_bytes(key: object, searched: Searched) -> int:
    return RANKED_BYTES * (1 + len(searched.ranking))


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
