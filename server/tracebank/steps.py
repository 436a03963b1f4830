"""What an agent tells of its work while it works: steps, how an episode ended, what a memory was worth.

Frozen values and the only ways from the outside in, as `records` has them for traces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tracebank.errors import InputError
from tracebank.records import (
    Lesson,
    Limits,
    Outcome,
    check_bool,
    check_fraction,
    check_id,
    check_lessons,
    check_list,
    check_outcome,
    check_text,
    given,
    kind,
    one_or_more,
    shown,
)

STEP_FIELDS = ("action", "observation", "thought", "ok", "duration_ms")
MAX_DURATION_MS = 30 * 24 * 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One action and what came of it. `ok` None: the agent did not say."""

    action: str
    observation: str = ""
    thought: str = ""
    ok: bool | None = None
    duration_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedSteps:
    """A call of `log_steps`: steps of an open episode, or, without an id, the first ones of a new one."""

    episode_id: str | None
    task: str | None
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """How an episode ended, and what its agent already knows about it."""

    episode_id: str
    outcome: Outcome
    lessons: tuple[Lesson, ...] = ()
    summary: str = ""
    reward: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """Whether memories helped."""

    trace_ids: tuple[str, ...]
    helpful: bool
    note: str = ""


def parse_steps(raw: Mapping[str, Any], *, limits: Limits) -> LoggedSteps:
    """Return a checked call of `log_steps`. Raises: InputError."""
    episode_id, task = raw.get("episode_id"), raw.get("task")
    if episode_id is None and task is None:
        raise InputError("task", "is required to start an episode: say what is attempted; or give the episode_id of an open one")
    items = check_list("steps", given(raw, "steps", ()), limits.steps)
    if episode_id is not None and not items:
        raise InputError("steps", "must not be empty: give what was done since the last call, each step with its action")
    return LoggedSteps(
        episode_id=None if episode_id is None else check_id("episode_id", episode_id, limits),
        task=None if task is None else check_text("task", task, min_chars=1, max_chars=limits.task_chars),
        steps=tuple(_parse_step(f"steps[{i}]", item, limits) for i, item in enumerate(items)),
    )


def _parse_step(name: str, item: object, limits: Limits) -> Step:
    if isinstance(item, str):
        item = {"action": item}
    if not isinstance(item, Mapping):
        raise InputError(name, f"must be an object of {', '.join(STEP_FIELDS)}, not {kind(item)}")
    if unknown := set(item) - set(STEP_FIELDS):
        raise InputError(name, f"has the unknown key {shown(min(unknown, key=str))}; the keys are {', '.join(STEP_FIELDS)}")
    if item.get("action") is None:
        raise InputError(f"{name}.action", "is required: say what was done, such as the call with its arguments")
    return Step(
        action=check_text(f"{name}.action", item["action"], min_chars=1, max_chars=limits.action_chars),
        observation=check_text(f"{name}.observation", given(item, "observation", ""), max_chars=limits.observation_chars),
        thought=check_text(f"{name}.thought", given(item, "thought", ""), max_chars=limits.action_chars),
        ok=None if item.get("ok") is None else check_bool(f"{name}.ok", item["ok"]),
        duration_ms=None if item.get("duration_ms") is None else _check_duration(f"{name}.duration_ms", item["duration_ms"]),
    )


def parse_completion(raw: Mapping[str, Any], *, limits: Limits) -> Completion:
    """Return a checked call of `complete_episode`. Raises: InputError."""
    for name, hint in (("episode_id", "take it from the answer of log_steps"), ("outcome", f"one of {', '.join(Outcome)}")):
        if raw.get(name) is None:
            raise InputError(name, f"is required: {hint}")
    return Completion(
        episode_id=check_id("episode_id", raw["episode_id"], limits),
        outcome=check_outcome("outcome", raw["outcome"]),
        lessons=check_lessons(given(raw, "lessons", ()), limits),
        summary=check_text("summary", given(raw, "summary", ""), max_chars=limits.summary_chars),
        reward=None if raw.get("reward") is None else check_fraction("reward", raw["reward"]),
    )


def parse_feedback(raw: Mapping[str, Any], *, limits: Limits) -> Feedback:
    """Return a checked call of `feedback`. Raises: InputError."""
    if raw.get("trace_ids") is None:
        raise InputError("trace_ids", "is required: the ids of the memories, as retrieve returned them")
    if raw.get("helpful") is None:
        raise InputError("helpful", "is required: true where they helped, false where they misled")
    items = one_or_more("trace_ids", raw["trace_ids"], limits.feedback_traces)
    if not items:
        raise InputError("trace_ids", "must not be an empty list: give the ids of the memories, as retrieve returned them")
    return Feedback(
        trace_ids=tuple(dict.fromkeys(check_id(f"trace_ids[{i}]", item, limits) for i, item in enumerate(items))),
        helpful=check_bool("helpful", raw["helpful"]),
        note=check_text("note", given(raw, "note", ""), max_chars=limits.note_chars),
    )


def _check_duration(name: str, value: object) -> float:
    # Not a number compares as false, too.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_DURATION_MS:
        raise InputError(name, f"must be milliseconds from 0 to {MAX_DURATION_MS:,}, not {shown(value)}")
    return float(value)
