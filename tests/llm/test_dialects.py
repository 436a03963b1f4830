"""What each protocol is sent, and how its answers are read."""

from __future__ import annotations

from typing import Any

import pytest
from llm.conftest import KEY, PROTOCOLS, ClientOf, provider_settings
from llm.provider import Raw, Reply, serving

from tracebank.llm import Request
from tracebank.llm.dialects import DIALECTS, Chat, Messages, Responses

SCHEMA = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"], "additionalProperties": False}
OPEN_SCHEMA = {"type": "object", "properties": {"title": {"type": "string"}}}
FULL = Request(prompt="Which?", system="Be brief.", schema=SCHEMA, temperature=1.5)


def body_of(protocol: str, request: Request, base_url: str = "http://127.0.0.1:1/v1") -> dict[str, Any]:
    """Return what a protocol is sent."""
    return DIALECTS[protocol].body(request, model="tiny", max_output_tokens=64, base_url=base_url)


def test_chat_completions_are_asked_as_everybody_knows_them() -> None:
    """System and user message, max_tokens, response_format."""
    assert body_of("chat", FULL) == {
        "model": "tiny",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which?"}],
        "max_tokens": 64,
        "temperature": 1.5,
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}},
    }
    assert "max_completion_tokens" in body_of("chat", FULL, Chat.base_url)


def test_responses_are_asked_and_not_kept_by_the_provider() -> None:
    """Instructions, input, text.format, store false."""
    assert body_of("responses", FULL) == {
        "model": "tiny",
        "input": "Which?",
        "instructions": "Be brief.",
        "max_output_tokens": 64,
        "store": False,
        "temperature": 1.5,
        "text": {"format": {"type": "json_schema", "name": "answer", "schema": SCHEMA, "strict": True}},
    }


def test_messages_are_asked_for_a_schema_by_a_tool_that_must_be_called() -> None:
    """System apart from the messages; temperatures end at 1."""
    assert body_of("messages", FULL) == {
        "model": "tiny",
        "max_tokens": 64,
        "system": "Be brief.",
        "temperature": 1.0,
        "messages": [{"role": "user", "content": "Which?"}],
        "tools": [{"name": "answer", "description": "Give the answer.", "input_schema": SCHEMA}],
        "tool_choice": {"type": "tool", "name": "answer"},
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_was_not_asked_for_is_not_sent(protocol: str) -> None:
    """Some servers refuse fields that they do not know."""
    fields = set(body_of(protocol, Request(prompt="Which?")))
    assert not fields & {"temperature", "system", "instructions", "response_format", "text", "tools", "tool_choice"}


def test_strictness_is_asked_only_where_the_schema_allows_it() -> None:
    """OpenAI refuses a strict schema with open objects or optional properties."""
    chat = body_of("chat", Request(prompt="x", schema=OPEN_SCHEMA))["response_format"]["json_schema"]
    assert chat["strict"] is False
    assert body_of("responses", Request(prompt="x", schema=OPEN_SCHEMA))["text"]["format"]["strict"] is False


def test_the_key_stands_where_each_protocol_wants_it() -> None:
    """And nowhere where there is none."""
    assert Chat().headers(KEY) == Responses().headers(KEY) == {"authorization": f"Bearer {KEY}"}
    assert Messages().headers(KEY) == {"anthropic-version": "2023-06-01", "x-api-key": KEY}
    assert Chat().headers("") == {}
    assert Messages().headers("") == {"anthropic-version": "2023-06-01"}


def test_parts_and_caches_are_read() -> None:
    """Content in parts, reasoning left out, cached input counted."""
    chat = Chat().answer({"choices": [{"message": {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}}]})
    assert (chat.text, chat.tokens_in, chat.model) == ("ab", None, "")
    assert Chat().answer({"choices": [{"message": {"content": None}, "finish_reason": "content_filter"}]}).refusal
    messages = Messages().answer(
        {
            "content": [{"type": "thinking", "thinking": "…"}, {"type": "text", "text": "yes"}],
            "usage": {"input_tokens": 5, "cache_read_input_tokens": 100, "cache_creation_input_tokens": None, "output_tokens": 2},
        }
    )
    assert (messages.text, messages.tokens_in, messages.tokens_out) == ("yes", 105, 2)
    assert Responses().answer({"output": [], "incomplete_details": {"reason": "content_filter"}}).refusal


@pytest.mark.parametrize("count", [True, -1, 10**9 + 1, 1.5, "7", None, [7]])
def test_a_count_of_tokens_that_cannot_be_meant_is_none(count: Any) -> None:
    """The day's account would be out by it."""
    usage = dict.fromkeys(("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens"), count)
    for answer in (
        Chat().answer({"choices": [{"message": {"content": "a"}}], "usage": usage}),
        Responses().answer({"output": [], "usage": usage}),
        Messages().answer({"content": [], "usage": usage}),
    ):
        assert (answer.tokens_in, answer.tokens_out) == (None, None)
    cached = {"input_tokens": 5, "output_tokens": 10**9, "cache_read_input_tokens": count, "cache_creation_input_tokens": 2}
    messages = Messages().answer({"content": [], "usage": cached})
    assert (messages.tokens_in, messages.tokens_out) == (7, 10**9)


@pytest.mark.anyio
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_json_comes_back_checked_in_every_protocol(client_of: ClientOf, protocol: str) -> None:
    """As a value; also where the provider takes no schema and is asked in words."""
    async with serving(answer=lambda _: Reply('{"title": "Wait"}')) as provider:
        for takes_schema in (True, False):
            client = client_of(provider_settings(provider, protocol=protocol, json_schema=takes_schema))
            completion = await client.query(Request(prompt="lesson", schema=SCHEMA))
            assert completion.value == {"title": "Wait"}
            assert ("matching this JSON Schema" in provider.calls[-1].prompt) is not takes_schema


@pytest.mark.anyio
async def test_an_error_told_inside_a_response_is_one(client_of: ClientOf) -> None:
    """A failed Response comes with status 200."""
    failed = Raw(b'{"object": "response", "status": "failed", "error": {"code": "server_error", "message": "oops"}, "output": []}')
    async with serving() as provider:
        provider.meets(failed)
        completion = await client_of(provider_settings(provider, protocol="responses")).query(Request(prompt="x"))
        assert completion.retries == 1
