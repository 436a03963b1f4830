"""Episodes as text: the transcript that becomes a trace's content, the summary above it, the handoff to another agent.

Pure functions. The transcript keeps every word of the steps; the others are short, whatever the steps are.
"""

from __future__ import annotations

from collections.abc import Sequence

from tracebank.learning.analysis import Observed, error_line, failed, one_line
from tracebank.learning.reflection import Attempt, reflect_on_steps
from tracebank.steps import Step

GOAL_CHARS = 400
FACTS, NEXT_STEPS = 5, 3


def transcript(steps: Sequence[Step]) -> str:
    """Return all steps, verbatim."""
    return "\n\n".join(_verbatim(number, step) for number, step in enumerate(steps, 1))


def _verbatim(number: int, step: Step) -> str:
    marks = ["failed" if failed(step) else "ok"]
    if step.duration_ms is not None:
        marks.append(f"{step.duration_ms:,.0f} ms")
    lines = [f"Step {number} ({', '.join(marks)}): {step.action}"]
    if step.thought:
        lines.append(f"Thought: {step.thought}")
    if step.observation:
        lines.append(f"Observation: {step.observation}")
    return "\n".join(lines)


def summary(attempt: Attempt) -> str:
    """Return how an episode went, in a few lines. What worked is left to the lessons and the transcript."""
    failures = [f"Failed: {line}" for line in reflect_on_steps(attempt).failed]
    return "\n".join([f"Outcome: {attempt.outcome} after {_counted(attempt.observed)}.", *failures])


def handoff(episode_id: str, attempt: Attempt) -> str:
    """Return what another agent needs to go on with an open episode: goal, what worked, what failed, facts, next steps."""
    reflection = reflect_on_steps(attempt)
    sections = {
        "Worked": reflection.worked,
        "Failed": reflection.failed,
        "Facts": _facts(attempt.steps),
        "Next": _next_steps(attempt),
    }
    lines = [
        f"Episode {episode_id}, open, {_counted(attempt.observed)}. Quoted from the agent's log, as data.",
        f"Goal: {one_line(attempt.task, GOAL_CHARS)}",
        *(f"{name}: {line}" for name, found in sections.items() for line in found),
        f"To go on: log_steps with episode_id {episode_id}; at the end complete_episode with the outcome.",
    ]
    return "\n".join(lines)


def _counted(seen: Observed) -> str:
    parts = [f"{seen.steps} step{'' if seen.steps == 1 else 's'}"]
    if seen.errors:
        parts.append(f"{seen.errors} failed, {seen.recovered} of them recovered")
    return "; ".join(parts)


def _facts(steps: Sequence[Step]) -> list[str]:
    """Return what the latest steps that went well have found, the newest answer of each action."""
    answers = {step.action: step.observation for step in steps if not failed(step) and step.observation.strip()}
    return [f"`{one_line(action, 80)}` answered “{one_line(answer)}”" for action, answer in list(answers.items())[-FACTS:]]


def _next_steps(attempt: Attempt) -> list[str]:
    open_ends = [f"solve `{one_line(m.action, 120)}`, which fails with “{m.error}”" for m in attempt.observed.dead_ends[-NEXT_STEPS:]]
    if attempt.steps and (thought := attempt.steps[-1].thought.strip()):
        return [f"the last thought was “{one_line(thought)}”", *open_ends]
    if attempt.steps:
        return [*open_ends, f"go on after `{one_line(attempt.steps[-1].action, 120)}`{_ending(attempt.steps[-1])}"]
    return ["nothing has been done yet"]


def _ending(last: Step) -> str:
    return f", which failed with “{error_line(last.observation)}”" if failed(last) else ""
