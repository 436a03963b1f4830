"""Prompts over their budget."""

from __future__ import annotations

import pytest
from llm.conftest import ClientOf, provider_settings
from llm.provider import serving

from tracebank.compression import compress
from tracebank.errors import LlmRejectedError
from tracebank.llm import Request
from tracebank.tokens import load_tokenizer

pytestmark = pytest.mark.anyio

LONG = "\n".join(f"Line {i}: the build of module {i} took {i * 7} ms and failed with error E{i}." for i in range(500))


async def _compress(text: str, budget_tokens: int) -> str:
    return compress(text, budget_tokens=budget_tokens, tokenizer=load_tokenizer("o200k_base")).text


async def test_a_prompt_that_fits_is_sent_as_it_is(client_of: ClientOf) -> None:
    """Byte for byte."""
    async with serving() as provider:
        client = client_of(provider_settings(provider), world_of={"compress": _compress})
        await client.query(Request(prompt=LONG))
        assert provider.calls[0].prompt == LONG


@pytest.mark.parametrize(("context", "most", "expected"), [(2_500, None, 2_300), (32_000, 400, 400)])
async def test_a_prompt_over_its_budget_is_compressed(client_of: ClientOf, context: int, most: int | None, expected: int) -> None:
    """Into what the model's context leaves beside the answer, or what the caller allows; the system stays whole."""
    async with serving() as provider:
        client = client_of(provider_settings(provider, context_tokens=context, max_output_tokens=200), world_of={"compress": _compress})
        await client.query(Request(prompt=LONG, system="Say which module is slowest.", max_prompt_tokens=most))
        call = provider.calls[0]
        assert call.body["messages"][0]["content"] == "Say which module is slowest."
        assert expected * 0.7 < load_tokenizer("o200k_base").count(call.prompt) <= expected


async def test_where_it_cannot_be_made_to_fit_nothing_is_sent_and_a_larger_model_is_asked(client_of: ClientOf) -> None:
    """Without a compressor, or where the system alone is too long."""
    async with serving() as small, serving() as large:
        tiny = provider_settings(small, name="small", context_tokens=1_000, max_output_tokens=200)
        client = client_of(tiny, provider_settings(large, name="large"))
        with pytest.raises(LlmRejectedError, match=r"the prompt has \d+ tokens and there is room for \d+: shorten it"):
            await client.query(Request(prompt=LONG))
        assert (await client.query_with_fallback(Request(prompt=LONG))).provider == "large"
        shortening = client_of(tiny, world_of={"compress": _compress})
        with pytest.raises(LlmRejectedError, match="there is room for 0"):
            await shortening.query(Request(prompt="x", system=LONG))
        assert small.calls == []


async def test_an_answer_may_be_shorter_than_the_setting_allows_and_never_longer(client_of: ClientOf) -> None:
    """The caller lowers the limit; raising it would pass what was reserved."""
    async with serving() as provider:
        client = client_of(provider_settings(provider, max_output_tokens=500))
        for asked in (None, 50, 5_000):
            await client.query(Request(prompt="x", max_output_tokens=asked))
    assert [call.body["max_tokens"] for call in provider.calls] == [500, 50, 500]
