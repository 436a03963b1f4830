"""retrieve: the memories that help with a task, inside a token budget."""

from __future__ import annotations

from typing import Annotated, Any, cast

from mcp.types import CallToolResult
from pydantic import BaseModel, ConfigDict

from tracebank.answering import Retrieved
from tracebank.protocol.tools import ToolContext, ToolSpec, argument, reply, session_of

STRINGS = {"type": "array", "items": {"type": "string"}}
ONE_OR_MORE = [{"type": "string"}, STRINGS]


class Memory(BaseModel):
    """One memory; `parts` of its score only with detail full, `near_equal`, ids of others that say the same, only where there are any."""

    trace_id: str
    task: str
    outcome: str
    score: float
    lessons: list[str]
    excerpt: str
    tags: list[str]
    namespace: str
    occurred_at: str
    parts: dict[str, float] | None = None
    near_equal: list[str] | None = None


class RetrieveResult(BaseModel):
    """A page of memories; also `patterns`, lines about them together, where there are any."""

    model_config = ConfigDict(extra="allow")

    results: list[Memory]
    tokens: int
    searched: dict[str, Any]
    next_cursor: str | None = None


async def retrieve(
    ctx: ToolContext,
    query: Annotated[Any, argument("The task at hand in a sentence, or several: the best of each", anyOf=ONE_OR_MORE)],
    k: Annotated[Any, argument("Default 5", type="integer", minimum=1, maximum=50)] = None,
    namespace: Annotated[Any, argument("Default: this client's; * for all", anyOf=ONE_OR_MORE)] = None,
    outcome: Annotated[Any, argument("success, failure, partial, unknown", anyOf=ONE_OR_MORE)] = None,
    tags: Annotated[Any, argument("All of these", **STRINGS)] = None,
    since: Annotated[Any, argument("RFC 3339", type="string")] = None,
    until: Annotated[Any, argument("RFC 3339; a date: to its end", type="string")] = None,
    metadata: Annotated[Any, argument("Equal in all of these", type="object")] = None,
    max_tokens: Annotated[Any, argument("Of the text; default 2000", type="integer", minimum=50, maximum=100_000)] = None,
    detail: Annotated[Any, argument(enum=["concise", "full"])] = None,
    cursor: Annotated[Any, argument("next_cursor of the page before", type="string")] = None,
) -> Annotated[CallToolResult, RetrieveResult]:
    """Find what earlier work teaches about a task: lessons, outcomes and passages, best first. Call it before starting."""
    session = session_of(ctx)
    given = {
        "query": query, "k": k, "namespace": namespace, "outcome": outcome, "tags": tags, "since": since, "until": until,
        "metadata": metadata,
        "max_tokens": max_tokens, "detail": detail, "cursor": cursor,
    }  # fmt: skip
    found = await session.engine.retrieve({name: value for name, value in given.items() if value is not None}, session)
    # An answer that is kept was put into this form before.
    if "result" not in found.shaped:
        found.shaped["result"] = _result(found, with_parts=detail == "full")
    return cast(CallToolResult, found.shaped["result"])


def _result(found: Retrieved, *, with_parts: bool) -> CallToolResult:
    memories = [
        Memory(
            trace_id=r.trace_id, task=r.task, outcome=r.outcome, score=r.score,
            lessons=list(r.lessons), excerpt=r.excerpt, tags=list(r.tags),
            namespace=r.namespace, occurred_at=r.occurred_at, parts=dict(r.parts) if with_parts else None,
            near_equal=list(r.near_equal) or None,
        )
        for r in found.page.results
    ]  # fmt: skip
    searched = {"namespaces": list(found.namespaces), "meaning": found.dense, **({"note": found.note} if found.note else {})}
    result = RetrieveResult(
        results=memories, tokens=found.page.tokens, searched=searched,
        next_cursor=found.next_cursor, **({"patterns": list(found.page.patterns)} if found.page.patterns else {}),
    )  # fmt: skip
    return reply(result, found.page.text)


TOOL = ToolSpec(run=retrieve, title="Recall memories", read_only=True, idempotent=True)
