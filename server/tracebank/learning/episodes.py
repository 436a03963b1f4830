"""Episodes from their first step to their trace: logged, read while they are open, judged, stored, or closed as abandoned."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from anyio import to_thread

from tracebank.errors import InputError
from tracebank.lasting import Lasting
from tracebank.learning import patterns
from tracebank.learning.analysis import observe
from tracebank.learning.completion import Judge, Judgement
from tracebank.learning.feedback import USED_WEIGHT
from tracebank.learning.reflection import Attempt
from tracebank.learning.reward import CREDIT
from tracebank.learning.step_log import ABANDONED_TAG, Episode, StepLog, abandoned_one
from tracebank.learning.summary import handoff, transcript
from tracebank.records import Limits, Outcome, Trace, shown
from tracebank.settings import LearningSettings
from tracebank.steps import Completion, Step, parse_completion, parse_steps
from tracebank.store import Added, Store, episodes, feedback, traces
from tracebank.store import patterns as pattern_rows
from tracebank.store.feedback import Evidence

log = logging.getLogger(__name__)

# Stores a trace the engine's own way, and runs a write with its row in the same transaction.
Keep = Callable[[Trace, Callable[[sqlite3.Connection, Added], None]], Awaitable[Added]]
# Names a trace as agents know it: by namespace and id.
TraceName = tuple[str, str]

# A clock that was set forward is noticed within this time.
LONGEST_WAIT_S = 3_600.0
TAG = "episode"


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


class Episodes:
    """The episodes of one data directory."""

    def __init__(
        self,
        *,
        store: Store,
        step_log: StepLog,
        judge: Judge,
        keep: Keep,
        settings: LearningSettings,
        limits: Limits,
        now_ms: Callable[[], int],
    ) -> None:
        self._store, self.step_log, self._judge, self._keep = store, step_log, judge, keep
        self._settings, self._limits, self._now_ms = settings, limits, now_ms
        self._endings, self._reviving = Lasting(), asyncio.Lock()

    async def close(self) -> None:
        """Finish the completions that have begun, and store all steps."""
        await self._endings.settled()
        await self.step_log.close()

    async def log(self, raw: Mapping[str, Any], namespace: str) -> Episode:
        """Take steps of an episode; they survive a kill when this returns. Raises: InputError, StoreError."""
        return await self.step_log.append(parse_steps(raw, limits=self._limits), namespace)

    async def complete(self, raw: Mapping[str, Any], recalled: Sequence[TraceName] = ()) -> Completed:
        """End an episode: judge it, and store its trace. `recalled` are the memories that its agent had read.

        Doing it again returns the same. One that was closed as abandoned is judged again, now that its agent has come back.
        Raises: InputError, StoreError; then the episode stays as it was.
        """
        # An agent that cancels must not leave an episode that is complete in the store and open in memory.
        return await self._endings.run(self._end(parse_completion(raw, limits=self._limits), recalled))

    async def _end(self, said: Completion, recalled: Sequence[TraceName]) -> Completed:
        async with self.step_log.completing(said.episode_id) as held:
            if held is not None:
                return await self._judged(*held, said, recalled)
        if await self._store.read(lambda db: abandoned_one(db, said.episode_id)) is None:
            return await self._completed_before(said)
        async with self._reviving:
            # Somebody else may have ended it in the meantime.
            found = await self._store.read(lambda db: abandoned_one(db, said.episode_id))
            if found is None:
                return await self._completed_before(said)
            episode, steps, row = found
            return await self._judged(episode, steps, said, recalled, before=row)

    async def _judged(
        self,
        episode: Episode,
        steps: Sequence[Step],
        said: Completion,
        recalled: Sequence[TraceName] = (),
        *,
        before: int | None = None,
        abandoned: bool = False,
    ) -> Completed:
        """Judge an episode and store its trace; `before` is the row of the trace that it has had as an abandoned one."""
        attempt = await to_thread.run_sync(self._attempt, episode, steps, said.outcome)
        judgement = await self._judge.judge(attempt, episode.namespace, said, before=before)
        return await self._store_trace(episode, attempt, said, judgement, recalled, before=before, abandoned=abandoned)

    def _attempt(self, episode: Episode, steps: Sequence[Step], outcome: Outcome) -> Attempt:
        observed = observe(steps, outcome=outcome, waiting_actions=self._settings.waiting_actions)
        return Attempt(task=episode.task, outcome=outcome, steps=tuple(steps), observed=observed)

    async def _completed_before(self, said: Completion) -> Completed:
        """Return the former answer to who repeats a call. What is new in it must not be lost without a word."""
        result, outcome = await self._store.read(
            lambda db: (episodes.result_of(db, said.episode_id), episodes.outcome_of(db, said.episode_id))
        )
        if result is None:
            raise _unknown(said.episode_id)
        # What it was completed with; its trace may have been updated since.
        outcome, words = result.pop("outcome", outcome), result.pop("said", {})
        new = [name for name, value in _words(said).items() if value not in (None, "") and words and value != words[name]]
        if said.outcome != outcome or not {lesson.text for lesson in said.lessons} <= set(result["lessons"]) or new:
            raise InputError(
                "episode_id",
                f"{shown(said.episode_id)} is complete already, as {outcome}: nothing of this call was kept. Add what was learned since "
                f"with add_trace and parent_id {said.episode_id}",
            )
        return Completed(**{**result, "lessons": tuple(result["lessons"]), "patterns": tuple(result["patterns"])})

    async def _store_trace(
        self,
        episode: Episode,
        attempt: Attempt,
        said: Completion,
        judgement: Judgement,
        recalled: Sequence[TraceName],
        *,
        before: int | None,
        abandoned: bool,
    ) -> Completed:
        room = max(0, self._limits.lessons - len(said.lessons))
        lessons = (*said.lessons, *judgement.reflection.lessons[:room])
        trace = Trace(
            trace_id=episode.episode_id, namespace=episode.namespace, task=episode.task, outcome=said.outcome, lessons=lessons,
            content="\n\n".join(part for part in (judgement.summary, transcript(attempt.steps)) if part),
            tags=(TAG, ABANDONED_TAG) if abandoned else (TAG,), metadata=_metadata(attempt, judgement),
        )  # fmt: skip
        keys = patterns.patterns_of(attempt.steps, attempt.observed, waiting_actions=self._settings.waiting_actions)
        completed = Completed(
            trace_id=trace.trace_id, reward=judgement.reward.value, reward_parts=judgement.reward.parts,
            reflection=judgement.reflection.text, lessons=tuple(lesson.text for lesson in lessons), problems=judgement.problems,
        )  # fmt: skip
        written: list[Completed] = []

        def also(db: sqlite3.Connection, added: Added) -> None:
            if before not in (None, added.row):
                # What was forgotten while it was judged must not come back.
                raise _unknown(episode.episode_id)
            space = traces.namespace_id(db, trace.namespace)
            pattern_rows.add(db, space, keys, trace=added.row, credit=CREDIT[said.outcome])
            known = patterns.hints(pattern_rows.of_traces(db, [added.row], min_seen=patterns.MIN_SEEN))
            whole = replace(completed, patterns=tuple(known))
            closing = episodes.Closing(
                episode_id=trace.trace_id,
                effort=attempt.observed.effort,
                keep_steps=abandoned,
                result={**_fields(whole), "outcome": str(said.outcome), "said": _words(said)},
            )
            episodes.close(db, closing, added.row)
            if said.outcome == Outcome.SUCCESS:
                self._credit(db, recalled)
            written.append(whole)

        added = await self._keep(trace, also)
        return replace(written[-1], seq=added.seq)

    def _credit(self, db: sqlite3.Connection, recalled: Sequence[TraceName]) -> None:
        """Record that these memories had been read."""
        rows = [row for namespace, trace_id in recalled for row in traces.rows_of(db, [trace_id], [namespace])]
        feedback.add(db, rows, Evidence(at_ms=self._now_ms(), helpful=True, weight=USED_WEIGHT))

    async def forget(self, episode_ids: Iterable[str]) -> int:
        """Drop open episodes with all their steps. Returns how many were open. Raises: StoreError."""
        return await self._endings.run(self._forget(list(episode_ids)))

    async def _forget(self, episode_ids: Sequence[str]) -> int:
        forgotten = 0
        for episode_id in episode_ids:
            async with self.step_log.completing(episode_id) as held:
                if held is not None:
                    await self.step_log.flush(erased=True)
                    await self._store.write(lambda db: episodes.drop(db, episode_id))  # noqa: B023 - awaited
                    forgotten += 1
        return forgotten

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

    async def close_abandoned(self) -> None:
        """Close the episodes that have had no step for too long, when there are some. Raises: ExceptionGroup, when each was tried."""
        problems = []
        for episode in await self._abandoned():
            try:
                await self._abandon(episode)
            except Exception as error:  # one that cannot be closed must not keep the others open
                error.add_note(f"the abandoned episode {episode.episode_id} is still open")
                problems.append(error)
        if problems:
            raise ExceptionGroup("abandoned episodes cannot be closed yet", problems)

    async def _abandoned(self) -> list[Episode]:
        """Wait until there are episodes that have had no step for too long, and return them."""
        log_of_steps = self.step_log
        while True:
            log_of_steps.changed.clear()
            due = [e for e in log_of_steps.open.values() if self._left_ms(e) <= 0]
            if due:
                return due
            if not log_of_steps.open:
                await log_of_steps.changed.wait()
            left_ms = min(map(self._left_ms, log_of_steps.open.values()), default=0)
            await asyncio.sleep(min(LONGEST_WAIT_S, max(0.0, left_ms / 1000)))

    def _left_ms(self, episode: Episode) -> float:
        """Return the time that is left until an episode counts as abandoned."""
        return episode.updated_at_ms + self._settings.abandon_after_s * 1000 - self._now_ms()

    async def _abandon(self, episode: Episode) -> None:
        await self._endings.run(self._give_up(episode.episode_id))

    async def _give_up(self, episode_id: str) -> None:
        said = Completion(episode_id=episode_id, outcome=Outcome.UNKNOWN)
        # It may have had a step while others were judged before it.
        async with self.step_log.completing(episode_id, only_if=lambda episode: self._left_ms(episode) <= 0) as held:
            if held is not None:
                await self._judged(*held, said, abandoned=True)
                log.info("the episode %s is closed: no step for %g s", episode_id, self._settings.abandon_after_s)


def _unknown(episode_id: str) -> InputError:
    return InputError("episode_id", f"{shown(episode_id)} is not known: take it from the answer of log_steps")


def _fields(completed: Completed) -> dict[str, Any]:
    return {name: value for name, value in asdict(completed).items() if name != "seq"}


def _words(said: Completion) -> dict[str, Any]:
    """Return what an agent said of its episode that the answer does not repeat."""
    return {"summary": said.summary, "reward": said.reward}


def _metadata(attempt: Attempt, judgement: Judgement) -> dict[str, str | int | float | bool]:
    seen = attempt.observed
    counts = {"steps": len(attempt.steps), "errors": seen.errors, "recovered": seen.recovered, "retries": seen.retries}
    rewards = {"reward": judgement.reward.value, **{f"reward_{name}": part for name, part in judgement.reward.parts.items()}}
    return {**counts, "duration_ms": round(seen.duration_ms, 1), **rewards}
