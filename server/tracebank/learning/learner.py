"""What the engine has of learning: episodes from their first step to their trace, feedback, and what is told in a search."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from anyio import to_thread

from tracebank.errors import InputError, TracebankError
from tracebank.learning import consolidation, patterns
from tracebank.learning.analysis import observe
from tracebank.learning.completion import Judge, Judgement
from tracebank.learning.consolidator import Consolidator
from tracebank.learning.feedback import SAID_WEIGHT, USED_WEIGHT, posterior, prior, weigh
from tracebank.learning.lasting import Lasting
from tracebank.learning.reflection import Attempt
from tracebank.learning.reward import CREDIT
from tracebank.learning.step_log import Episode, StepLog
from tracebank.learning.summary import handoff, transcript
from tracebank.records import Limits, Outcome, Trace, shown
from tracebank.retrieval.fusion import Ranked
from tracebank.settings import LearningSettings
from tracebank.steps import Completion, LoggedSteps, Step, parse_completion, parse_feedback, parse_steps
from tracebank.store import Added, Store, episodes, feedback, lesson_groups, traces
from tracebank.store import patterns as pattern_rows
from tracebank.store.feedback import Evidence
from tracebank.store.lesson_groups import LessonKey

log = logging.getLogger(__name__)

# Stores a trace the engine's own way, and runs a write with its row in the same transaction.
Keep = Callable[[Trace, Callable[[sqlite3.Connection, Added], None]], Awaitable[Added]]
# Names a trace as agents know it: by namespace and id.
TraceName = tuple[str, str]

RETRY_S = 60.0
# A clock that was set forward is noticed within this time.
LONGEST_WAIT_S = 3_600.0
TAG, ABANDONED_TAG = "episode", "abandoned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """The end of an episode. `problems` tells, by part, what could not be found out; `seq` is the last entry of its trace in the outbox."""

    trace_id: str
    reward: float
    reward_parts: Mapping[str, float]
    reflection: str
    lessons: tuple[str, ...]
    patterns: tuple[str, ...] = ()
    problems: Mapping[str, str] = field(default_factory=dict)
    seq: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What is known about the traces on a page, beside themselves."""

    told: Mapping[LessonKey, str | None] = field(default_factory=dict)
    patterns: tuple[str, ...] = ()


class Learner:
    """Learning in one data directory. The engine lends it the store and ways to store, to search, and to tell of changes."""

    def __init__(
        self,
        *,
        store: Store,
        step_log: StepLog,
        judge: Judge,
        keep: Keep,
        changed: Callable[[int], None],
        settings: LearningSettings,
        limits: Limits,
        clock: Callable[[], float],
    ) -> None:
        self._store, self.step_log, self._judge, self._keep, self._changed = store, step_log, judge, keep, changed
        self._settings, self._limits, self._clock = settings, limits, clock
        self._endings = Lasting()
        self._has_feedback = False
        self.consolidator = Consolidator(store=store, changed=changed, idle_s=settings.consolidate_after_s, now_ms=self.now_ms)

    async def start(self) -> None:
        """Take up what was open when the last engine ended. Raises: StoreError."""
        await self.step_log.recover()
        self._has_feedback = any((await self._store.read(feedback.counts)).values())

    async def run(self) -> None:
        """Do what falls due by itself, until cancelled: storing steps, closing abandoned episodes, consolidating."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.step_log.run())
            group.create_task(self._close_abandoned())
            if self._settings.consolidate:
                group.create_task(self.consolidator.run())

    async def close(self) -> None:
        """Finish what has begun, and store all steps."""
        await self._endings.settled()
        await self.step_log.close()

    def now_ms(self) -> int:
        """Return the time."""
        return round(self._clock() * 1000)

    # -- episodes -----------------------------------------------------------------------------------------------

    async def log_steps(self, raw: Mapping[str, Any], namespace: str) -> Episode:
        """Take steps of an episode; they survive a kill when this returns. Raises: InputError, StoreError."""
        logged: LoggedSteps = parse_steps(raw, limits=self._limits)
        return await self.step_log.append(logged, namespace)

    async def complete(self, raw: Mapping[str, Any], recalled: Sequence[TraceName] = ()) -> Completed:
        """End an episode: judge it, and store its trace. `recalled` are the memories that its agent had read.

        Doing it again returns the same. Raises: InputError, StoreError; then the episode stays open.
        """
        # An agent that cancels must not leave an episode that is complete in the store and open in memory.
        return await self._endings.run(self._end(parse_completion(raw, limits=self._limits), recalled))

    async def _end(self, said: Completion, recalled: Sequence[TraceName], *, tags: Sequence[str] = (TAG,)) -> Completed:
        async with self.step_log.completing(said.episode_id) as held:
            if held is None:
                return await self._completed_before(said.episode_id)
            episode, steps = held
            attempt = await to_thread.run_sync(self._attempt, episode, steps, said.outcome)
            judgement = await self._judge.judge(attempt, episode.namespace, said)
            return await self._store_trace(episode, attempt, said, judgement, recalled, tags)

    def _attempt(self, episode: Episode, steps: Sequence[Step], outcome: Outcome) -> Attempt:
        observed = observe(steps, waiting_actions=self._settings.waiting_actions)
        return Attempt(task=episode.task, outcome=outcome, steps=tuple(steps), observed=observed)

    async def _completed_before(self, episode_id: str) -> Completed:
        result = await self._store.read(lambda db: episodes.result_of(db, episode_id))
        if result is None:
            raise InputError("episode_id", f"{shown(episode_id)} is not known: take it from the answer of log_steps")
        return Completed(**{**result, "lessons": tuple(result["lessons"]), "patterns": tuple(result["patterns"])})

    async def _store_trace(
        self,
        episode: Episode,
        attempt: Attempt,
        said: Completion,
        judgement: Judgement,
        recalled: Sequence[TraceName],
        tags: Sequence[str],
    ) -> Completed:
        room = max(0, self._limits.lessons - len(said.lessons))
        lessons = (*said.lessons, *judgement.reflection.lessons[:room])
        trace = Trace(
            trace_id=episode.episode_id, namespace=episode.namespace, task=episode.task, outcome=said.outcome, lessons=lessons,
            content="\n\n".join(part for part in (judgement.summary, transcript(attempt.steps)) if part),
            tags=tuple(tags), metadata=_metadata(attempt, judgement),
        )  # fmt: skip
        keys = patterns.patterns_of(attempt.steps, attempt.observed, waiting_actions=self._settings.waiting_actions)
        completed = Completed(
            trace_id=trace.trace_id, reward=judgement.reward.value, reward_parts=judgement.reward.parts,
            reflection=judgement.reflection.text, lessons=tuple(lesson.text for lesson in lessons), problems=judgement.problems,
        )  # fmt: skip
        written: list[Completed] = []

        def also(db: sqlite3.Connection, added: Added) -> None:
            space = traces.namespace_id(db, trace.namespace)
            pattern_rows.add(db, space, keys, trace=added.row, credit=CREDIT[said.outcome])
            known = patterns.hints(pattern_rows.of_traces(db, [added.row], min_seen=patterns.MIN_SEEN))
            whole = Completed(**{**_fields(completed), "patterns": tuple(known)})
            episodes.close(
                db, episodes.Closing(episode_id=episode.episode_id, effort=attempt.observed.effort, result=_fields(whole)), added.row
            )
            if said.outcome == Outcome.SUCCESS:
                self._credit(db, recalled)
            written.append(whole)

        added = await self._keep(trace, also)
        self._has_feedback |= bool(recalled)
        return Completed(**{**_fields(written[-1]), "seq": added.seq})

    def _credit(self, db: sqlite3.Connection, recalled: Sequence[TraceName]) -> None:
        rows = [row for namespace, trace_id in recalled for row in traces.rows_of(db, [trace_id], [namespace])]
        feedback.add(db, rows, Evidence(at_ms=self.now_ms(), helpful=True, weight=USED_WEIGHT))

    async def handoff(self, episode_id: str) -> str | None:
        """Store all steps of an open episode (a checkpoint), and return what another agent needs to go on; None if it is not open."""
        held = await self.step_log.read(episode_id)
        if held is None:
            return None
        attempt = await to_thread.run_sync(self._attempt, *held, Outcome.UNKNOWN)
        return await to_thread.run_sync(handoff, episode_id, attempt)

    async def open_trace(self, episode_id: str) -> Trace | None:
        """Return an open episode as the trace that it would be by now; None where it is not open."""
        held = await self.step_log.read(episode_id)
        if held is None:
            return None
        episode, steps = held
        return Trace(
            trace_id=episode_id, namespace=episode.namespace, task=episode.task, content=transcript(steps), tags=(TAG,),
            occurred_at_ms=episode.started_at_ms, metadata={"open": True, "steps": len(steps)},
        )  # fmt: skip

    async def _close_abandoned(self) -> None:
        log_of_steps, limit_ms = self.step_log, self._settings.abandon_after_s * 1000
        while True:
            log_of_steps.changed.clear()
            due = [e for e in log_of_steps.open.values() if e.updated_at_ms + limit_ms <= self.now_ms()]
            for episode in due:
                await self._abandon(episode)
            if not log_of_steps.open:
                await log_of_steps.changed.wait()
            left_ms = min((e.updated_at_ms for e in log_of_steps.open.values()), default=0) + limit_ms - self.now_ms()
            await asyncio.sleep(min(LONGEST_WAIT_S, max(0.0, left_ms / 1000)))

    async def _abandon(self, episode: Episode) -> None:
        said = Completion(episode_id=episode.episode_id, outcome=Outcome.UNKNOWN)
        try:
            await self._endings.run(self._end(said, (), tags=(TAG, ABANDONED_TAG)))
            log.info("the episode %s is closed: no step for %g s", episode.episode_id, self._settings.abandon_after_s)
        except TracebankError as error:
            log.warning("the abandoned episode %s cannot be closed yet: %s", episode.episode_id, error)
            await asyncio.sleep(RETRY_S)

    # -- feedback -----------------------------------------------------------------------------------------------

    async def feedback(self, raw: Mapping[str, Any], namespace: str) -> int:
        """Record whether memories helped. Returns how many. Raises: InputError for an id that is unknown; then nothing is stored."""
        said = parse_feedback(raw, limits=self._limits)
        evidence = Evidence(at_ms=self.now_ms(), helpful=said.helpful, weight=SAID_WEIGHT)

        def write(db: sqlite3.Connection) -> tuple[int, list[int]]:
            rows = [_row_of(db, i, trace_id, namespace) for i, trace_id in enumerate(said.trace_ids)]
            feedback.add(db, rows, evidence, note=said.note)
            return len(rows), traces.spaces_of(db, rows)

        updated, spaces = await self._store.write(write)
        self._has_feedback = True
        for space in spaces:
            self._changed(space)
        return updated

    async def weighed(self, ranking: tuple[Ranked, ...]) -> tuple[Ranked, ...]:
        """Return the ranking weighed by what is known of each trace's worth."""
        if not self._has_feedback:
            return ranking
        known = await self._store.read(lambda db: feedback.of_traces(db, [ranked.row for ranked in ranking]))
        now_ms, half_life_days = self.now_ms(), self._settings.feedback_half_life_days
        return weigh(
            ranking, {row: prior(*posterior(events, now_ms=now_ms, half_life_days=half_life_days)) for row, events in known.items()}
        )

    # -- what is told in a search -------------------------------------------------------------------------------

    async def context(self, rows: Sequence[int]) -> Context:
        """Return what is known about the traces on a page, in their order."""
        if not rows:
            return Context()

        def read(db: sqlite3.Connection) -> Context:
            known = pattern_rows.of_traces(db, rows, min_seen=patterns.MIN_SEEN)
            return Context(told=consolidation.told(lesson_groups.of_traces(db, rows), rows), patterns=tuple(patterns.hints(known)))

        return await self._store.read(read)

    # -- figures ------------------------------------------------------------------------------------------------

    async def figures(self) -> dict[str, Any]:
        """Return what `stats` tells."""

        def read(db: sqlite3.Connection) -> dict[str, Any]:
            counted = {"patterns": pattern_rows.counts(db), "feedback": feedback.counts(db), "lesson_groups": lesson_groups.counts(db)}
            return {"complete_episodes": episodes.counts(db)["complete"], **counted}

        buffered = {"open_episodes": len(self.step_log.open), "buffered_steps": self.step_log.buffered_steps}
        return {**buffered, **await self._store.read(read), "consolidation": dict(self.consolidator.last)}


def _fields(completed: Completed) -> dict[str, Any]:
    return {name: value for name, value in asdict(completed).items() if name != "seq"}


def _metadata(attempt: Attempt, judgement: Judgement) -> dict[str, str | int | float | bool]:
    seen = attempt.observed
    counts = {"steps": len(attempt.steps), "errors": seen.errors, "recovered": seen.recovered, "retries": seen.retries}
    rewards = {"reward": judgement.reward.value, **{f"reward_{name}": part for name, part in judgement.reward.parts.items()}}
    return {**counts, "duration_ms": round(seen.duration_ms, 1), **rewards}


def _row_of(db: sqlite3.Connection, i: int, trace_id: str, namespace: str) -> int:
    rows = traces.rows_of(db, [trace_id], [namespace]) or traces.rows_of(db, [trace_id])
    if len(rows) != 1:
        problem = "is in several namespaces: set TRACEBANK_NAMESPACE to the one that is meant" if rows else "is not known"
        raise InputError(f"trace_ids[{i}]", f"{shown(trace_id)} {problem}; take the id from a result of retrieve; nothing was recorded")
    return rows[0]
