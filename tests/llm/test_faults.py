"""Every fault of a provider: asked again where that is right, never twice for one answer, and told clearly."""

from __future__ import annotations

import asyncio
import socket
from time import monotonic
from typing import Any

import pytest
from llm.conftest import NOON, PROTOCOLS, ClientOf, Time, provider_settings
from llm.provider import Held, Meeting, Raw, Refusal, Reply, Reset, Slow, Status, Truncated, serving

from tracebank.errors import (
    LlmAnswerError,
    LlmCallError,
    LlmExhaustedError,
    LlmRefusedError,
    LlmRejectedError,
    LlmSchemaError,
    LlmUnavailableError,
)
from tracebank.llm import LlmClient, Request, World

pytestmark = pytest.mark.anyio

SCHEMA = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"], "additionalProperties": False}
AGAIN: dict[str, tuple[Meeting, str, bool]] = {
    # What is met, what the error says where it goes on, and whether the provider may have charged for it.
    "too many requests": (Status(429), "too many requests (status 429): something is wrong", False),
    "internal error": (Status(500), "it failed (status 500)", False),
    "bad gateway": (Status(502, body=b"<html>Bad Gateway</html>"), "it failed (status 502): <html>Bad Gateway</html>", True),
    "no origin's answer": (Status(524), "it failed (status 524)", True),
    "unavailable": (Status(503), "it failed (status 503)", False),
    "overloaded": (Status(529), "it failed (status 529)", False),
    "reset in mid-body": (Reset(), "the connection broke (ReadError)", True),
    "closed in mid-body": (Reset(closed=True), "peer closed connection without sending complete message body", True),
    "slow bytes": (Slow(), "no answer after 1 s", True),
    "invalid JSON": (Raw(b'{"choices": nope}'), "its answer is not JSON", True),
    "nested JSON": (Raw(b"[" * 1_500), "its answer is not JSON (it is nested too deeply)", True),
    "nested error": (Status(500, body=b"[" * 1_500), "it failed (status 500): [[[", False),
    "no number": (Raw(b'{"choices": NaN}'), "its answer is not JSON (NaN is no number of JSON)", True),
    "truncated JSON": (Truncated(), "its answer is not JSON", True),
    "no object": (Raw(b"[]"), "its answer is no JSON object but list", True),
    "another protocol": (Raw(b'{"pong": 1}'), "its answer is not of the protocol it was asked in", True),
    "an object for a text": (
        Raw(b'{"choices": [{"message": {"content": {"a": 1}}}]}'),
        "its answer is not of the protocol it was asked in",
        True,
    ),
    "a number for a refusal": (
        Raw(b'{"choices": [{"message": {"content": "yes", "refusal": 7}}]}'),
        "its answer is not of the protocol it was asked in",
        True,
    ),
    "an object for a model": (
        Raw(b'{"model": {"a": 1}, "choices": [{"message": {"content": "yes"}}], "output": 7}'),
        "its answer is not of the protocol",
        True,
    ),
    "error told with status 200": (Raw(b'{"error": {"code": 502, "message": "upstream"}}'), "it failed (status 502): upstream", True),
    "empty content": (Reply(""), "the answer is empty", False),
}


def timeout_s_of(fault: str) -> float:
    """Return how long an attempt may take: only slow bytes are to run into it, and no connection on a busy machine."""
    return 1.0 if fault == "slow bytes" else 30.0


async def used(world: World) -> int:
    """Return the tokens used today."""
    return int((await world.spending.report())["tokens"])


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("fault", AGAIN)
async def test_what_may_pass_is_asked_again(client_of: ClientOf, world: World, time: Time, protocol: str, fault: str) -> None:
    """Once, after a pause; the answer is given once, and what was charged for is what counts as used."""
    meets, _, maybe_charged = AGAIN[fault]
    async with serving() as provider:
        client = client_of(provider_settings(provider, protocol=protocol), attempt_timeout_s=timeout_s_of(fault))
        provider.meets(meets, Reply("hello", tokens_in=70, tokens_out=30))
        completion = await client.query(Request(prompt="greet"))
        assert (completion.text, completion.retries, len(provider.calls)) == ("hello", 1, 2)
        assert provider.calls[0].body == provider.calls[1].body
    assert len(time.slept) == 1
    assert 0 <= time.slept[0] <= 0.5
    expected = 115 if fault == "empty content" else 100
    assert (await used(world) == expected) is not maybe_charged
    assert await used(world) >= expected


@pytest.mark.parametrize("fault", AGAIN)
async def test_what_does_not_pass_is_told_and_the_next_provider_is_asked(client_of: ClientOf, time: Time, fault: str) -> None:
    """After as many attempts as were set, each pause longer by chance only; with one provider it is its own error."""
    meets, says, _ = AGAIN[fault]
    async with serving(answer=lambda _: meets) as broken, serving() as sound:
        first = provider_settings(broken, name="first")
        client = client_of(first, provider_settings(sound, name="second"), attempts=3, attempt_timeout_s=timeout_s_of(fault))
        with pytest.raises(LlmCallError) as caught:
            await client.query(Request(prompt="greet"))
        assert str(caught.value).startswith("language model first: ")
        assert says in str(caught.value)
        assert (len(broken.calls), len(time.slept)) == (3, 2)
        completion = await client.query_with_fallback(Request(prompt="greet"))
        assert (completion.provider, completion.text, len(sound.calls)) == ("second", "greet", 1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_wrong_schema_is_told_to_the_model_and_asked_again(client_of: ClientOf, world: World, protocol: str) -> None:
    """It hears where it went wrong; both answers were charged for; then it is an error that names the place."""
    async with serving() as provider:
        client = client_of(provider_settings(provider, protocol=protocol), attempts=2)
        request = Request(prompt="lesson", schema=SCHEMA)
        provider.meets(Reply('{"title": 5}'), Reply('```json\n{"title": "Wait for events"}\n```'))
        completion = await client.query(request)
        assert (completion.value, completion.retries) == ({"title": "Wait for events"}, 1)
        assert "does not match the schema at $.title: 5 is not of type 'string'" in provider.calls[1].prompt
        assert await used(world) == 30
        provider.meets(Reply("certainly!"), Reply('{"name": "x"}'))
        with pytest.raises(LlmSchemaError, match="does not match the schema"):
            await client.query(request)
        assert len(provider.calls) == 4


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_refusal_is_not_asked_again_but_another_provider_may_answer(client_of: ClientOf, protocol: str) -> None:
    """The same model declines the same question again, and says why."""
    async with serving(answer=lambda _: Refusal("not this")) as first, serving() as second:
        client = client_of(provider_settings(first, name="a", protocol=protocol), provider_settings(second, name="b"))
        with pytest.raises(LlmRefusedError, match="language model a: the model declined: not this"):
            await client.query(Request(prompt="greet"))
        assert len(first.calls) == 1
        assert (await client.query_with_fallback(Request(prompt="greet"))).provider == "b"


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_an_answer_that_was_cut_off_says_so(client_of: ClientOf, protocol: str) -> None:
    """As text it is of use; as JSON it is not, and the same limit would cut it off again."""
    async with serving(answer=lambda _: Reply("The first half", cut=True)) as provider:
        client = client_of(provider_settings(provider, protocol=protocol))
        assert (await client.query(Request(prompt="write"))).truncated
        with pytest.raises(LlmAnswerError, match="ends where max_output_tokens did"):
            await client.query(Request(prompt="write", schema=SCHEMA))
        assert len(provider.calls) == 2


@pytest.mark.parametrize(
    ("meets", "says"),
    [
        (Status(400), "it rejects the request (status 400): something is wrong"),
        (Status(401), "it does not accept the key (status 401)"),
        (Status(403), "the key may not do this (status 403)"),
        (Status(404), "there is no such address or model (status 404)"),
        (Status(302, {"location": "http://elsewhere"}), "it rejects the request (status 302)"),
        (Status(429, message="You exceeded your quota", code="insufficient_quota"), "You exceeded your quota insufficient_quota"),
    ],
)
async def test_what_cannot_pass_is_not_asked_again(client_of: ClientOf, world: World, meets: Meeting, says: str) -> None:
    """Nor charged for."""
    async with serving(answer=lambda _: meets) as provider:
        client = client_of(provider_settings(provider))
        with pytest.raises(LlmRejectedError) as caught:
            await client.query(Request(prompt="greet"))
        assert says in str(caught.value)
        assert (len(provider.calls), await used(world)) == (1, 0)


@pytest.mark.parametrize(
    ("header", "least_s"), [("7", 7.0), ("Wed, 25 Nov 2026 12:00:09 GMT", 9.0), ("Wed, 25 Nov 2020 12:00:09 GMT", 0.0)]
)
@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_honoured(client_of: ClientOf, time: Time, header: str, least_s: float, status: int) -> None:
    """In seconds or as a date: never sooner, and a little later, so that not all come back at once."""
    async with serving() as provider:
        provider.meets(Status(status, {"retry-after": header}))
        assert (await client_of(provider_settings(provider)).query(Request(prompt="greet"))).retries == 1
    assert len(time.slept) == 1
    assert least_s <= time.slept[0] <= least_s + 0.5


async def test_a_provider_that_asks_for_too_much_patience_is_left_alone_until_then(client_of: ClientOf, time: Time) -> None:
    """Nobody waits for it, the next one answers, and it is asked again when its time has come."""
    async with serving() as limited, serving() as other:
        client = client_of(provider_settings(limited, name="limited"), provider_settings(other, name="other"), max_wait_s=30)
        limited.meets(Status(429, {"retry-after": "120"}))
        for _ in range(3):
            assert (await client.query_with_fallback(Request(prompt="greet"))).provider == "other"
        assert (len(limited.calls), time.slept) == (1, [])
        time.now = NOON + 121
        assert (await client.query_with_fallback(Request(prompt="greet"))).provider == "limited"


async def test_a_request_that_must_not_be_repeated_is_sent_on_only_if_it_was_surely_not_processed(client_of: ClientOf) -> None:
    """A lost answer may be work done: neither asked again, nor handed to the next. A refused connection is none."""
    async with serving() as provider, serving() as other:
        client = client_of(provider_settings(provider, name="a"), provider_settings(other, name="b"), attempts=2)
        once = Request(prompt="greet", repeatable=False)
        for meets in (Reset(), Status(500), Reply("")):
            provider.meets(meets)
            with pytest.raises(LlmCallError, match="language model a"):
                await client.query_with_fallback(once)
        assert (len(provider.calls), len(other.calls)) == (3, 0)
        provider.meets(Status(429))
        assert ((await client.query_with_fallback(once)).provider, len(provider.calls)) == ("a", 5)
        provider.meets(Status(503), Status(503))
        assert (await client.query_with_fallback(once)).provider == "b"


def _closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


async def test_where_nobody_listens_it_is_said_and_nothing_counts_as_used(client_of: ClientOf, world: World) -> None:
    """A local model that was not started is the commonest fault of all."""
    client = client_of({"model": "tiny", "base_url": _closed_port()}, attempts=2)
    with pytest.raises(LlmUnavailableError, match=r"language model tiny: .*ConnectError"):
        await client.query(Request(prompt="greet"))
    assert await used(world) == 0


async def test_when_all_have_failed_each_ones_error_is_told(client_of: ClientOf) -> None:
    """In the order in which they were asked."""
    async with serving(answer=lambda _: Status(400)) as first, serving(answer=lambda _: Refusal()) as second:
        client = client_of(provider_settings(first, name="a"), provider_settings(second, name="b"))
        with pytest.raises(LlmExhaustedError, match=r"language model a: .*; language model b: ") as caught:
            await client.query_with_fallback(Request(prompt="greet"))
        assert [type(error) for error in caught.value.errors] == [LlmRejectedError, LlmRefusedError]


async def test_a_connection_that_died_while_it_was_kept_is_replaced(client_of: ClientOf) -> None:
    """A provider that was restarted costs one retry at most."""
    async with serving() as provider:
        client = client_of(provider_settings(provider))
        await client.query(Request(prompt="one"))
        await provider.hang_up()
        assert (await client.query(Request(prompt="two"))).text == "two"
        assert provider.connections == 2


async def test_a_provider_that_fails_again_and_again_is_left_alone_then_tried(client_of: ClientOf, time: Time) -> None:
    """While the breaker is open nothing is sent; after the pause one call is, and closes it."""
    async with serving(answer=lambda call: Status(500) if time.now < NOON + 100 else Reply("back")) as provider:
        client = client_of(provider_settings(provider), attempts=1, breaker_failures=3, breaker_pause_s=200)
        for _ in range(5):
            with pytest.raises(LlmUnavailableError):
                await client.query(Request(prompt="greet"))
        assert len(provider.calls) == 3
        assert (await state(client))["breaker"] == "open"
        time.now = NOON + 201
        assert (await state(client))["breaker"] == "half_open"
        assert (await client.query(Request(prompt="greet"))).text == "back"
        assert (await state(client))["breaker"] == "closed"


async def test_who_is_in_haste_leaves_a_provider_alone_that_is_too_slow_for_them_and_the_next_one_gets_its_turn(
    client_of: ClientOf, world: World
) -> None:
    """One that accepts and never answers must not keep the others from ever being asked; whoever can wait still asks it."""
    gate = asyncio.Event()
    async with serving(answer=lambda call: Held(gate, text="at last")) as slow, serving() as well:
        providers = [provider_settings(slow, name="slow"), provider_settings(well, name="well")]
        client = client_of(*providers, world_of={"clock": monotonic}, attempts=1, breaker_failures=2)
        hasty = Request(prompt="greet", fresh=True, timeout_s=0.2)
        for _ in range(2):
            with pytest.raises(LlmUnavailableError, match=r"no answer after 0\.\d+ s"):
                await client.query_with_fallback(hasty)
        assert (await client.query_with_fallback(hasty)).provider == "well"
        assert len(slow.calls) == 2
        gate.set()
        assert (await client.query(Request(prompt="greet"), provider="slow")).text == "at last"


async def test_where_there_is_no_time_left_nothing_is_sent_nor_charged_for(client_of: ClientOf, world: World, time: Time) -> None:
    """As where it took all the time to shorten the prompt: it says nothing of the provider."""

    async def shorten(text: str, tokens: int) -> str:
        time.now += 60
        return text[:40]

    async with serving() as provider:
        client = client_of(provider_settings(provider), world_of={"compress": shorten}, breaker_failures=1)
        with pytest.raises(LlmUnavailableError, match="there is no time left to ask it"):
            await client.query(Request(prompt="word " * 2_000, max_prompt_tokens=100, timeout_s=30))
        assert (provider.calls, await used(world)) == ([], 0)
        assert (await client.query(Request(prompt="greet"))).text == "greet"


async def test_where_one_takes_all_the_time_no_other_is_asked(client_of: ClientOf, world: World) -> None:
    """Whoever waits so long has gone by then."""
    async with serving(answer=lambda call: Held(asyncio.Event())) as hanging, serving() as well:
        providers = [provider_settings(hanging, name="hanging"), provider_settings(well, name="well")]
        client = client_of(*providers, world_of={"clock": monotonic}, attempts=3)
        with pytest.raises(LlmUnavailableError, match="no answer after"):
            await client.query_with_fallback(Request(prompt="greet", timeout_s=0.05))
        assert (len(hanging.calls), len(well.calls)) == (1, 0)


async def state(client: LlmClient) -> dict[str, Any]:
    """Return what `stats` says of the only provider."""
    found: dict[str, Any] = (await client.report())["providers"]["tiny"]
    return found


async def test_a_held_answer_that_nobody_waits_for_is_given_up(client_of: ClientOf) -> None:
    """Cancelling the caller ends the call, and the next one is served."""
    async with serving() as provider:
        client = client_of(provider_settings(provider))
        provider.meets(Held(asyncio.Event()))
        call = asyncio.create_task(client.query(Request(prompt="slow")))
        await provider.until(1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await client.query(Request(prompt="slow"))).text == "slow"
