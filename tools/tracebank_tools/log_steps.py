"""log_steps: an episode, step by step, while it happens."""

from __future__ import annotations

from typing import Annotated, Any

from mcp.types import CallToolResult
from pydantic import BaseModel

from tracebank.protocol.tools import ToolContext, ToolSpec, argument, reply, session_of

STEP = {
    "type": "object",
    "properties": {
        **{name: {"type": "string"} for name in ("action", "observation", "thought")},
        "ok": {"type": "boolean"},
        "duration_ms": {"type": "number"},
    },
    "required": ["action"],
}


class LogStepsResult(BaseModel):
    """The episode and how many steps it has by now."""

    episode_id: str
    steps: int


async def log_steps(
    ctx: ToolContext,
    episode_id: Annotated[Any, argument(type="string")] = None,
    task: Annotated[Any, argument(type="string")] = None,
    steps: Annotated[Any, argument(type="array", items=STEP)] = None,
) -> Annotated[CallToolResult, LogStepsResult]:
    """Log steps as you go: first with task, then with the episode_id it returns. complete_episode ends it."""
    session = session_of(ctx)
    given = {"episode_id": episode_id, "task": task, "steps": steps}
    episode = await session.engine.log_steps({name: value for name, value in given.items() if value is not None}, session)
    return reply(LogStepsResult(episode_id=episode.episode_id, steps=episode.steps), f"episode {episode.episode_id}: {episode.steps} steps")


TOOL = ToolSpec(run=log_steps, title="Log steps")
