"""compress_prompt: a long text, cut to a token budget."""

from __future__ import annotations

from typing import Annotated, Any

from mcp.types import CallToolResult
from pydantic import BaseModel

from tracebank.errors import InputError
from tracebank.protocol.tools import ToolContext, ToolSpec, argument, reply, session_of
from tracebank.records import check_bool, check_fraction, check_int, check_list, check_size, check_text, given, shown

STRATEGIES = ("auto", "head_tail", "extract", "code")
MAX_BUDGET = 10_000_000


class Step(BaseModel):
    """What one step saved."""

    name: str
    before: int
    after: int


class CompressPromptResult(BaseModel):
    """The shorter text."""

    text: str
    original_tokens: int
    tokens: int
    tokenizer: str
    steps: list[Step]
    original_id: str | None = None


async def compress_prompt(
    ctx: ToolContext,
    text: Annotated[Any, argument("Up to 4 MiB", type="string")],
    max_tokens: Annotated[Any, argument("Budget; or give ratio", type="integer", minimum=1)] = None,
    ratio: Annotated[Any, argument("Fraction kept; default 0.7", type="number")] = None,
    query: Annotated[Any, argument("What the text is needed for", type="string")] = None,
    strategy: Annotated[Any, argument(enum=list(STRATEGIES))] = None,
    head_ratio: Annotated[Any, argument("Share for the beginning; default 0.6", type="number")] = None,
    keep: Annotated[Any, argument("Must survive, like <keep>…</keep> in text", type="array", items={"type": "string"})] = None,
    keep_original: Annotated[Any, argument("Whole at prompt://{original_id}", type="boolean")] = None,
) -> Annotated[CallToolResult, CompressPromptResult]:
    """Shorten a long prompt or document to a token budget: first what costs no meaning, then what matters least."""
    engine = session_of(ctx).engine
    limits, defaults = engine.limits, engine.settings.compression
    text = check_size("text", text, max_bytes=limits.prompt_bytes)
    if max_tokens is not None and ratio is not None:
        raise InputError("max_tokens", "give max_tokens or ratio, not both")
    if given({"strategy": strategy}, "strategy", "auto") not in STRATEGIES:
        raise InputError("strategy", f"must be one of {', '.join(STRATEGIES)}, not {shown(strategy)}")
    if query is not None:
        query = check_text("query", query, max_chars=limits.query_chars)
    compressed, original_id = await engine.compress(
        text,
        budget_tokens=None if max_tokens is None else check_int("max_tokens", max_tokens, 1, MAX_BUDGET),
        ratio=None if ratio is None else check_fraction("ratio", ratio, low_open=True),
        listener=lambda share, name: ctx.report_progress(share, 1.0, name),
        marked=True,
        strategy=strategy or "auto",
        query=query or "",
        keep_original=keep_original is not None and check_bool("keep_original", keep_original),
        head_ratio=defaults.head_ratio if head_ratio is None else check_fraction("head_ratio", head_ratio),
        keep=[
            check_text(f"keep[{i}]", k, min_chars=1, max_chars=limits.prompt_bytes)
            for i, k in enumerate(check_list("keep", () if keep is None else keep, 100))
        ],
    )
    steps = [
        Step(name=step.name, before=step.tokens_before, after=step.tokens_after)
        for step in compressed.steps
        # Those that found nothing to do would be most of an answer.
        if step.tokens_after != step.tokens_before
    ]
    result = CompressPromptResult(
        text=compressed.text,
        original_tokens=compressed.original_tokens,
        tokens=compressed.tokens,
        tokenizer=compressed.tokenizer,
        steps=steps,
        original_id=original_id,
    )
    return reply(result, compressed.text)


TOOL = ToolSpec(run=compress_prompt, title="Shorten a prompt", read_only=True, idempotent=True)
