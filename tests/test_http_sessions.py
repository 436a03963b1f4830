"""Over HTTP each MCP session is one client: what it was shown, and what it wrote, is its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from samples import TinyModel, settings_of, settled

from tracebank.engine import Engine, Session
from tracebank.http import HttpSettings, SessionOfEach, serving
from tracebank.protocol.plugins import load_plugins
from tracebank.protocol.server import build_server

pytestmark = pytest.mark.anyio


@pytest.fixture
async def served(tmp_path: Path, tiny: TinyModel) -> AsyncIterator[tuple[str, list[Session]]]:
    """The URL of an engine with one memory, and all sessions that it has begun, in their order."""
    begun: list[Session] = []
    async with Engine.open(settings_of(tmp_path)) as engine:
        await settled(engine)
        await engine.add({"trace_id": "m", "task": "rotate the signing key"}, engine.session())

        def new() -> Session:
            begun.append(engine.session())
            return begun[-1]

        server = build_server(load_plugins().of(engine).chosen(()), middleware=[SessionOfEach(new)])
        async with serving(server, HttpSettings()) as url:
            yield url, begun


@asynccontextmanager
async def client(url: str, mode: str) -> AsyncIterator[Client]:
    """Connect a client of one protocol era."""
    async with httpx2.AsyncClient() as http, Client(streamable_http_client(url, http_client=http), mode=mode) as connected:
        yield connected


def remembered(begun: list[Session]) -> list[Session]:
    """Return the sessions that remember something."""
    return [session for session in begun if session.recalled or session.last_seq]


async def test_what_one_client_was_shown_is_not_credited_to_another(served: tuple[str, list[Session]]) -> None:
    """The success of who has read nothing says nothing of the memory; that of who has read it does."""
    url, begun = served
    async with client(url, "legacy") as reader, client(url, "legacy") as other:
        await reader.call_tool("retrieve", {"query": "signing key"})
        await other.call_tool("add_trace", {"task": "something else", "trace_id": "other"})
        (read,) = [session for session in begun if session.recalled]
        (wrote,) = [session for session in begun if session.last_seq]
        assert read is not wrote
        for who, left in ((other, 1), (reader, 0)):
            episode = await who.call_tool("log_steps", {"task": "a task"})
            assert episode.structured_content is not None
            await who.call_tool("complete_episode", {"episode_id": episode.structured_content["episode_id"], "outcome": "success"})
            assert len(read.recalled) == left


async def test_calls_that_belong_to_no_session_remember_nothing_of_each_other(served: tuple[str, list[Session]]) -> None:
    """In the stateless era nobody can tell who calls."""
    url, begun = served
    async with client(url, "2026-07-28") as nobody:
        await nobody.call_tool("retrieve", {"query": "signing key"})
        await nobody.call_tool("add_trace", {"task": "something else", "trace_id": "other"})
        assert [bool(session.recalled) for session in remembered(begun)] == [True, False]
        found = await nobody.call_tool("retrieve", {"query": "something else"})
    assert found.structured_content is not None
    assert "other" in [result["trace_id"] for result in found.structured_content["results"]]
