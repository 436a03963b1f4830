"""forget: delete memories for good."""

from __future__ import annotations

from typing import Annotated, Any

from mcp.types import CallToolResult
from pydantic import BaseModel

from tracebank.forgetting import forget as forget_traces
from tracebank.protocol.tools import ToolContext, ToolSpec, argument, reply, session_of


class ForgetResult(BaseModel):
    """What matches, and what is gone."""

    matched: int
    deleted: int
    sample: list[dict[str, str]]


async def forget(
    ctx: ToolContext,
    trace_ids: Annotated[Any, argument("Or a filter", type="array", items={"type": "string"})] = None,
    namespace: Annotated[Any, argument("Default: yours", type="string")] = None,
    tags: Annotated[Any, argument(type="array", items={"type": "string"})] = None,
    outcome: Annotated[Any, argument(type="string")] = None,
    before: Annotated[Any, argument("RFC 3339", type="string")] = None,
    metadata: Annotated[Any, argument(type="object")] = None,
    dry_run: Annotated[Any, argument("Default true: only show", type="boolean")] = None,
) -> Annotated[CallToolResult, ForgetResult]:
    """Delete memories for good; first call it as it is and look at what matches."""
    session = session_of(ctx)
    done = await forget_traces(
        session.engine, trace_ids=trace_ids, namespace=namespace, tags=tags, outcome=outcome, before=before, metadata=metadata,
        dry_run=True if dry_run is None else dry_run, within=session.namespace,
    )  # fmt: skip
    result = ForgetResult(matched=done.matched, deleted=done.deleted, sample=list(done.sample))
    shown = "".join(f"\n- {found['trace_id']}: {found['task']}" for found in done.sample)
    if done.deleted or dry_run is False:
        acted = f"{done.deleted} deleted"
    else:
        acted = f"{done.matched} match; dry_run=false deletes them" if done.matched else "0 match"
    return reply(result, "; ".join(filter(None, (acted, done.note))) + shown)


TOOL = ToolSpec(run=forget, title="Forget memories", destructive=True, idempotent=True)
