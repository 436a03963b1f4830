"""One question, many, equal ones, and none: what callers of the client see."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from llm.conftest import ClientOf, Time, provider_settings
from llm.provider import Held, Reply, Status, serving

from tracebank.errors import InputError, LlmCapError, LlmError, LlmOffError
from tracebank.llm import Completion, LlmClient, Request, World
from tracebank.settings import LlmSettings

pytestmark = pytest.mark.anyio


async def test_without_a_provider_nothing_can_be_asked(world: World) -> None:
    """And the error says how to change that; `stats` says that there is none."""
    client = LlmClient(LlmSettings(), world)
    assert not client.configured
    for call in (client.query(Request(prompt="x")), client.query_with_fallback(Request(prompt="x")), client.batch_query(["x"])):
        with pytest.raises(LlmOffError, match=r"add one under \[\[llm\.providers\]\]"):
            await call
    assert await client.report() == {"configured": False}


async def test_a_batch_answers_in_order_with_each_ones_own_error(client_of: ClientOf) -> None:
    """However late the first comes; a failure is a result like any other."""
    gate = asyncio.Event()
    meetings = {"first": Held(gate, "late"), "bad": Status(400)}
    async with serving(answer=lambda call: meetings.get(call.prompt, Reply(call.prompt.upper()))) as provider:
        client = client_of(provider_settings(provider))
        batch = asyncio.create_task(client.batch_query(["first", "b", "bad", Request(prompt="d")], concurrency=2))
        await provider.until(4)
        gate.set()
        results = await batch
    assert [result.text if isinstance(result, Completion) else type(result).__name__ for result in results] == [
        "late", "B", "LlmRejectedError", "D",
    ]  # fmt: skip


@pytest.mark.parametrize("concurrency", [1, 3, 8])
async def test_a_batch_keeps_its_bound(client_of: ClientOf, concurrency: int) -> None:
    """So many at a time: all of them, and never one more."""
    gates = [asyncio.Event() for _ in range(8)]
    async with serving(answer=lambda call: Held(gates[int(call.prompt)], call.prompt)) as provider:
        client = client_of(provider_settings(provider))
        batch = asyncio.create_task(client.batch_query([str(i) for i in range(8)], concurrency=concurrency))
        for done, gate in enumerate(gates):
            await provider.until(min(8, done + concurrency))
            gate.set()
        assert [result.text for result in await batch if isinstance(result, Completion)] == [str(i) for i in range(8)]
        assert provider.most_at_once == concurrency
        assert provider.connections == concurrency


@pytest.mark.parametrize("concurrency", [0, 101])
async def test_a_wrong_bound_or_prompt_is_told_before_anything_is_sent(client_of: ClientOf, concurrency: int) -> None:
    """Nothing is half done."""
    async with serving() as provider:
        client = client_of(provider_settings(provider))
        with pytest.raises(InputError, match=f"concurrency: must be 1 to 100, not {concurrency}"):
            await client.batch_query(["x"], concurrency=concurrency)
        with pytest.raises(InputError, match="prompt: is empty"):
            await client.batch_query(["x", " "])
        with pytest.raises(InputError, match="schema: is not a JSON Schema"):
            await client.batch_query(["x", Request(prompt="x", schema={"type": "lesson"})])
        with pytest.raises(InputError, match="provider: must be one of tiny, not 'huge'"):
            await client.query(Request(prompt="x"), provider="huge")
        assert await client.batch_query([]) == []
        assert provider.calls == []


async def test_equal_questions_at_the_same_time_are_asked_once(client_of: ClientOf) -> None:
    """Everybody gets the answer; another question, or one that wants its own answer, is asked for itself."""
    gate = asyncio.Event()
    async with serving(answer=lambda _: Held(gate)) as provider:
        client = client_of(provider_settings(provider))
        same = Request(prompt="same")
        asked = [same, same, same, replace(same, temperature=1.0), replace(same, fresh=True), replace(same, fresh=True)]
        calls = [asyncio.create_task(client.query(request)) for request in asked]
        await provider.until(4)
        gate.set()
        assert {completion.text for completion in await asyncio.gather(*calls)} == {"at last"}
        assert len(provider.calls) == 4
        assert (await client.report())["shared"] == 2


async def test_of_those_who_wait_for_one_answer_each_can_leave(client_of: ClientOf) -> None:
    """The others still get it; when the last has left, the call is given up, and the next one is a new one."""
    gate = asyncio.Event()
    async with serving() as provider:
        client = client_of(provider_settings(provider))
        provider.meets(Held(gate), Held(asyncio.Event()))
        first, second = (asyncio.create_task(client.query(Request(prompt="same"))) for _ in range(2))
        await provider.until(1)
        first.cancel()
        await asyncio.wait([first])
        gate.set()
        assert (await second).text == "at last"
        assert first.cancelled()
        alone = asyncio.create_task(client.query(Request(prompt="same")))
        await provider.until(2)
        alone.cancel()
        await asyncio.wait([alone])
        assert (await client.query(Request(prompt="same"))).text == "same"


async def test_those_who_wait_for_one_answer_all_hear_of_its_failure(client_of: ClientOf) -> None:
    """Nobody hangs, and the next question is asked anew."""
    async with serving() as provider:
        client = client_of(provider_settings(provider))
        provider.meets(Status(400))
        results = await asyncio.gather(*(client.query(Request(prompt="same")) for _ in range(3)), return_exceptions=True)
        assert [type(result).__name__ for result in results] == ["LlmRejectedError"] * 3
        assert (await client.query(Request(prompt="same"))).text == "same"


async def test_answers_are_kept_only_where_that_is_wanted(client_of: ClientOf, time: Time) -> None:
    """Off by default; with a cache equal prompts are answered from it until they are too old."""
    async with serving() as provider:
        request = Request(prompt="same")
        plain, caching = client_of(provider_settings(provider)), client_of(provider_settings(provider), cache=5, cache_ttl_s=60)
        assert [(await plain.query(request)).cached for _ in range(2)] == [False, False]
        assert [(await caching.query(request)).cached for _ in range(3)] == [False, True, True]
        assert not (await caching.query(replace(request, system="be brief"))).cached
        time.now += 61
        assert not (await caching.query(request)).cached
        assert len(provider.calls) == 5


async def test_a_cap_that_the_first_provider_would_break_may_allow_a_cheaper_one(client_of: ClientOf, world: World) -> None:
    """A free local model after a dear one is a common list."""
    async with serving() as dear, serving() as free:
        prices = {"usd_per_million_tokens_in": 5_000.0, "usd_per_million_tokens_out": 5_000.0}
        client = client_of(provider_settings(dear, name="dear", **prices), provider_settings(free, name="free"))
        assert (await client.query_with_fallback(Request(prompt="x"))).provider == "free"
        with pytest.raises(LlmCapError, match=r"llm\.daily_usd is 5"):
            await client.query(Request(prompt="x"), provider="dear")
        assert dear.calls == []


async def test_every_call_is_counted(client_of: ClientOf) -> None:
    """Latencies, tokens, cost, retries, fallbacks and what is spent, by provider."""
    async with serving() as first, serving() as second:
        prices = {"usd_per_million_tokens_in": 1.0, "usd_per_million_tokens_out": 4.0}
        client = client_of(provider_settings(first, name="a", **prices), provider_settings(second, name="b"), attempts=2)
        first.meets(Status(500), Reply("x", tokens_in=1_000, tokens_out=500), Status(400))
        completion = await client.query_with_fallback(Request(prompt="x"))
        assert (completion.cost_usd, completion.tokens_in, completion.tokens_out) == (0.003, 1_000, 500)
        await client.query_with_fallback(Request(prompt="y"))
        report = await client.report()
    assert (report["retries"], report["fallbacks"]) == (1, 1)
    a, b = report["providers"]["a"], report["providers"]["b"]
    assert (a["answered"]["count"], a["failed"], a["tokens_in"], a["tokens_out"], a["cost_usd"]) == (1, 2, 1_000, 500, 0.003)
    assert (b["answered"]["count"], b["failed"], b["tokens_in"], b["tokens_out"], b["cost_usd"]) == (1, 0, 10, 5, 0.0)
    assert set(a["answered"]) == {"count", "p50_ms", "p95_ms", "p99_ms", "max_ms"}
    assert report["spending"] == {"day": "2026-11-25", "tokens": 1_515, "daily_tokens": 1_000_000, "usd": 0.003, "daily_usd": 5.0}


async def test_where_a_provider_does_not_count_tokens_we_do(client_of: ClientOf) -> None:
    """Some local servers leave the usage out: a cap holds for them, too."""
    async with serving(answer=lambda _: Reply("four words of answer", usage=False)) as provider:
        completion = await client_of(provider_settings(provider)).query(Request(prompt="a question of " + "some words " * 50))
        assert completion.tokens_in > 50
        assert completion.tokens_out >= 4


async def test_after_close_connections_are_gone(client_of: ClientOf) -> None:
    """Closing twice is closing once."""
    async with serving() as provider:
        client = client_of(provider_settings(provider))
        await client.query(Request(prompt="x"))
        await client.close()
        await client.close()
        await provider.until_no_connection()


def test_a_request_is_checked_when_it_is_made() -> None:
    """Whatever is wrong is named with its value."""
    for name, wrong in {"prompt": "\n", "max_output_tokens": 0, "max_prompt_tokens": -1, "temperature": 2.5}.items():
        with pytest.raises(InputError, match=f"^{name}: ") as caught:
            Request(**{"prompt": "x", name: wrong})  # type: ignore[arg-type]
        assert not isinstance(caught.value, LlmError)
