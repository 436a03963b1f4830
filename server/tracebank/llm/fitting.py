"""A prompt within its budget: counted, and where it is too long, shortened by the compressor that was handed in."""

from __future__ import annotations

import json
from dataclasses import replace

from anyio import to_thread

from tracebank.errors import LlmRejectedError
from tracebank.llm.base import Compress, Request
from tracebank.tokens import Tokenizer

# Counting a longer text takes milliseconds: not on the event loop.
SMALL_CHARS = 4_000
# Roles, separators, and what a correction says of the last answer.
OVERHEAD_TOKENS = 200


async def count_tokens(text: str, tokenizer: Tokenizer) -> int:
    """Return how many tokens a text has, without holding up the event loop."""
    return tokenizer.count(text) if len(text) < SMALL_CHARS else await to_thread.run_sync(tokenizer.count, text)


async def fitted(
    request: Request, *, provider: str, budget_tokens: int, tokenizer: Tokenizer, compress: Compress | None
) -> tuple[Request, int]:
    """Return the request within `budget_tokens` of input, and the tokens it has.

    Only the prompt is shortened; what the system and the schema say stays whole.
    Raises: LlmRejectedError where that does not fit.
    """
    schema = json.dumps(request.schema) if request.schema is not None else ""
    fixed = OVERHEAD_TOKENS + await count_tokens(request.system + schema, tokenizer)
    room = min(request.max_prompt_tokens or budget_tokens, budget_tokens - fixed)
    tokens = await count_tokens(request.prompt, tokenizer)
    if tokens <= room:
        return request, fixed + tokens
    if compress is None or room < 1:
        raise LlmRejectedError(
            provider,
            f"the prompt has {tokens} tokens and there is room for {max(0, room)}: shorten it, or raise context_tokens",
            processed=False,
        )
    prompt = await compress(request.prompt, room)
    return replace(request, prompt=prompt), fixed + await count_tokens(prompt, tokenizer)
