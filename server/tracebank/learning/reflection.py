"""What an episode teaches: what worked, what failed and how it was recovered, what to do next time.

`StepReflector` finds it in the steps alone. A deeper one, such as a language model, is another `Reflector`: all run
side by side, and one that fails leaves the others standing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

from anyio import to_thread

from tracebank.learning.analysis import Mistake, Observed, Recovery, one_line
from tracebank.records import FOR_TASK, Lesson, Outcome
from tracebank.steps import Step

MAX_LESSONS = 3
MAX_LINES = 5
ACTION_CHARS, TASK_CHARS = 200, 120
ROUTE_ACTIONS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A finished episode, as a reflector sees it."""

    task: str
    outcome: Outcome
    steps: tuple[Step, ...]
    observed: Observed


@dataclass(frozen=True, slots=True, kw_only=True)
class Reflection:
    """What was seen, a sentence each, and the lessons for whoever has such a task next."""

    worked: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    next_time: tuple[str, ...] = ()
    lessons: tuple[Lesson, ...] = ()

    @property
    def text(self) -> str:
        """Return the reflection for a reader, without the lessons."""
        parts = (("Worked", self.worked), ("Failed", self.failed), ("Next time", self.next_time))
        return "\n".join(f"{name}: {line}" for name, lines in parts for line in lines)


class Reflector(Protocol):
    """Whoever can learn from an attempt. What it raises is told to the agent under its name; nothing else is lost."""

    @property
    def name(self) -> str:
        """How it is called where it is timed, and where its failure is told."""
        ...

    async def reflect(self, attempt: Attempt) -> Reflection:
        """Return what the attempt teaches."""
        ...


class StepReflector:
    """Learns from the steps alone: no model, no network, the same answer every time."""

    name = "steps"

    async def reflect(self, attempt: Attempt) -> Reflection:
        """Return what the steps show, off the event loop."""
        return await to_thread.run_sync(reflect_on_steps, attempt)


def reflect_on_steps(attempt: Attempt) -> Reflection:
    """Return what the steps of an attempt show, the most useful first."""
    observed = attempt.observed
    lessons = list(_lessons(attempt))[:MAX_LESSONS]
    failed = [*map(_recovered, observed.recoveries), *map(_in_vain, observed.dead_ends), *(_loop(*loop) for loop in observed.loops)]
    return Reflection(
        worked=(f"{_route(observed.route)}.",) if observed.route else (),
        failed=tuple(failed[:MAX_LINES]),
        next_time=tuple(lesson.content for lesson in lessons),
        lessons=tuple(lessons),
    )


def merge(reflections: Sequence[Reflection], *, known: Sequence[Lesson]) -> Reflection:
    """Return one reflection of several, the first ones first. `known`: what the agent said itself, which is not said again."""
    said = {_plain(lesson.content) for lesson in known}
    lessons = _distinct((lesson for r in reflections for lesson in r.lessons), lambda lesson: _plain(lesson.content), said)

    def lines(of: Callable[[Reflection], Iterable[str]]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(chain.from_iterable(map(of, reflections))))

    return Reflection(
        worked=lines(lambda r: r.worked), failed=lines(lambda r: r.failed), next_time=lines(lambda r: r.next_time),
        lessons=tuple(lessons[:MAX_LESSONS]),
    )  # fmt: skip


def _distinct(lessons: Iterable[Lesson], key: Callable[[Lesson], str], seen: set[str]) -> list[Lesson]:
    return [lesson for lesson in lessons if key(lesson) not in seen and not seen.add(key(lesson))]  # type: ignore[func-returns-value]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".!")


def _lessons(attempt: Attempt) -> Iterable[Lesson]:
    """Yield lessons, the most useful first: what a failure needed, what leads nowhere, what goes in circles, what worked."""
    observed = attempt.observed
    when = f"{FOR_TASK}{one_line(attempt.task, TASK_CHARS)}"
    for recovery in sorted(observed.recoveries, key=lambda r: -r.mistake.times):
        yield Lesson(title=_title(recovery), description=when, content=_advice(recovery))
    for mistake in sorted(observed.dead_ends, key=lambda m: -m.times):
        yield Lesson(title=f"{mistake.tool} leads nowhere here", description=when, content=_warning(mistake))
    for action, times in observed.loops:
        yield Lesson(title="Do not go in circles", description=when, content=f"{_loop(action, times)} Change it after the second time.")
    if attempt.outcome == Outcome.SUCCESS and observed.route:
        yield Lesson(title="A way that works", description=when, content=f"What worked: {_route(observed.route)}.")
    elif attempt.outcome == Outcome.FAILURE and not observed.errors and attempt.steps:
        yield Lesson(title="No error is no success", description=when, content=_silent_failure(attempt.steps[-1]))


def _title(recovery: Recovery) -> str:
    tool = recovery.mistake.tool
    titles = {
        "prepared": f"What {tool} needs first",
        "changed": f"The form of {tool} that works",
        "repeated": f"{tool} may fail once",
        "replaced": f"Instead of {tool}",
    }
    return titles[recovery.how]


def _advice(recovery: Recovery) -> str:
    action, error, fix = _quoted(recovery.mistake.action), _said(recovery.mistake), _then(recovery.fix)
    advice = {
        "prepared": f"When {action} fails {error}, do {fix} and repeat it: that worked. Where it is a precondition, do it first.",
        "changed": f"Use {fix} instead of {action}, which fails {error}.",
        "repeated": f"{action} can fail {error} and work when it is repeated unchanged: try it once more before changing anything.",
        "replaced": f"Use {fix} instead of {action}, which fails {error}.",
    }
    return advice[recovery.how]


def _warning(mistake: Mistake) -> str:
    times = f" ({mistake.times} times)" if mistake.times > 1 else ""
    return f"Do not rely on {_quoted(mistake.action)}: it failed {_said(mistake)}{times}, and nothing that was tried made it work."


def _silent_failure(last: Step) -> str:
    answer = f" It answered “{one_line(last.observation)}”." if last.observation.strip() else ""
    return f"It failed though no step did; the last was {_quoted(last.action)}.{answer} Check the result against the task before ending."


def _recovered(recovery: Recovery) -> str:
    how = "when repeated" if recovery.how == "repeated" else f"recovered by {_then(recovery.fix)}"
    return f"{_quoted(recovery.mistake.action)} failed {_said(recovery.mistake)}; {how}."


def _in_vain(mistake: Mistake) -> str:
    return f"{_quoted(mistake.action)} failed {_said(mistake)}, and was not recovered."


def _loop(action: str, times: int) -> str:
    return f"{_quoted(action)} gave the same answer {times} times."


def _said(mistake: Mistake) -> str:
    return f"with “{mistake.error}”" if mistake.error else "without a message"


def _quoted(action: str) -> str:
    return f"`{one_line(action, ACTION_CHARS)}`"


def _then(actions: Sequence[str]) -> str:
    return ", then ".join(map(_quoted, actions))


def _route(route: Sequence[str]) -> str:
    # The end matters most: it is what reached the goal.
    left_out = len(route) - ROUTE_ACTIONS
    shown = route if left_out <= 0 else (*route[: ROUTE_ACTIONS // 2], *route[-ROUTE_ACTIONS // 2 :])
    steps = [_quoted(action) for action in shown]
    if left_out > 0:
        steps.insert(ROUTE_ACTIONS // 2, f"… ({left_out} more)")
    return ", then ".join(steps)
