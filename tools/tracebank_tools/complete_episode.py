"""complete_episode: an episode becomes a memory, judged and with its lessons."""

from __future__ import annotations

from typing import Annotated, Any

from mcp.types import CallToolResult
from pydantic import BaseModel, ConfigDict

from tracebank.protocol.tools import ToolContext, ToolSpec, argument, reply, session_of


class CompleteEpisodeResult(BaseModel):
    """What was learned; also `problems`, by part, where something could not be found out."""

    model_config = ConfigDict(extra="allow")

    trace_id: str
    reward: float
    reward_parts: dict[str, float]
    reflection: str
    lessons: list[str]
    patterns: list[str]


async def complete_episode(
    ctx: ToolContext,
    episode_id: Annotated[Any, argument(type="string")],
    outcome: Annotated[Any, argument(enum=["success", "failure", "partial", "unknown"])],
    lessons: Annotated[Any, argument(type="array", items={"type": "string"})] = None,
    summary: Annotated[Any, argument(type="string")] = None,
    reward: Annotated[Any, argument("0-1; default: computed", type="number")] = None,
) -> Annotated[CallToolResult, CompleteEpisodeResult]:
    """End an episode: judge it, find its lessons, remember it."""
    session = session_of(ctx)
    given = {"episode_id": episode_id, "outcome": outcome, "lessons": lessons, "summary": summary, "reward": reward}
    done = await session.engine.complete_episode({name: value for name, value in given.items() if value is not None}, session)
    result = CompleteEpisodeResult(
        trace_id=done.trace_id, reward=done.reward, reward_parts=dict(done.reward_parts), reflection=done.reflection,
        lessons=list(done.lessons), patterns=list(done.patterns), **({"problems": dict(done.problems)} if done.problems else {}),
    )  # fmt: skip
    lines = [f"remembered as {done.trace_id}, reward {done.reward:.2f}", done.reflection]
    lines += [f"Pattern: {line}" for line in done.patterns] + [f"Not found out: {name}: {why}" for name, why in done.problems.items()]
    return reply(result, "\n".join(line for line in lines if line))


TOOL = ToolSpec(run=complete_episode, title="End an episode", idempotent=True)
