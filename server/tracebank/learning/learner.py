"""What the engine has of learning: episodes, consolidation, feedback, and what is told in a search."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tracebank.errors import InputError
from tracebank.learning import consolidation, patterns
from tracebank.learning.consolidator import Consolidator
from tracebank.learning.episodes import Episodes
from tracebank.learning.feedback import SAID_WEIGHT, posterior, prior, weigh
from tracebank.records import Limits, shown
from tracebank.retrieval.fusion import Ranked
from tracebank.settings import LearningSettings
from tracebank.steps import parse_feedback
from tracebank.store import Store, feedback, lesson_groups, traces
from tracebank.store import episodes as episode_rows
from tracebank.store import patterns as pattern_rows
from tracebank.store.feedback import Evidence
from tracebank.store.lesson_groups import LessonKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What is known about the traces on a page, beside themselves."""

    told: Mapping[LessonKey, str | None] = field(default_factory=dict)
    patterns: tuple[str, ...] = ()


class Learner:
    """Learning in one data directory. `changed(space)` is called where answers may change by it."""

    def __init__(
        self,
        *,
        store: Store,
        episodes: Episodes,
        changed: Callable[[int], None],
        settings: LearningSettings,
        limits: Limits,
        now_ms: Callable[[], int],
    ) -> None:
        self._store, self.episodes, self._changed = store, episodes, changed
        self._settings, self._limits, self._now_ms = settings, limits, now_ms
        self.consolidator = Consolidator(store=store, changed=changed, idle_s=settings.consolidate_after_s, now_ms=now_ms)

    async def start(self) -> None:
        """Take up what was open when the last engine ended. Raises: StoreError."""
        await self.episodes.step_log.recover()

    async def run(self) -> None:
        """Do what falls due by itself, until cancelled: storing steps, closing abandoned episodes, consolidating."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.episodes.step_log.run())
            group.create_task(self.episodes.close_abandoned())
            if self._settings.consolidate:
                group.create_task(self.consolidator.run())

    # -- feedback -----------------------------------------------------------------------------------------------

    async def feedback(self, raw: Mapping[str, Any], namespace: str) -> int:
        """Record whether memories helped. Returns how many. Raises: InputError for an id that is unknown; then nothing is stored."""
        said = parse_feedback(raw, limits=self._limits)
        evidence = Evidence(at_ms=self._now_ms(), helpful=said.helpful, weight=SAID_WEIGHT)

        def write(db: sqlite3.Connection) -> tuple[int, list[int]]:
            rows = [_row_of(db, i, trace_id, namespace) for i, trace_id in enumerate(said.trace_ids)]
            feedback.add(db, rows, evidence, note=said.note)
            return len(rows), traces.spaces_of(db, rows)

        updated, spaces = await self._store.write(write)
        for space in spaces:
            self._changed(space)
        return updated

    async def weighed(self, ranking: tuple[Ranked, ...]) -> tuple[Ranked, ...]:
        """Return the ranking weighed by what is known of each trace's worth."""
        if not ranking:
            return ranking
        known = await self._store.read(lambda db: feedback.of_traces(db, [ranked.row for ranked in ranking]))
        now_ms, half_life_days = self._now_ms(), self._settings.feedback_half_life_days
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
            return {"complete_episodes": episode_rows.counts(db)["complete"], **counted}

        buffered = {"open_episodes": len(self.episodes.step_log.open), "buffered_steps": self.episodes.step_log.buffered_steps}
        return {**buffered, **await self._store.read(read), "consolidation": dict(self.consolidator.last)}


def _row_of(db: sqlite3.Connection, i: int, trace_id: str, namespace: str) -> int:
    rows = traces.rows_of(db, [trace_id], [namespace]) or traces.rows_of(db, [trace_id])
    if len(rows) != 1:
        problem = "is in several namespaces: set TRACEBANK_NAMESPACE to the one that is meant" if rows else "is not known"
        raise InputError(f"trace_ids[{i}]", f"{shown(trace_id)} {problem}; take the id from a result of retrieve; nothing was recorded")
    return rows[0]
