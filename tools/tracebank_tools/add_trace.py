"""add_trace: store what was tried and learned."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from mcp.types import CallToolResult
from pydantic import BaseModel

from tracebank.protocol.tools import ToolContext, ToolSpec, argument, reply, session_of

PARTS = {name: {"type": "string"} for name in ("title", "description", "content")}
LESSON = {"anyOf": [{"type": "string"}, {"type": "object", "properties": PARTS, "required": ["content"]}]}


class AddTraceResult(BaseModel):
    """What was stored."""

    trace_id: str
    status: Literal["created", "updated", "unchanged"]
    chunks: int
    tokens: int
    indexed: bool


async def add_trace(
    ctx: ToolContext,
    task: Annotated[Any, argument("What was attempted, or when this memory applies", type="string")],
    content: Annotated[Any, argument("Steps, notes, dialogue; kept verbatim, up to 1 MiB", type="string")] = None,
    outcome: Annotated[Any, argument(enum=["success", "failure", "partial", "unknown"])] = None,
    lessons: Annotated[Any, argument("1-3 rules that would have saved time", type="array", items=LESSON)] = None,
    tags: Annotated[Any, argument(type="array", items={"type": "string"})] = None,
    namespace: Annotated[Any, argument("Project; default: this client's", type="string")] = None,
    trace_id: Annotated[Any, argument("Your own id: the same id again replaces", type="string")] = None,
    parent_id: Annotated[Any, argument("The trace this one refines", type="string")] = None,
    occurred_at: Annotated[Any, argument("RFC 3339; default: now", type="string")] = None,
    metadata: Annotated[Any, argument("Flat", type="object")] = None,
) -> Annotated[CallToolResult, AddTraceResult]:
    """Remember a finished or abandoned task, failures too, with its outcome and lessons."""
    session = session_of(ctx)
    given = {
        "task": task, "content": content, "outcome": outcome, "lessons": lessons, "tags": tags, "namespace": namespace,
        "trace_id": trace_id, "parent_id": parent_id, "occurred_at": occurred_at, "metadata": metadata,
    }  # fmt: skip
    added = await session.engine.add({name: value for name, value in given.items() if value is not None}, session)
    result = AddTraceResult(trace_id=added.trace_id, status=added.status, chunks=added.chunks, tokens=added.tokens, indexed=added.indexed)
    return reply(result, f"{added.status} {added.trace_id}")


TOOL = ToolSpec(run=add_trace, title="Remember a task")
