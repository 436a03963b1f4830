"""A real client at a real server: one engine for most tests, a namespace of its own for each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal
from clients import COMMAND, WAIT_S
from homes import Home, home
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from talk import ERAS, Connect, Era, Talk


@pytest.fixture(scope="session")
def connect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connect]:
    """Return a function that starts a server at a home, in an era, with more variables, and talks to it."""
    log = tmp_path_factory.mktemp("clients") / "stderr.txt"

    with start_blocking_portal() as portal, log.open("w", encoding="utf-8") as errors:

        @contextmanager
        def open_client(at: Home, era: Era = "auto", **variables: str) -> Iterator[Talk]:
            server = StdioServerParameters(command=COMMAND, env={**at.environment, **variables})
            client = Client(stdio_client(server, errlog=errors), mode=era, read_timeout_seconds=WAIT_S)
            connection = portal.wrap_async_context_manager(client)
            connection.__enter__()
            try:
                yield Talk(portal, client)
            finally:
                # A test that fails is no error of the connection, which would wrap it in groups of errors.
                connection.__exit__(None, None, None)

        yield open_client


@pytest.fixture(scope="session")
def words_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Return the home that most tests share. It searches by words alone, so every answer is the same at once and later."""
    with home(tmp_path_factory.mktemp("words")) as opened:
        yield opened


@pytest.fixture
def own_home(tmp_path: Path) -> Iterator[Home]:
    """Return a home of this test's own, by words alone."""
    with home(tmp_path) as opened:
        yield opened


@pytest.fixture(scope="session")
def talks(connect: Connect, words_home: Home) -> Iterator[dict[Era, Talk]]:
    """Return a client of each era, both at the same engine."""
    with connect(words_home, "legacy") as legacy, connect(words_home, "auto") as modern:
        yield {"legacy": legacy, "auto": modern}


@pytest.fixture(params=ERAS)
def either(request: pytest.FixtureRequest, talks: dict[Era, Talk]) -> Talk:
    """Return a client of each era in turn."""
    return talks[request.param]


@pytest.fixture
def talk(talks: dict[Era, Talk]) -> Talk:
    """Return a client, for what is the same in both eras."""
    return talks["auto"]


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> str:
    """Return a namespace that only this test uses."""
    return re.sub(r"\W+", "-", request.node.name)[:200].strip("-")
