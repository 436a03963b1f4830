"""What is remembered of a task that was worked on: one trace, with every draft that fits and what it was built on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from tracebank.learning.completion import LIKE
from tracebank.llm import Completion
from tracebank.reasoning.attempts import Attempt, Draft
from tracebank.reasoning.prompts import told
from tracebank.reasoning.request import Assignment
from tracebank.records import Lesson, Limits, Trace
from tracebank.retrieval.shown import Result

TAG = "reason"
CUT = "\n[cut]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What the answers of the language models have used. `model`: who wrote last."""

    calls: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    model: str = ""

    def plus(self, completion: Completion) -> Bill:
        """Return the bill with one more answer on it."""
        used = 0 if completion.cached else completion.tokens_in + completion.tokens_out
        cost_usd = 0.0 if completion.cached else completion.cost_usd
        return Bill(calls=self.calls + 1, tokens=self.tokens + used, cost_usd=self.cost_usd + cost_usd, model=completion.model)


def parent_among(results: Sequence[Result]) -> str | None:
    """Return the id of the memory that this refines: the best one, where it is about the same kind of task."""
    if not results:
        return None
    parts = results[0].parts
    return results[0].trace_id if max(parts["dense"], parts["lexical"]) >= LIKE else None


def as_trace(
    trace_id: str,
    assignment: Assignment,
    plan: str,
    attempts: Sequence[Attempt],
    best: Draft,
    lessons: Sequence[Lesson],
    *,
    parent_id: str | None,
    memories: Sequence[str],
    bill: Bill,
    limits: Limits,
) -> Trace:
    """Return the trace: the answer first, then the plan and the attempts, as far as there is room within the limits."""
    parts = [f"Answer:\n{best.text}", *([f"Plan: {plan}"] if plan else []), *(told(attempt) for attempt in attempts if attempt.drafts)]
    counts = {"drafts": sum(len(attempt.drafts) for attempt in attempts), "llm_calls": bill.calls, "llm_tokens": bill.tokens}
    score = {"score": best.verdict.score} if best.verdict else {}
    return Trace(
        trace_id=trace_id,
        namespace=assignment.namespace,
        task=assignment.task,
        content=_cut("\n\n".join(parts), limits.content_bytes),
        outcome=best.outcome,
        lessons=tuple(lessons),
        tags=(TAG,),
        parent_id=parent_id,
        metadata={
            **counts,
            **score,
            "cost_usd": round(bill.cost_usd, 6),
            # What a provider calls its model is its own word.
            "model": bill.model[: limits.metadata_value_chars],
            "built_on": _listed(memories, limits.metadata_value_chars),
        },
    )


def _listed(ids: Sequence[str], max_chars: int) -> str:
    """Return ids in a line, the first ones where not all have room."""
    lengths = accumulate(len(one) + 1 for one in ids)
    return " ".join(one for one, end in zip(ids, lengths, strict=True) if end - 1 <= max_chars)


def _cut(text: str, max_bytes: int) -> str:
    raw = text.encode()
    return text if len(raw) <= max_bytes else raw[: max_bytes - len(CUT)].decode("utf-8", "ignore") + CUT
