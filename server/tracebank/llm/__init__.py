"""Language models, where some are configured: pooled, retried, capped, counted.

    completion = await client.query_with_fallback(Request(prompt="…", schema=SCHEMA))
    answers = await client.batch_query(["…", "…"], concurrency=10)

`client` is what callers see; `provider` asks one provider, through `dialects` (what the protocols say), `pool`
(connections), `retrying`, `breaker`, `spending`, `fitting` (prompts over their budget) and `structured` (JSON by a
schema). Importing this costs nothing: httpx and the rest are loaded by the first call.
"""

from tracebank.llm.base import Answer, Completion, Dialect, Price, Provider, Request, World
from tracebank.llm.client import LlmClient
from tracebank.llm.spending import Spending

__all__ = ["Answer", "Completion", "Dialect", "LlmClient", "Price", "Provider", "Request", "Spending", "World"]
