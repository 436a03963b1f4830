"""stats: the state of the memory."""

from __future__ import annotations

import json
from typing import Annotated, Any

from mcp.types import CallToolResult
from pydantic import BaseModel, ConfigDict

from tracebank.protocol.tools import ToolContext, ToolSpec, argument, reply, session_of
from tracebank.reporting import report


class StatsResult(BaseModel):
    """The sections asked for."""

    model_config = ConfigDict(extra="allow")


async def stats(
    ctx: ToolContext,
    section: Annotated[Any, argument("Such as advice, latencies, llm; default all", type="string")] = None,
) -> Annotated[CallToolResult, StatsResult]:
    """Counts, latencies, caches, and advice."""
    figures = await report(session_of(ctx).engine, "all" if section is None else section)
    return reply(StatsResult.model_validate(figures), "\n".join(_line(name, part) for name, part in figures.items()))


def _line(name: str, part: object) -> str:
    return f"{name}: {json.dumps(part, ensure_ascii=False, separators=(',', ':'))}".replace('"', "")


TOOL = ToolSpec(run=stats, title="State of the memory", read_only=True, idempotent=True)
