"""A key comes from the environment, goes into one header, and appears nowhere else."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

import pytest
from llm.conftest import KEY, PROTOCOLS, ClientOf, files_with_the_key, provider_settings
from llm.provider import Meeting, Raw, Reply, Reset, Status, Truncated, serving

from tracebank.errors import LlmError, LlmRejectedError, LlmUnavailableError
from tracebank.llm import Request, World

pytestmark = pytest.mark.anyio

TELLTALES: list[Meeting] = [
    Reply("fine"),
    Status(401, message=f"Incorrect API key provided: {KEY}."),
    Status(400, body=f"<p>Authorization: Bearer {KEY}</p>".encode()),
    Status(500, message=KEY),
    Raw(f'{{"error": {{"code": 502, "message": "bad header {KEY}"}}}}'.encode()),
    Raw(f'{{"error": "bad header {KEY}"}}'.encode()),
    Raw(f'{{"echo": "{KEY}"}}'.encode()),
    Raw(f'{{"echo": "{"x" * 250}{KEY}{"y" * 284}"'.encode()),
    Truncated(),
    Reset(),
]


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_the_key_is_in_no_log_no_error_no_figure_and_no_file(
    client_of: ClientOf, world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture, protocol: str, http2: bool
) -> None:
    """At the loudest level of every library, with providers that repeat it, and in the middle of what is cut off."""
    caplog.set_level(logging.DEBUG)
    seen: list[str] = []
    async with serving(tls=True, http2=http2) as provider:
        client = client_of(provider_settings(provider, protocol=protocol, key_variable="THE_KEY"), attempts=1, breaker_failures=99)
        for meets in TELLTALES:
            provider.meets(meets)
            try:
                seen.append(repr(await client.query(Request(prompt="x"))))
            except LlmError as error:
                seen += [repr(error), *traceback.format_exception(error)]
        assert all(KEY in call.headers.get("authorization", call.headers.get("x-api-key", "")) for call in provider.calls)
        assert len(provider.calls) == len(TELLTALES)
        seen += [repr(await client.report()), repr(world), repr(client), caplog.text]
    assert len(caplog.records) > 20, "the libraries said nothing: this test would not notice"
    assert "[key]" in "".join(seen)
    pieces = {KEY, KEY[:10], KEY[-10:]}
    assert not [text for text in seen if any(piece in text for piece in pieces)]
    assert not files_with_the_key(tmp_path)


async def test_a_provider_that_is_left_alone_is_told_with_its_last_error_without_the_key(client_of: ClientOf) -> None:
    """Only the pause would not say what to mend."""
    async with serving(answer=lambda _: Status(500, message=f"no worker for {KEY}")) as provider:
        client = client_of(provider_settings(provider, key_variable="THE_KEY"), attempts=2, breaker_failures=1)
        with pytest.raises(
            LlmUnavailableError, match=r"left alone .* s; it last failed so: it failed \(status 500\): no worker for \[key\]$"
        ):
            await client.query(Request(prompt="x"))
        assert len(provider.calls) == 1


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "the variable THE_KEY is not set"),
        ("  ", "is not set"),
        ("sk-1\nsk-2", "holds characters that no key has"),
        ("schlüssel", "no key"),
    ],
)
async def test_a_key_that_is_missing_or_none_is_told_without_it(client_of: ClientOf, value: str | None, says: str) -> None:
    """By the name of its variable; nothing is sent."""
    environ = {} if value is None else {"THE_KEY": value}
    async with serving() as provider:
        client = client_of(provider_settings(provider, key_variable="THE_KEY"), world_of={"environ": environ})
        with pytest.raises(LlmRejectedError, match=says) as caught:
            await client.query(Request(prompt="x"))
        assert "sk-" not in str(caught.value)
        assert "schl" not in str(caught.value)
        assert provider.calls == []


async def test_a_key_is_read_for_each_call(client_of: ClientOf) -> None:
    """A new one in the environment is the one that is sent; without a variable none is."""
    environ = {"THE_KEY": "first"}
    async with serving() as provider:
        client = client_of(
            provider_settings(provider, name="a", key_variable="THE_KEY"),
            provider_settings(provider, name="b"),
            world_of={"environ": environ},
        )
        await client.query(Request(prompt="x"))
        environ["THE_KEY"] = "second"
        await client.query(Request(prompt="x"))
        await client.query(Request(prompt="x"), provider="b")
    assert [call.headers.get("authorization") for call in provider.calls] == ["Bearer first", "Bearer second", None]
