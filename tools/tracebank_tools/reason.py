"""reason: a task worked out by the configured language models, with the memory, and remembered."""

from __future__ import annotations

from typing import Annotated, Any

from mcp.types import CallToolResult
from pydantic import BaseModel, ConfigDict

from tracebank.engine import Engine
from tracebank.protocol.tools import ToolContext, ToolSpec, argument, reply, session_of
from tracebank.reasoning import Reasoned


class ReasonResult(BaseModel):
    """The best answer.

    Also `trace_id` where it was remembered, `score` where it was judged, `drafts`, `memories`, what the calls have used, and
    `notes` on what went wrong.
    """

    model_config = ConfigDict(extra="allow")

    answer: str
    outcome: str
    lessons: list[str]


async def reason(
    ctx: ToolContext,
    task: Annotated[Any, argument(type="string")],
    iterations: Annotated[Any, argument("Drafts of each, 1-10; default 3", type="integer")] = None,
    candidates: Annotated[Any, argument("Attempts side by side, 1-8; default 1", type="integer")] = None,
    namespace: Annotated[Any, argument(type="string")] = None,
) -> Annotated[CallToolResult, ReasonResult]:
    """Let a language model work out a task with the memory: draft, judge, refine, remember the best."""
    session = session_of(ctx)
    given = {"task": task, "iterations": iterations, "candidates": candidates, "namespace": namespace}
    done = await session.engine.reason(
        {name: value for name, value in given.items() if value is not None},
        session,
        listener=lambda share, name: ctx.report_progress(share, 1.0, name),
    )
    verdict = done.draft.verdict
    more = {
        "trace_id": done.trace_id,
        "score": verdict.score if verdict else None,
        "drafts": done.drafts,
        "memories": list(done.memories),
        "notes": list(done.notes) or None,
        "llm_calls": done.bill.calls,
        "llm_tokens": done.bill.tokens,
        "cost_usd": round(done.bill.cost_usd, 6),
    }
    result = ReasonResult(answer=done.draft.text, outcome=str(done.draft.outcome), lessons=list(done.lessons), **more)
    return reply(result, _text(done))


def _text(done: Reasoned) -> str:
    verdict = done.draft.verdict
    judged = f"judged {verdict.score:.2f}{', accepted' if verdict.satisfied else ', not accepted'}" if verdict else "not judged"
    of = f"1 of {done.drafts} drafts" if done.drafts > 1 else "1 draft"
    about = [f"{of}, {judged}", *([f"remembered as {done.trace_id}"] if done.trace_id else [])]
    lines = [done.draft.text, f"({'; '.join(about)})", *(f"Lesson: {lesson}" for lesson in done.lessons)]
    if verdict and not verdict.satisfied:
        lines += [f"Problem: {problem}" for problem in verdict.problems]
    return "\n".join([*lines, *(f"Note: {note}" for note in done.notes)])


def _withheld(engine: Engine) -> str:
    return "" if engine.llm.configured else "it needs a language model: add one under [[llm.providers]] in tracebank.toml"


TOOL = ToolSpec(run=reason, title="Reason with memory", open_world=True, withheld=_withheld)
