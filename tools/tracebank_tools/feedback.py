"""feedback: whether memories helped."""

from __future__ import annotations

from typing import Annotated, Any

from mcp.types import CallToolResult
from pydantic import BaseModel

from tracebank.protocol.tools import ToolContext, ToolSpec, argument, reply, session_of


class FeedbackResult(BaseModel):
    """How many memories it was recorded for."""

    updated: int


async def feedback(
    ctx: ToolContext,
    trace_ids: Annotated[Any, argument(type="array", items={"type": "string"})],
    helpful: Annotated[Any, argument(type="boolean")],
    note: Annotated[Any, argument(type="string")] = None,
) -> Annotated[CallToolResult, FeedbackResult]:
    """Say which memories helped or misled you."""
    session = session_of(ctx)
    given = {"trace_ids": trace_ids, "helpful": helpful, "note": note}
    updated = await session.engine.feedback({name: value for name, value in given.items() if value is not None}, session)
    return reply(FeedbackResult(updated=updated), f"recorded for {updated}")


TOOL = ToolSpec(run=feedback, title="Rate memories")
