"""Connections: kept, shared, encrypted, HTTP/2 where it is offered, and bounded."""

from __future__ import annotations

import asyncio
import ssl
import traceback

import pytest
from llm.conftest import ClientOf, provider_settings
from llm.provider import Held, Raw, serving

from tracebank.errors import LlmAnswerError, LlmRejectedError, LlmUnavailableError, TracebankError
from tracebank.llm import Request, World, pool

pytestmark = pytest.mark.anyio


async def test_one_connection_serves_call_after_call(client_of: ClientOf) -> None:
    """The handshake is paid once."""
    async with serving(tls=True) as provider:
        client = client_of(provider_settings(provider))
        for number in range(5):
            await client.query(Request(prompt=str(number)))
        assert ([call.connection for call in provider.calls], provider.calls[0].http) == ([0] * 5, "1.1")


async def test_http_2_is_spoken_where_it_is_offered(client_of: ClientOf) -> None:
    """Calls at the same time share a connection."""
    gate = asyncio.Event()
    async with serving(tls=True, http2=True) as provider:
        client = client_of(provider_settings(provider))
        await client.query(Request(prompt="first"))
        provider.meets(*[Held(gate)] * 8)
        batch = asyncio.create_task(client.batch_query([str(i) for i in range(8)]))
        await provider.until(9)
        gate.set()
        await batch
        assert {(call.http, call.connection) for call in provider.calls} == {("2", 0)}


async def test_there_are_never_more_connections_than_were_set(client_of: ClientOf) -> None:
    """Who comes too late waits for a free one."""
    gates = [asyncio.Event() for _ in range(6)]
    async with serving(answer=lambda call: Held(gates[int(call.prompt)])) as provider:
        client = client_of(provider_settings(provider), connections=2)
        batch = asyncio.create_task(client.batch_query([str(i) for i in range(6)], concurrency=6))
        for done in range(2, 7, 2):
            await provider.until(done)
            for call in provider.calls[done - 2 : done]:
                gates[int(call.prompt)].set()
        await batch
        assert (provider.connections, provider.most_at_once) == (2, 2)


async def test_a_certificate_that_nobody_vouches_for_is_refused(client_of: ClientOf) -> None:
    """Nothing is sent to a stranger, least of all a key."""
    async with serving(tls=True) as provider:
        client = client_of(provider_settings(provider, ca_file="", key_variable="THE_KEY"), attempts=1)
        with pytest.raises(LlmUnavailableError, match="certificate verify failed") as caught:
            await client.query(Request(prompt="x"))
        assert provider.calls == []
        assert isinstance(caught.value.__cause__, Exception)


async def test_a_file_of_certificates_that_is_none_is_named(client_of: ClientOf) -> None:
    """It is a setting that is wrong: asking again does not help."""
    async with serving(tls=True) as provider:
        client = client_of(provider_settings(provider, ca_file="/nowhere/ca.pem"))
        with pytest.raises(LlmRejectedError, match=r"ca_file /nowhere/ca\.pem cannot be read") as caught:
            await client.query(Request(prompt="x"))
        assert isinstance(caught.value.__cause__, OSError | ssl.SSLError)


async def test_the_environments_certificates_that_are_gone_are_named_and_nothing_counts_as_used(
    client_of: ClientOf, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where none are needed: a variable of the shell must not be a riddle."""
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    async with serving() as provider:
        client = client_of(provider_settings(provider))
        with pytest.raises(LlmRejectedError, match=r"'SSL_CERT_FILE': '/nowhere/ca\.pem'.*remove the variable"):
            await client.query(Request(prompt="x"))
        assert (await world.spending.report())["tokens"] == 0


@pytest.mark.parametrize("proxy", ["gopher://me:s3cret@proxy.example:70", "http://me:s3cret/@proxy.example:70", "socks5://me:s3cret@p:70"])
async def test_a_proxy_that_is_none_is_told_without_its_password_and_the_next_provider_is_asked(
    client_of: ClientOf, world: World, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    """Nothing was sent, so nothing counts as used."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("http_proxy", proxy)
    async with serving() as sound:
        first = {"name": "first", "model": "tiny", "base_url": "http://models.example/v1"}
        client = client_of(first, provider_settings(sound, name="second"))
        with pytest.raises(LlmRejectedError, match="language model first: the proxy that the environment names cannot be used") as caught:
            await client.query(Request(prompt="x"))
        assert "s3cret" not in "".join(traceback.format_exception(caught.value))
        assert not caught.value.processed
        assert (await world.spending.report())["tokens"] == 0
        assert (await client.query_with_fallback(Request(prompt="x", repeatable=False))).provider == "second"


@pytest.mark.parametrize(
    ("base_url", "proxy"),
    [("http://☃.example/v1", None), ("http://models.example/v1", "http://me:s3cret@127.0.0.1:114344")],
    ids=["host", "port of the proxy"],
)
async def test_an_address_that_cannot_be_is_told_and_the_next_provider_is_asked(
    client_of: ClientOf, monkeypatch: pytest.MonkeyPatch, base_url: str, proxy: str | None
) -> None:
    """Whatever the libraries make of it, it is this provider's fault alone."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, proxy or "")
    async with serving() as sound:
        first = {"name": "first", "model": "tiny", "base_url": base_url}
        client = client_of(first, provider_settings(sound, name="second"))
        with pytest.raises(LlmRejectedError, match=rf"language model first: base_url {base_url}, or the proxy .* correct it") as caught:
            await client.query(Request(prompt="x"))
        assert "s3cret" not in "".join(traceback.format_exception(caught.value))
        assert (await client.query_with_fallback(Request(prompt="x", repeatable=False))).provider == "second"
        (answered,) = await client.batch_query(["x"])
        assert not isinstance(answered, TracebankError)


async def test_silence_ends_with_the_phase_that_it_is_in(client_of: ClientOf) -> None:
    """Reading, and waiting for a connection, each have a limit of their own."""
    async with serving(answer=lambda _: Held(asyncio.Event())) as provider:
        client = client_of(provider_settings(provider), attempts=1, read_timeout_s=0.1)
        with pytest.raises(LlmUnavailableError, match="ReadTimeout"):
            await client.query(Request(prompt="x"))
        busy = client_of(provider_settings(provider), attempts=1, connections=1, pool_timeout_s=0.1)
        holding = asyncio.create_task(busy.query(Request(prompt="y")))
        await provider.until(2)
        with pytest.raises(LlmUnavailableError, match="PoolTimeout") as caught:
            await busy.query(Request(prompt="z"))
        assert not caught.value.processed
        holding.cancel()


async def test_an_answer_without_end_is_not_read_to_its_end(client_of: ClientOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider cannot fill our memory."""
    monkeypatch.setattr(pool, "MAX_ANSWER_BYTES", 1_000)
    async with serving(answer=lambda _: Raw(b'{"a": "' + b"a" * 100_000 + b'"}')) as provider:
        with pytest.raises(LlmAnswerError, match="longer than 1000 bytes"):
            await client_of(provider_settings(provider)).query(Request(prompt="x"))
        assert len(provider.calls) == 1
