"""What can be seen in the steps of an episode: errors, how they were recovered, what led nowhere, what was repeated.

Pure functions. An action is free text, so its tool is read from its beginning, and two errors are alike when they
differ only in numbers, paths and quoted names.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tracebank.index.stopwords import STOP_WORDS
from tracebank.records import Outcome
from tracebank.steps import Step

# Where an agent does not say whether a step went well, a line that begins like this says that it did not.
_FAILURE = re.compile(r"\s*(?:\w+\.)*(?:\w*(?:Error|Exception)\b|error|fatal|failed|failure|traceback)\b", re.IGNORECASE)
_NAMED_ERROR = re.compile(
    r"\b\w*(?:Error|Exception)\b|\b[45]\d\d\b|\b(?:denied|refused|not found|invalid|missing|timed out|unknown)\b", re.I
)
_CALL = re.compile(r"\s*([A-Za-z_][\w.\-/]*)\s*[({\[:]")
_NAME, _SUBCOMMAND = re.compile(r"[a-z_][\w.\-/]*"), re.compile(r"[a-z][a-z\-]*")
_MASKED = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|(?:[A-Za-z]:)?[\\/][\w.\-\\/]+|\b0x[0-9a-f]+\b|\b[0-9a-f]{8,}\b|\d+", re.I)
TOOL_CHARS, LINE_CHARS, KIND_CHARS = 60, 160, 100
# How far away another form of an action that failed is still an answer to the failure, and another action altogether.
CHANGED_WITHIN, REPLACED_WITHIN = 4, 2
LOOP_TIMES = 3

How = Literal["prepared", "changed", "repeated", "replaced"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """An action that failed in one way, `times` in all, with the most telling line of its last answer."""

    action: str
    tool: str
    error: str
    times: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """A mistake and what helped.

    `how`: something else was done before the same action worked (prepared), another form of it worked (changed), it
    worked when repeated unchanged (repeated), or another action took its place (replaced). `fix` are the actions that
    made the difference; empty where it was repeated.
    """

    mistake: Mistake
    how: How
    fix: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What the steps of an episode show. Steps that waited for a person are not among `steps` and `duration_ms`."""

    steps: int
    errors: int
    retries: int
    recovered: int
    duration_ms: float
    recoveries: tuple[Recovery, ...]
    dead_ends: tuple[Mistake, ...]
    loops: tuple[tuple[str, int], ...]
    route: tuple[str, ...]

    @property
    def effort(self) -> int:
        """Steps, and retries once more."""
        return self.steps + self.retries


def failed(step: Step) -> bool:
    """Return whether a step failed: as its agent says, else as its answer looks."""
    if step.ok is not None:
        return not step.ok
    lines = [line for line in step.observation.splitlines() if line.strip()]
    return any(_FAILURE.match(line) for line in (*lines[:1], *lines[-1:]))


def tool_of(action: str) -> str:
    """Return the name of what an action uses: `run_tests` of `run_tests(path="a")`, `git commit` of `git commit -m x`."""
    if action.lstrip().startswith("{") and (name := _named_in_json(action)):
        return name[:TOOL_CHARS]
    if found := _CALL.match(action):
        return found[1][:TOOL_CHARS]
    words = action.split()[:2] or [""]
    if len(words) > 1 and _NAME.fullmatch(words[0]) and _SUBCOMMAND.fullmatch(words[1]) and words[1] not in STOP_WORDS:
        return " ".join(words)[:TOOL_CHARS]
    return words[0][:TOOL_CHARS]


def _named_in_json(action: str) -> str:
    try:
        call = json.loads(action)
    except (ValueError, RecursionError):
        return ""
    return next((value for key in ("tool", "name", "action", "function") if isinstance(value := call.get(key), str)), "")


def one_line(text: str, chars: int = LINE_CHARS) -> str:
    """Return the text in one line, cut where it is longer."""
    flat = " ".join(text.split())
    return flat if len(flat) <= chars else flat[: chars - 1].rstrip() + "…"


def error_line(observation: str) -> str:
    """Return the line that says most of an error: the last that names one, else the first."""
    lines = [line for line in observation.splitlines() if line.strip()]
    named = [line for line in lines if _FAILURE.match(line) or _NAMED_ERROR.search(line)]
    telling = [line for line in named if not line.lstrip().lower().startswith("traceback")]
    return one_line((telling or named or lines or [""])[-1 if named else 0])


def error_kind(error: str) -> str:
    """Return what alike errors have in common: numbers, paths and quoted names are masked."""
    return _MASKED.sub("*", error)[:KIND_CHARS].strip()


def observe(steps: Sequence[Step], *, outcome: Outcome, waiting_actions: Sequence[str] = ()) -> Observed:
    """Return what the steps of an episode that ended so, or has not ended (unknown), show."""
    own = [step for step in steps if tool_of(step.action) not in waiting_actions]
    bad = [failed(step) for step in own]
    recoveries, dead_ends = _mistakes(own, bad, well=outcome in (Outcome.SUCCESS, Outcome.PARTIAL))
    in_vain = {(m.action, error_kind(m.error)) for m in dead_ends}
    failures = [(step.action, error_kind(error_line(step.observation))) for step, wrong in zip(own, bad, strict=True) if wrong]
    return Observed(
        steps=len(own), errors=sum(bad), retries=_retries(own, bad),
        recovered=sum(failure not in in_vain for failure in failures),
        duration_ms=sum(step.duration_ms or 0.0 for step in own),
        recoveries=recoveries, dead_ends=dead_ends, loops=_loops(own, bad),
        route=tuple(dict.fromkeys(step.action for step, wrong in zip(own, bad, strict=True) if not wrong)),
    )  # fmt: skip


def _retries(steps: Sequence[Step], bad: Sequence[bool]) -> int:
    """Return how often an action that had failed was done again, unchanged."""
    tried: set[str] = set()
    count = 0
    for step, wrong in zip(steps, bad, strict=True):
        count += step.action in tried
        if wrong:
            tried.add(step.action)
    return count


def _mistakes(steps: Sequence[Step], bad: Sequence[bool], *, well: bool) -> tuple[tuple[Recovery, ...], tuple[Mistake, ...]]:
    recoveries, dead_ends = [], []
    course = _Course(steps, bad, well=well)
    errors = [error_line(step.observation) if wrong else "" for step, wrong in zip(steps, bad, strict=True)]
    kinds = [(step.action, error_kind(error)) for step, error in zip(steps, errors, strict=True)]
    times = Counter(kind for kind, wrong in zip(kinds, bad, strict=True) if wrong)
    last = {kind: i for i, (kind, wrong) in enumerate(zip(kinds, bad, strict=True)) if wrong}
    for kind, i in last.items():
        mistake = Mistake(action=kind[0], tool=tool_of(kind[0]), error=errors[i], times=times[kind])
        found = course.recovery(i)
        if found is None:
            dead_ends.append(mistake)
        else:
            recoveries.append(Recovery(mistake=mistake, how=found[0], fix=found[1]))
    return tuple(recoveries), tuple(dead_ends)


class _Course:
    """Steps in their order, looked up by action and by tool: each failure is followed up, and an episode can have thousands."""

    def __init__(self, steps: Sequence[Step], bad: Sequence[bool], *, well: bool) -> None:
        self._well = well
        self._actions = [step.action for step in steps]
        self._tools = [tool_of(action) for action in self._actions]
        self._good = [i for i, wrong in enumerate(bad) if not wrong]
        self._last_of_tool = {tool: i for i, tool in enumerate(self._tools)}
        self._last_good = {self._actions[i]: i for i in self._good}
        self._places: dict[str, list[int]] = {}
        for i, action in enumerate(self._actions):
            self._places.setdefault(action, []).append(i)

    def recovery(self, failing: int) -> tuple[How, tuple[str, ...]] | None:
        """Return how an action that failed in this way for the last time at `failing` was recovered, and by what; None if it was not."""
        action, tool = self._actions[failing], self._tools[failing]
        if self._last_good.get(action, -1) > failing:
            # The next time it did not fail in this way any more, even if it then failed in another.
            places = self._places[action]
            again = places[bisect_right(places, failing)]
            between = tuple(dict.fromkeys(self._actions[i] for i in self._went_well(failing, again)))
            return ("prepared", between[-2:]) if between else ("repeated", ())
        soon = self._went_well(failing, failing + CHANGED_WITHIN + 1)
        changed = next((i for i in soon if self._tools[i] == tool), None)
        if changed is not None:
            return "changed", (self._actions[changed],)
        # What comes right after may be the next idea, or only a look around: it counts if the tool that failed is given up, and the
        # episode went well without it.
        given_up, ended_well = self._last_of_tool[tool] == failing, self._well and self._good[-1:] == [len(self._actions) - 1]
        replaced = next((i for i in soon if i <= failing + REPLACED_WITHIN), None)
        return ("replaced", (self._actions[replaced],)) if replaced is not None and given_up and ended_well else None

    def _went_well(self, after: int, before: int) -> list[int]:
        """Return the places between two others where nothing failed."""
        return self._good[bisect_right(self._good, after) : bisect_left(self._good, before)]


def _loops(steps: Sequence[Step], bad: Sequence[bool]) -> tuple[tuple[str, int], ...]:
    """Return the actions that gave the same answer again and again, though none failed, and how often."""
    seen = Counter((step.action, step.observation) for step, wrong in zip(steps, bad, strict=True) if not wrong)
    return tuple((action, times) for (action, _), times in seen.items() if times >= LOOP_TIMES)
