"""Open episodes and their steps: acknowledged by the journal, stored in batches.

A step is in the journal before it is acknowledged, and in the store within seconds: at so many steps, so long after
the first one, or when somebody wants to read them. So the steps of all sessions share commits, and a kill loses none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from anyio import CapacityLimiter, to_thread

from tracebank.errors import InputError, StoreError
from tracebank.lasting import Lasting
from tracebank.learning.journal import Journal
from tracebank.metrics import Metrics
from tracebank.records import Limits, shown
from tracebank.settings import LearningSettings
from tracebank.steps import LoggedSteps, Step
from tracebank.store import Store, episodes, traces
from tracebank.store.episodes import MARKUP_BYTES, OpenEpisode, StepRecord

log = logging.getLogger(__name__)

# What the trace of an episode is tagged with that its agent has not ended.
ABANDONED_TAG = "abandoned"
# While the store cannot take them, so many steps wait in memory; then agents hear of it.
MAX_WAITING_FLUSHES = 20


@dataclass(slots=True)
class Episode:
    """An open episode. `completing` holds whoever ends it; steps are refused meanwhile."""

    episode_id: str
    namespace: str
    task: str
    started_at_ms: int
    updated_at_ms: int
    steps: int = 0
    bytes: int = 0
    completing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    def of(cls, stored: OpenEpisode) -> Episode:
        """Return an episode that the store has."""
        return cls(**asdict(stored))


class StepLog:
    """The open episodes of one data directory. It belongs to one event loop."""

    def __init__(
        self,
        *,
        store: Store,
        directory: Path,
        settings: LearningSettings,
        limits: Limits,
        metrics: Metrics,
        now_ms: Callable[[], int],
        new_id: Callable[[], str],
    ) -> None:
        self._store, self._settings, self._limits, self._metrics = store, settings, limits, metrics
        self._now_ms, self._new_id = now_ms, new_id
        self._journal = Journal(directory)
        self._turn, self._flushing = asyncio.Lock(), asyncio.Lock()
        self._one_at_a_time = CapacityLimiter(1)
        self._buffer: list[StepRecord] = []
        self._storing: list[StepRecord] = []
        self._due = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._flushes = Lasting()
        self.stored = asyncio.Event()
        self.changed = asyncio.Event()
        self.open: dict[str, Episode] = {}

    async def recover(self) -> None:
        """Store what a killed engine had only in its journal, and learn which episodes are open. Raises: StoreError."""
        records = await to_thread.run_sync(lambda: list(_records(self._journal.replay())))
        if records:
            log.info("%d records of steps are taken from the journal", len(records))
            await self._store.write(lambda db: episodes.put(db, records))
        self._journal.drop(self._journal.rotate())
        self.open = {e.episode_id: Episode.of(e) for e in await self._store.read(episodes.open_episodes)}
        self.stored.set()

    @property
    def buffered_steps(self) -> int:
        """Steps that are in the journal and not yet in the store."""
        return _count(self._buffer) + _count(self._storing)

    # -- logging ------------------------------------------------------------------------------------------------

    async def append(self, logged: LoggedSteps, namespace: str) -> Episode:
        """Take steps of an episode; they outlive this process when this returns. Raises: InputError, StoreError."""
        if self.buffered_steps >= MAX_WAITING_FLUSHES * self._settings.flush_steps:
            await self.flush()
        async with self._turn:
            episode = await self._episode_of(logged, namespace)
            size_bytes = sum(_size_bytes(step) for step in logged.steps)
            self._check_room(episode, len(logged.steps), size_bytes)
            record = StepRecord(
                episode_id=episode.episode_id, namespace=episode.namespace, task=episode.task, started_at_ms=episode.started_at_ms,
                at_ms=self._now_ms(), first=episode.steps, steps=logged.steps,
            )  # fmt: skip
            await to_thread.run_sync(self._journal.append, asdict(record), limiter=self._one_at_a_time)
            # Nothing is awaited from here on: what the journal has is in the buffer, too.
            self._buffer.append(record)
            self.stored.clear()
            self.open[episode.episode_id] = episode
            episode.steps += len(logged.steps)
            episode.bytes += size_bytes
            episode.updated_at_ms = record.at_ms
            self._schedule()
        self.changed.set()
        self._metrics.count("steps_logged", len(logged.steps))
        return episode

    async def _episode_of(self, logged: LoggedSteps, namespace: str) -> Episode:
        if logged.episode_id is None:
            assert logged.task is not None
            now_ms = self._now_ms()
            return Episode(episode_id=self._new_id(), namespace=namespace, task=logged.task, started_at_ms=now_ms, updated_at_ms=now_ms)
        episode = self.open.get(logged.episode_id)
        if episode is None:
            raise await self.not_open(logged.episode_id)
        if episode.completing.locked():
            raise InputError("episode_id", f"{shown(logged.episode_id)} is being completed: start another episode with a task")
        if logged.task is not None and logged.task != episode.task:
            raise InputError("task", "is not that of this episode: leave it out to go on, or leave episode_id out to start another")
        return episode

    async def not_open(self, episode_id: str) -> InputError:
        """Return the error for an episode that is complete, that was closed as abandoned, or that nobody knows."""
        if await self._store.read(lambda db: abandoned_one(db, episode_id)) is not None:
            return InputError(
                "episode_id",
                f"{shown(episode_id)} had no step for too long and was closed: it takes no more; complete_episode with it still ends it",
            )
        if await self.is_complete(episode_id):
            return InputError(
                "episode_id",
                f"{shown(episode_id)} is complete, and its memory is trace://{episode_id}: leave episode_id out to start another",
            )
        return InputError("episode_id", f"{shown(episode_id)} is not known: leave it out, and give a task, to start an episode")

    async def is_complete(self, episode_id: str) -> bool:
        """Whether there was an episode of this id, which is a memory now."""
        return await self._store.read(lambda db: episodes.result_of(db, episode_id)) is not None

    def _check_room(self, episode: Episode, steps: int, size_bytes: int) -> None:
        limits = self._limits
        advice = "complete it, and go on in a new one"
        if episode.steps + steps > limits.episode_steps:
            raise InputError("steps", f"an episode has at most {limits.episode_steps:,}, and this one has {episode.steps:,}: {advice}")
        if episode.bytes + size_bytes > limits.episode_bytes:
            raise InputError(
                "steps", f"an episode has at most {limits.episode_bytes:,} bytes, and this one has {episode.bytes:,}: {advice}"
            )

    # -- storing ------------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if _count(self._buffer) >= self._settings.flush_steps:
            self._due.set()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._settings.flush_s, self._due.set)

    async def store_due(self) -> None:
        """Store steps when it is time. Raises: StoreError; then it is time still."""
        await self._due.wait()
        await self.flush(erased=True)

    async def flush(self, *, erased: bool = False) -> None:
        """Store every step that was logged until now, in one commit. `erased`: they must be nowhere else afterwards.

        Raises: StoreError; then the journal has them still.
        """
        # Steps that are half way between buffer and store must not be lost because one caller is cancelled.
        await self._flushes.run(self._flush(erased=erased))

    async def _flush(self, *, erased: bool) -> None:
        try:
            async with self._flushing:
                await self._drop(await self._store_buffer(), erased=erased)
        except BaseException:
            self._due.set()
            raise

    async def _store_buffer(self) -> Sequence[Path]:
        """Store what is buffered. Returns the segments whose records are all stored."""
        async with self._turn:
            self._due.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            # What is stored may still be in a segment that could not be deleted.
            if not self._buffer and self._journal.empty:
                return ()
            segments: Sequence[Path] = await self._off_the_loop(self._journal.rotate)
            records, self._buffer = self._buffer, []
            self._storing = records
        try:
            if records:
                with self._metrics.timed("store_steps"):
                    await self._store.write(lambda db: episodes.put(db, records))
        except BaseException:
            self._buffer[:0] = records
            raise
        finally:
            self._storing = []
        return segments

    async def _drop(self, segments: Sequence[Path], *, erased: bool) -> None:
        try:
            if segments:
                await self._off_the_loop(self._journal.drop, segments)
        except StoreError as error:
            if erased:
                raise
            # What they hold is stored, and a second time changes nothing. They are deleted when steps are stored the next time.
            self._due.set()
            log.warning("%s", error)
            return
        if not self._buffer:
            self.stored.set()

    async def _off_the_loop(self, action: Callable[..., Any], *arguments: Any) -> Any:
        return await to_thread.run_sync(action, *arguments, limiter=self._one_at_a_time)

    async def close(self) -> None:
        """Store what is buffered; where that fails the journal keeps it for the next engine."""
        await self._flushes.settled()
        with contextlib.suppress(StoreError):
            await self.flush()
        with contextlib.suppress(StoreError):
            self._journal.close()

    # -- reading and completing ---------------------------------------------------------------------------------

    async def read(self, episode_id: str) -> tuple[Episode, list[Step]] | None:
        """Return an open episode and its steps, all of them stored by then (a checkpoint); None where it is not open."""
        episode = self.open.get(episode_id)
        if episode is None:
            return None
        await self.flush()
        return episode, await self._store.read(lambda db: episodes.steps_of(db, episode_id))

    @asynccontextmanager
    async def completing(
        self, episode_id: str, *, only_if: Callable[[Episode], bool] = lambda episode: True
    ) -> AsyncIterator[tuple[Episode, Sequence[Step]] | None]:
        """Hold an episode while it is ended: it takes no more steps, and is no longer open if the body succeeds.

        Yields None where it is not open, no longer after waiting for somebody else who was ending it, or not as `only_if` wants it.
        """
        episode = self.open.get(episode_id)
        if episode is None:
            yield None
            return
        async with episode.completing:
            found = await self.read(episode_id)
            # Asked only now: steps that were on their way when the episode was taken are in by now.
            if found is not None and not only_if(found[0]):
                found = None
            yield found
            if found is not None:
                del self.open[episode_id]


def abandoned_one(db: sqlite3.Connection, episode_id: str) -> tuple[Episode, Sequence[Step], int] | None:
    """Return an abandoned episode, its steps and the row of its trace; None where all its steps are not there any more."""
    if (found := episodes.tagged(db, episode_id, ABANDONED_TAG)) is None:
        return None
    opened, row = found
    steps = episodes.steps_of(db, episode_id)
    had = traces.load(db, [row])[row].trace.metadata.get("steps")
    return (Episode.of(opened), steps, row) if had == len(steps) else None


def _count(records: Sequence[StepRecord]) -> int:
    return sum(len(record.steps) for record in records)


def _size_bytes(step: Step) -> int:
    return sum(len(part.encode()) for part in (step.action, step.observation, step.thought)) + MARKUP_BYTES


def _records(found: Iterable[Mapping[str, Any]]) -> Iterator[StepRecord]:
    for raw in found:
        try:
            record = StepRecord(**{**raw, "steps": tuple(Step(**step) for step in raw["steps"])})
            _check(record)
            yield record
        except (TypeError, KeyError, ValueError) as error:
            # A newer Tracebank may have written it; one line must not keep the engine from starting.
            log.warning("the journal has a record of another shape: it is left out (%s)", error)


def _check(record: StepRecord) -> None:
    """Raise TypeError or ValueError for what the store cannot take."""
    texts = [record.episode_id, record.namespace, record.task]
    texts += [text for step in record.steps for text in (step.action, step.observation, step.thought)]
    "".join(texts).encode()
    for number in (record.started_at_ms, record.at_ms, record.first):
        if type(number) is not int or abs(number) >= 2**63:
            raise TypeError(f"not a whole number: {shown(number)}")
    for step in record.steps:
        if not isinstance(step.ok, bool | None) or not isinstance(step.duration_ms, int | float | None):
            raise TypeError(f"not whether it went well, or not how long it took: {shown(step.ok)}, {shown(step.duration_ms)}")
