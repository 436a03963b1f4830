"""Judging a finished episode: reward, reflections and summary side by side, each on its own feet.

A part that fails or takes too long is told by its name, and the others stand: the trace is stored in any case.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from anyio import to_thread

from tracebank.learning.analysis import one_line
from tracebank.learning.reflection import Attempt, Reflection, Reflector, merge
from tracebank.learning.reward import Reward, reward
from tracebank.learning.summary import summary
from tracebank.metrics import Metrics
from tracebank.settings import LearningSettings
from tracebank.steps import Completion
from tracebank.store import Store, episodes

log = logging.getLogger(__name__)

Part = TypeVar("Part")
Similar = Callable[[str, str], Awaitable[Sequence[tuple[int, float]]]]
# How similar a task must be to be compared with, and how long is waited for the search that finds such tasks.
LIKE = 0.6
COMPARISON_TIMEOUT_S = 1.0
PROBLEM_CHARS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What was found out about an episode, and by part what could not be."""

    reward: Reward
    reflection: Reflection
    summary: str
    problems: dict[str, str] = field(default_factory=dict)


class Summarizer(Protocol):
    """Whoever can say more of an attempt than its steps show. What it raises is told to the agent under its name."""

    @property
    def name(self) -> str:
        """How it is called where it is timed, and where its failure is told."""
        ...

    async def summarize(self, attempt: Attempt) -> str:
        """Return a few sentences; "" where there is nothing to say."""
        ...


class Judge:
    """Judges attempts. `similar(task, namespace)` returns rows of traces with how similar their tasks are, 0 to 1."""

    def __init__(
        self,
        *,
        store: Store,
        similar: Similar,
        reflectors: Sequence[Reflector],
        summarizers: Sequence[Summarizer] = (),
        settings: LearningSettings,
        metrics: Metrics,
    ) -> None:
        self._store, self._similar, self._reflectors, self._summarizers = store, similar, reflectors, summarizers
        self._settings, self._metrics = settings, metrics

    async def judge(self, attempt: Attempt, namespace: str, said: Completion, *, before: int | None = None) -> Judgement:
        """Return all parts, found side by side. What the agent said itself wins, and is not asked for.

        `before` is the row of the trace that the attempt already has: it is not compared with itself.
        """
        problems: dict[str, str] = {}
        plain = reward(attempt.outcome, attempt.observed, like_efforts=(), similarity=0.0)
        reflecting = [self._part(f"reflection_{r.name}", r.reflect(attempt), Reflection(), problems) for r in self._reflectors]
        asked = () if said.summary else self._summarizers
        summing = [self._part("summary", to_thread.run_sync(summary, attempt), "", problems)]
        summing += [self._part(f"summary_{s.name}", s.summarize(attempt), "", problems) for s in asked]
        rewarded, summaries, reflections = await asyncio.gather(
            self._part("reward", self._reward(attempt, namespace, before, problems), plain, problems),
            asyncio.gather(*summing),
            asyncio.gather(*reflecting),
        )
        return Judgement(
            reward=rewarded if said.reward is None else Reward(value=said.reward, parts=rewarded.parts),
            reflection=merge(reflections, known=said.lessons),
            summary=said.summary or "\n".join(filter(None, summaries)),
            problems=problems,
        )

    async def _part(self, name: str, work: Awaitable[Part], fallback: Part, problems: dict[str, str]) -> Part:
        try:
            with self._metrics.timed(f"episode_{name}"):
                async with asyncio.timeout(self._settings.reflection_timeout_s):
                    return await work
        except TimeoutError:
            problems[name] = f"took longer than {self._settings.reflection_timeout_s:g} s"
        except Exception as error:  # whatever one part raises, the others and the trace are not to be lost with it
            log.exception("%s of an episode has failed", name)
            problems[name] = one_line(f"{type(error).__name__}: {error}", PROBLEM_CHARS)
        return fallback

    async def _reward(self, attempt: Attempt, namespace: str, before: int | None, problems: dict[str, str]) -> Reward:
        found: Sequence[tuple[int, float]] = ()
        try:
            async with asyncio.timeout(COMPARISON_TIMEOUT_S):
                found = [one for one in await self._similar(attempt.task, namespace) if one[0] != before]
        except TimeoutError:
            problems["comparison"] = f"the search for earlier episodes of the like took longer than {COMPARISON_TIMEOUT_S:g} s"
        like = [row for row, similarity in found if similarity >= LIKE]
        efforts = await self._store.read(lambda db: episodes.efforts(db, like)) if like else {}
        similarity = max((similarity for _, similarity in found), default=0.0)
        return reward(attempt.outcome, attempt.observed, like_efforts=sorted(efforts.values()), similarity=similarity)
