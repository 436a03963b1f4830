"""What the engine has of learning: episodes, consolidation, feedback, and what is told in a search."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tracebank.background import Background
from tracebank.errors import InputError
from tracebank.idle import Idle
from tracebank.learning import age, consolidation, kinds, patterns
from tracebank.learning.consolidator import Consolidator
from tracebank.learning.episodes import Episodes
from tracebank.learning.feedback import SAID_WEIGHT, posterior, prior, weigh
from tracebank.records import Limits, shown
from tracebank.retrieval.fusion import Ranked
from tracebank.settings import LearningSettings
from tracebank.steps import parse_feedback
from tracebank.store import Store, feedback, lesson_groups, traces
from tracebank.store import episodes as episode_rows
from tracebank.store import kinds as kind_rows
from tracebank.store import patterns as pattern_rows
from tracebank.store.feedback import Evidence
from tracebank.store.lesson_groups import LessonKey

# What waits for the store is asked for again sooner: steps fill the memory meanwhile.
STORING_RETRY_S, RETRY_S = 5.0, 60.0
# Kinds of episodes that `stats` names.
LARGEST_KINDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What is known about the traces on a page, beside themselves."""

    told: Mapping[LessonKey, str | None] = field(default_factory=dict)
    patterns: tuple[str, ...] = ()


class Learner:
    """Learning in one data directory."""

    def __init__(
        self,
        *,
        store: Store,
        episodes: Episodes,
        idle: Idle,
        settings: LearningSettings,
        limits: Limits,
        now_ms: Callable[[], int],
        indexed: Callable[[], Awaitable[object]],
    ) -> None:
        self._store, self.episodes = store, episodes
        self._settings, self._limits, self._now_ms = settings, limits, now_ms
        self.consolidator = Consolidator(store=store, idle=idle, quiet_s=settings.consolidate_after_s, now_ms=now_ms, indexed=indexed)

    async def start(self) -> None:
        """Take up what was open when the last engine ended. Raises: StoreError."""
        await self.episodes.step_log.recover()

    def begin(self, background: Background) -> None:
        """Let what falls due by itself be done, each for itself: storing steps, closing abandoned episodes, consolidating."""
        background.repeat("storing steps", self.episodes.step_log.store_due, retry_s=STORING_RETRY_S)
        background.repeat("closing abandoned episodes", self.episodes.close_abandoned, retry_s=RETRY_S)
        if self._settings.consolidate:
            background.repeat("consolidation", self.consolidator.consolidate_due, retry_s=RETRY_S)

    # -- feedback -----------------------------------------------------------------------------------------------

    async def feedback(self, raw: Mapping[str, Any], namespace: str) -> int:
        """Record whether memories helped. Returns how many. Raises: InputError for an id that is unknown; then nothing is stored."""
        said = parse_feedback(raw, limits=self._limits)
        evidence = Evidence(at_ms=self._now_ms(), helpful=said.helpful, weight=SAID_WEIGHT)

        def write(db: sqlite3.Connection) -> int:
            rows = [_row_of(db, i, trace_id, namespace) for i, trace_id in enumerate(said.trace_ids)]
            feedback.add(db, rows, evidence, note=said.note)
            return len(rows)

        return await self._store.write(write)

    def weighed(self, ranking: tuple[Ranked, ...]) -> tuple[Ranked, ...]:
        """Return the ranking weighed by what is known of each trace's worth, and by its age. It blocks. Raises: StoreError."""
        if not ranking:
            return ranking
        rows = [ranked.row for ranked in ranking]
        known, moments = self._store.read_now(lambda db: (feedback.of_traces(db, rows), traces.occurred_at_ms(db, rows)))
        now_ms, settings = self._now_ms(), self._settings
        weights = age.priors(moments, half_life_days=settings.age_half_life_days)
        for row, events in known.items():
            worth = prior(*posterior(events, now_ms=now_ms, half_life_days=settings.feedback_half_life_days))
            weights[row] = worth * weights.get(row, 1.0)
        return weigh(ranking, weights)

    # -- what is told in a search -------------------------------------------------------------------------------

    def context(self, rows: Sequence[int]) -> Context:
        """Return what is known about the traces on a page, in their order. It blocks. Raises: StoreError."""
        if not rows:
            return Context()

        def read(db: sqlite3.Connection) -> Context:
            known = pattern_rows.of_traces(db, rows, min_seen=patterns.MIN_SEEN)
            often = kinds.told(kind_rows.of_traces(db, rows), rows)
            return Context(told=consolidation.told(lesson_groups.of_traces(db, rows), rows), patterns=(*often, *patterns.hints(known)))

        return self._store.read_now(read)

    # -- figures ------------------------------------------------------------------------------------------------

    async def figures(self) -> dict[str, Any]:
        """Return what `stats` tells."""

        def read(db: sqlite3.Connection) -> dict[str, Any]:
            counted = {"patterns": pattern_rows.counts(db), "feedback": feedback.counts(db), "lesson_groups": lesson_groups.counts(db)}
            largest = [kinds.figures(kind) for kind in kind_rows.largest(db, LARGEST_KINDS)]
            known = {**kind_rows.counts(db), "largest": largest}
            return {"complete_episodes": episode_rows.counts(db)["complete"], "kinds_of_episodes": known, **counted}

        buffered = {"open_episodes": len(self.episodes.step_log.open), "buffered_steps": self.episodes.step_log.buffered_steps}
        return {**buffered, **await self._store.read(read), "consolidation": dict(self.consolidator.last)}


def _row_of(db: sqlite3.Connection, i: int, trace_id: str, namespace: str) -> int:
    rows = traces.rows_of(db, [trace_id], [namespace]) or traces.rows_of(db, [trace_id])
    if len(rows) != 1:
        problem = "is in several namespaces: set TRACEBANK_NAMESPACE to the one that is meant" if rows else "is not known"
        raise InputError(f"trace_ids[{i}]", f"{shown(trace_id)} {problem}; take the id from a result of retrieve; nothing was recorded")
    return rows[0]
