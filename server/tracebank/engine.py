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
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import uuid_utils
from anyio import to_thread

from tracebank import __version__, memory
from tracebank.answering import Asking, Finder, Pages, Retrieved
from tracebank.answering.asking import CACHE_NAME
from tracebank.background import Background
from tracebank.compression import Compressed
from tracebank.compressor import Compressor
from tracebank.embedding import CrossEncoderModel, EmbeddingService, ModelTokens
from tracebank.erasing import Eraser
from tracebank.errors import DataDirError, InputError
from tracebank.gate import Gate
from tracebank.idle import Idle
from tracebank.index import TantivyWordIndex, VectorIndex
from tracebank.indexer import Indexer
from tracebank.intake import Intake
from tracebank.learning import (
    Completed,
    Episode,
    Episodes,
    Judge,
    Learner,
    ModelReflector,
    ModelSummarizer,
    Reflector,
    StepLog,
    StepReflector,
)
from tracebank.llm import LlmClient, Spending, World
from tracebank.locking import DataDirLock, pid_space
from tracebank.meaning import Meaning
from tracebank.metrics import Metrics
from tracebank.origin import Origin
from tracebank.precedence import Precedence
from tracebank.reasoning import Listener, Reasoned, Reasoner
from tracebank.records import Filters, Limits, Trace, parse_trace, shown
from tracebank.retrieval import Page, Reranker, Retriever
from tracebank.semantics import Semantics
from tracebank.settings import Settings
from tracebank.store import Added, Store, StoredTrace, originals, outbox, traces
from tracebank.tokens import load_tokenizer

log = logging.getLogger(__name__)

STORE_NAME, JOURNAL_NAME = "tracebank.sqlite3", "journal"
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


@dataclass(slots=True)
class _Startup:
    """How long each part took to come up, in milliseconds."""

    began: float = field(default_factory=time.perf_counter)
    parts_ms: dict[str, float] = field(default_factory=dict)

    def done(self, part: str, since: float | None = None) -> None:
        self.parts_ms[part] = round((time.perf_counter() - (since or self.began)) * 1e3, 1)


class Engine:
    """Everything of one data directory. Open it with `Engine.open`; its methods belong to one event loop."""

    def __init__(
        self, settings: Settings, store: Store, words: TantivyWordIndex, startup: _Startup, *, clock: Callable[[], float], origin: Origin
    ) -> None:
        self.settings, self.store, self.words, self.startup = settings, store, words, startup
        self.limits, self.metrics = Limits(), Metrics()
        self._clock = clock
        self.background, self.idle = Background(), Idle()
        # What the outermost floor has to say of its plug-ins, for `stats`.
        self.plugins: dict[str, Any] = {}
        self.tokenizer = load_tokenizer(settings.tokens.encoding)
        self.spaces: dict[str, int] = {}
        self._searching = Gate()
        self._precedence = Precedence()
        self.token_spans = ModelTokens(settings.embedding, settings.models_dir)
        self.intake = Intake(
            store=store, token_spans=self.token_spans, tokenizer=self.tokenizer, settings=settings.index, now_ms=self.now_ms,
            stored=self._stored,
        )  # fmt: skip
        self.semantics = Semantics(
            settings=settings, store=store, metrics=self.metrics, background=self.background, searching=self._searching,
            came_up=startup.done, serves=self._serves,
            forget_questions=lambda: self.asking.keeper.forget_vectors(),
        )  # fmt: skip
        self.indexer = Indexer(
            store=store, words=words, settings=settings.index, metrics=self.metrics, precedence=self._precedence, reach=origin.reach
        )
        self.retriever = Retriever(
            store=store, words=words, embedding=self.embedding, candidates=settings.retrieval.candidates, metrics=self.metrics,
            searching=self._searching, token_spans=self.token_spans,
        )  # fmt: skip
        reranker = partial(CrossEncoderModel.load, settings.retrieval.reranker, device=settings.embedding.device)
        self.reranker = Reranker(reranker, store) if settings.retrieval.reranker else None
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
        within_s = settings.learning.reflection_timeout_s
        asked = [ModelReflector(self.llm, self.limits, within_s=within_s)] if self.llm.configured else ()
        self.reflectors: list[Reflector] = [*asked, StepReflector()]
        self.learner = self._learner()
        self.reasoner = Reasoner(
            llm=self.llm, keep=self.intake.keep, settings=settings.reasoning, limits=self.limits, metrics=self.metrics, new_id=new_trace_id
        )
        self.asking = self._asking()
        self.eraser = Eraser(
            directory=settings.data_dir / "index", store=store, words=words, indexer=self.indexer, semantics=self.semantics,
            searching=self._searching, background=self.background, forget_answers=self._forget_answers,
        )  # fmt: skip

    def _learner(self) -> Learner:
        settings, limits = self.settings.learning, self.limits
        step_log = StepLog(
            store=self.store, directory=self.settings.data_dir / JOURNAL_NAME, settings=settings, limits=limits,
            metrics=self.metrics, now_ms=self.now_ms, new_id=new_trace_id,
        )  # fmt: skip
        judge = Judge(
            store=self.store, similar=self._similar, reflectors=self.reflectors,
            summarizers=[ModelSummarizer(self.llm, within_s=settings.reflection_timeout_s)] if self.llm.configured else (),
            settings=settings, metrics=self.metrics,
        )  # fmt: skip
        episodes = Episodes(
            store=self.store, step_log=step_log, judge=judge, keep=self.intake.keep, settings=settings,
            limits=limits, now_ms=self.now_ms,
        )  # fmt: skip
        return Learner(
            store=self.store, episodes=episodes, idle=self.idle, settings=settings, limits=limits, now_ms=self.now_ms,
            indexed=lambda: self.asking.indexed(),
        )  # fmt: skip

    def _asking(self) -> Asking:
        finder = Finder(
            retriever=self.retriever, reranker=self.reranker,
            pages=Pages(store=self.store, learner=self.learner, spaces=lambda: self.spaces, tokenizer=self.tokenizer),
            spaces=lambda: self.spaces, model=lambda: self.embedding.name,
            searched=self._see_to_faults, ttl_s=self.settings.cache.results_ttl_s,
        )  # fmt: skip
        return Asking(
            settings=self.settings, store=self.store, indexer=self.indexer, retriever=self.retriever, finder=finder,
            spaces=lambda: self.spaces, embedding=lambda: self.embedding, warm=self.warm.wait, idle=self.idle,
            limits=self.limits, clock=self._clock, precedence=self._precedence,
        )  # fmt: skip

    def now_ms(self) -> int:
        """Return the time: milliseconds since 1970."""
        return round(self._clock() * 1000)

    @property
    def uptime_s(self) -> float:
        """How long it has been there, whatever is done to the system's clock meanwhile."""
        return round(time.perf_counter() - self.startup.began, 1)

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
        Raises: DataDirError and its kinds, StoreError and its kinds, InstallationError.
        """
        startup = _Startup()
        prepare_data_dir(settings.data_dir)
        lock = DataDirLock(settings.data_dir)
        whose = {"pid": os.getpid(), "pid_space": pid_space(), "version": __version__}
        lock.acquire({**whose, "data_dir": str(settings.data_dir), "started_at": clock(), "mode": mode})
        try:
            store = Store.open(settings.data_dir / STORE_NAME)
            startup.done("store")
            try:
                origin = Origin(settings.data_dir / "index")
                await origin.settle(store, [settings.data_dir / CACHE_NAME])
                words = TantivyWordIndex(settings.data_dir / "index" / "words")
                engine = cls(settings, store, words, startup, clock=clock, origin=origin)
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
        self.background.spawn("indexer", self.indexer.run)
        self.learner.begin(self.background)
        self.background.spawn("memory", self._give_memory_back)
        if self.reranker is not None:
            self.background.spawn("reranker", self.reranker.run)
        await self.semantics.start(self.indexer, self.retriever)
        self.eraser.start(self.spaces.values())
        await self.asking.start(self.background)
        self._listen(asyncio.get_running_loop())
        try:
            yield
        finally:
            self.store.versions.on_change = None
            await self.intake.close()
            await self.eraser.close()
            await self.background.cancel()
            await self.asking.close()
            await self.learner.episodes.close()
            await self.reasoner.close()
            await self.llm.close()
            self.retriever.close()
            await self.semantics.close()
            self.words.close()

    def _serves(self, meaning: Meaning) -> None:
        self.learner.consolidator.attach(meaning.model_id)

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hear of everything that may change an answer, whoever wrote it."""

        def changed() -> None:
            loop.call_soon_threadsafe(self.asking.warmer.news)

        self.store.versions.on_change = changed

    async def _give_memory_back(self) -> None:
        """Hand back what is free, every few seconds in which something was done; at rest also what only writing needs."""
        done, quiet = 0, 0
        while True:
            await asyncio.sleep(TRIM_EVERY_S)
            quiet = 0 if self.metrics.total != done else quiet + 1
            done = self.metrics.total
            if quiet == QUIET_TURNS:
                await to_thread.run_sync(self.words.rest)
                await to_thread.run_sync(self.store.rest)
            if quiet in (0, QUIET_TURNS):
                await to_thread.run_sync(memory.give_back)

    def _called(self) -> None:
        self.idle.touch()
        self._precedence.asked()

    def session(self, namespace: str | None = None) -> Session:
        """Return a session for one client."""
        return Session(self, namespace or self.settings.namespace)

    # -- storing ------------------------------------------------------------------------------------------------

    def read_trace(self, raw: Mapping[str, Any], session: Session) -> Trace:
        """Return the trace that is to be stored. Raises: InputError."""
        trace = parse_trace(raw, limits=self.limits, namespace=session.namespace, trace_id=new_trace_id())
        episode = self.learner.episodes.step_log.open.get(trace.trace_id)
        if episode is not None and episode.namespace == trace.namespace:
            # Its own trace will have that id, and would take this one's place.
            raise InputError("trace_id", f"{shown(trace.trace_id)} is an open episode: end it with complete_episode, or leave trace_id out")
        return trace

    async def add(self, raw: Mapping[str, Any], session: Session) -> AddedTrace:
        """Store one trace; it is on disk when this returns. Raises: InputError, StoreError."""
        with self.metrics.timed("add_trace"):
            trace = self.read_trace(raw, session)
            added, tokens = await self.intake.add(trace)
        self.asking.wrote(session, added.seq)
        indexed = added.seq is None and not await self.store.read(lambda db: outbox.is_waiting(db, added.row))
        return AddedTrace(trace_id=trace.trace_id, status=added.status, chunks=added.chunks, tokens=tokens, indexed=indexed)

    async def add_many(self, items: Sequence[Trace]) -> list[Added]:
        """Store checked traces in one commit, to be indexed behind what somebody waits for. Raises: StoreError."""
        return await self.intake.add_many(items)

    async def _stored(self, items: Sequence[Trace]) -> None:
        self.idle.touch()
        self.learner.consolidator.news()
        if any(trace.namespace not in self.spaces for trace in items):
            # Namespaces never go, and of two readers the later may have read less.
            found = await self.store.read(traces.namespace_ids)
            self.spaces = {**self.spaces, **found}
        self.indexer.notify()

    async def forget(self, choose: Callable[[sqlite3.Connection], Sequence[int]]) -> int:
        """Delete the chosen traces for good: from the store and its file now, from the indexes at once after. Returns how many.

        They are chosen in the transaction that deletes them: what was changed just before is not meant any more. Whoever gives
        up waiting leaves nothing half done. Raises: StoreError.
        """
        return await self.eraser.forget(choose)

    async def forget_open(self, episode_ids: Sequence[str]) -> int:
        """Delete open episodes for good, with all their steps. Returns how many were open. Raises: StoreError."""
        forgotten = await self.learner.episodes.forget(episode_ids)
        if forgotten:
            await self.eraser.empty_log()
        return forgotten

    async def _forget_answers(self, spaces: Collection[int]) -> None:
        self.retriever.forget(spaces)
        self.llm.forget()
        names = [name for name, space in self.spaces.items() if space in spaces]
        await self.asking.forget(lambda asked: any(asked.covers(name) for name in names))

    # -- finding ------------------------------------------------------------------------------------------------

    async def retrieve(self, raw: Mapping[str, Any], session: Session) -> Retrieved:
        """Return the memories that help with a task. Raises: InputError, StoreError."""
        self._called()
        with self.metrics.timed("retrieve"):
            answer = await self.asking.answer(raw, session.namespace, session)
        session.recalled.extend([(found.namespace, found.trace_id) for found in answer.page.results])
        return answer

    def _see_to_faults(self) -> None:
        for sink, fault in self.retriever.take_faults().items():
            self.background.spawn(f"repair of {sink}", partial(self.indexer.repair, sink, fault))

    async def trace(self, trace_id: str, session: Session) -> StoredTrace | None:
        """Return a trace by its id: from the session's namespace, else from the only other one that has it.

        Raises: InputError where several others do.
        """
        rows = await self.store.read(lambda db: traces.rows_of(db, [trace_id], [session.namespace]) or traces.rows_of(db, [trace_id]))
        found = list((await self.store.read(lambda db: traces.load(db, rows))).values())
        if len(found) > 1:
            names = ", ".join(sorted(shown(stored.trace.namespace) for stored in found))
            raise InputError(
                "trace_id", f"{shown(trace_id)} is in the namespaces {names}: call retrieve with the one that is meant, and detail full"
            )
        return found[0] if found else None

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
        self._called()
        with self.metrics.timed("log_steps"):
            return await self.learner.episodes.log(raw, session.namespace)

    async def complete_episode(self, raw: Mapping[str, Any], session: Session) -> Completed:
        """End an episode and store its trace. Raises: InputError, StoreError."""
        self._called()
        with self.metrics.timed("complete_episode"):
            recalled = tuple(dict.fromkeys(session.recalled))
            completed = await self.learner.episodes.complete(raw, recalled)
        if completed.seq is not None:
            # What was shown meanwhile is for the next one, and so is all of it where this one had ended before.
            left = [shown for shown in session.recalled if shown not in recalled]
            session.recalled.clear()
            session.recalled.extend(left)
        self.asking.wrote(session, completed.seq)
        return completed

    async def feedback(self, raw: Mapping[str, Any], session: Session) -> int:
        """Record whether memories helped. Returns how many. Raises: InputError, StoreError."""
        with self.metrics.timed("feedback"):
            return await self.learner.feedback(raw, session.namespace)

    # -- reasoning ----------------------------------------------------------------------------------------------

    async def reason(self, raw: Mapping[str, Any], session: Session, *, listener: Listener | None = None) -> Reasoned:
        """Work out a task with the language models and the memory. Raises: InputError, LlmError, StoreError."""

        async def recall(questions: Sequence[str], namespace: str, max_tokens: int) -> Page:
            return (await self.retrieve({"query": list(questions), "namespace": namespace, "max_tokens": max_tokens}, session)).page

        with self.metrics.timed("reason"):
            reasoned = await self.reasoner.reason(raw, namespace=session.namespace, recall=recall, listener=listener)
        self.asking.wrote(session, reasoned.seq)
        return reasoned

    # -- compressing --------------------------------------------------------------------------------------------

    async def compress(self, text: str, **options: Any) -> tuple[Compressed, str | None]:
        """Fit a text into a budget. Returns the id of what was cut, too, if it is to be kept. Raises: InputError, StoreError."""
        self._called()
        return await self.compressor.compress(text, **options)

    async def original(self, original_id: str) -> originals.Original | None:
        """Return what `compress` has kept under an id; None where there is nothing (any more)."""
        return await self.compressor.original(original_id)

    async def _shortened(self, text: str, budget_tokens: int) -> str:
        head_ratio = self.settings.compression.head_ratio
        compressed, _ = await self.compress(text, budget_tokens=budget_tokens, ratio=None, head_ratio=head_ratio)
        return compressed.text


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
