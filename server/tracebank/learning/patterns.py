"""Patterns over episodes: what is done in sequence, what follows an error, what is chosen where there is a choice.

A pattern is made of tools and masked errors only, so it says nothing of one trace that another does not say, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from tracebank.learning.analysis import Observed, error_kind, failed, tool_of
from tracebank.steps import Step
from tracebank.store.patterns import Pattern, PatternKey

SEQUENCE_TOOLS = 3
MAX_OF_A_KIND = 50
MIN_SEEN = 2
MAX_HINTS = 3
# One choice is better than another only where this much of the success rate lies between them.
CLEARLY_BETTER = 1 / 3
_STEP, _START = " → ", "the start"


def patterns_of(steps: Sequence[Step], observed: Observed, *, waiting_actions: Sequence[str] = ()) -> list[PatternKey]:
    """Return the patterns that an episode shows, each once, in order."""
    tools = [(tool_of(step.action), failed(step)) for step in steps]
    tools = [(tool, wrong) for tool, wrong in tools if tool not in waiting_actions]
    return [*_recoveries(observed), *_sequences(tools), *_decisions(tools)]


def _recoveries(observed: Observed) -> list[PatternKey]:
    keys = []
    for recovery in observed.recoveries[:MAX_OF_A_KIND]:
        mistake = recovery.mistake
        context = f"{mistake.tool} fails ({error_kind(mistake.error)})" if mistake.error else f"{mistake.tool} fails"
        again = (mistake.tool,) if recovery.how in ("prepared", "repeated") else ()
        keys.append(PatternKey(kind="recovery", context=context, choice=_STEP.join((*map(tool_of, recovery.fix), *again))))
    return keys


def _sequences(tools: Sequence[tuple[str, bool]]) -> list[PatternKey]:
    names = _collapsed([tool for tool, wrong in tools if not wrong])
    runs = [tuple(names[i : i + SEQUENCE_TOOLS]) for i in range(len(names) - SEQUENCE_TOOLS + 1)]
    return [PatternKey(kind="sequence", context=_STEP.join(run[:-1]), choice=run[-1]) for run in list(dict.fromkeys(runs))[:MAX_OF_A_KIND]]


def _collapsed(names: Sequence[str]) -> list[str]:
    return [name for i, name in enumerate(names) if i == 0 or name != names[i - 1]]


def _decisions(tools: Sequence[tuple[str, bool]]) -> list[PatternKey]:
    """Return what was chosen first of all, and after each thing that failed."""
    points = [(_START, tools[0][0])] if tools else []
    points += [(f"{tool} fails", after) for (tool, wrong), (after, _) in pairwise(tools) if wrong]
    return [PatternKey(kind="decision", context=c, choice=n) for c, n in list(dict.fromkeys(points))[:MAX_OF_A_KIND]]


def hints(found: Sequence[Pattern]) -> list[str]:
    """Return what is worth telling of these patterns, in a line each: recoveries, decisions that matter, sequences."""
    judged = [p for p in found if p.judged]
    recoveries = [p for p in judged if p.key.kind == "recovery" and p.rate > 0]
    sequences = [p for p in judged if p.key.kind == "sequence" and p.rate > 0.5]
    ordered = [*_best_first(recoveries), *_best_first(_better_choices(judged)), *_best_first(sequences)]
    return [_line(pattern) for pattern in ordered if pattern.seen >= MIN_SEEN][:MAX_HINTS]


def _best_first(patterns: Sequence[Pattern]) -> list[Pattern]:
    # The lower end of what the counts allow, (credit) / (judged + 1): seen often counts as well as seen to succeed.
    return sorted(patterns, key=lambda p: (-p.credit / (p.judged + 1), p.key))


def _better_choices(judged: Sequence[Pattern]) -> list[Pattern]:
    """Return of each decision the best choice, where another one is clearly worse."""
    decisions: dict[str, list[Pattern]] = {}
    for pattern in judged:
        if pattern.key.kind == "decision":
            decisions.setdefault(pattern.key.context, []).append(pattern)
    ranked = [_best_first(choices) for choices in decisions.values()]
    return [choices[0] for choices in ranked if choices[0].rate - min(p.rate for p in choices) >= CLEARLY_BETTER]


def _line(pattern: Pattern) -> str:
    key = pattern.key
    told = {
        "recovery": f"when {key.context}: {key.choice}",
        "decision": f"after {key.context}, choose {key.choice}" if key.context != _START else f"begin with {key.choice}",
        "sequence": f"{key.context}{_STEP}{key.choice}",
    }
    return f"{told[key.kind]} ({pattern.credit:g} of {pattern.judged} episodes succeeded)"
