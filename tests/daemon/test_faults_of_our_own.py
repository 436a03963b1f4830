"""A fault of our own while the command line is served: it is told to whoever asked, and its place is in the log."""

from __future__ import annotations

import json
import socket

import pytest
from clients import WAIT_S, Client
from places import Place

from tracebank import link

FAULTY = """
from tracebank import operations
async def search(session, arguments):
    yield {"results": {1, 2} if arguments["query"] == "set" else int("a fault")}
operations.OPERATIONS["search"] = search
"""


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("int", "ValueError: invalid literal for int() with base 10: 'a fault'"),
        ("set", "TypeError: Object of type set is not JSON serializable"),
    ],
)
def test_a_fault_in_an_operation_is_named_and_the_engine_goes_on(here: Place, query: str, told: str) -> None:
    """It did not end, so nobody says that it has; whoever mends it finds where it happened."""
    here.expected_errors.append("search has failed")
    here.sabotage(FAULTY)
    with Client(here) as client:
        client.greet().add("t")
        engine = here.engine
        log = here.data_dir / link.LOG_NAME
        done = here.run("search", query)
        assert done.stderr == f"tracebank: search has failed by a fault of Tracebank's own ({told}): its place is in {log}\n"
        assert done.returncode == 1
        written = log.read_text(encoding="utf-8")
        assert ": search has failed\nTraceback (most recent call last):\n" in written
        assert f"\n{told}\n" in written
        assert here.run("export").returncode == 0
        assert here.engine == engine


@pytest.mark.parametrize(
    "first", [b"GET / HTTP/1.1\r\n", b"[" * 50_000 + b"\n", b"x" * 100_000 + b"\n", b"\xff\n"], ids=lambda line: repr(line[:20])
)
def test_who_does_not_greet_is_told_and_the_engine_goes_on(here: Place, first: bytes) -> None:
    """Strangers knock at sockets; that is no fault to be logged as one."""
    with Client(here) as client:
        client.greet()
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.settimeout(WAIT_S)
            stranger.connect(here.address["unix"])
            stranger.sendall(first)
            answer = stranger.makefile("rb").readline()
        assert json.loads(answer) == {"error": "this is not a greeting that Tracebank knows"}
        client.add("t")


@pytest.mark.parametrize(
    "line", [b"{nope\n", b'{"operation": "stats"}\n', b"[]\n", b"[" * 50_000 + b"\n"], ids=lambda line: repr(line[:20])
)
def test_a_request_that_is_none_is_told(here: Place, line: bytes) -> None:
    """And its connection is closed: what comes behind it may be anything."""
    with Client(here) as client:
        client.greet()
        connection = link.connect(str(here.data_dir), "operations")
        assert connection is not None
        connection.send(line)
        assert json.loads(connection.receive())["error"].startswith("this is not a request that Tracebank knows: ")
        assert connection.receive() == b""
        connection.close()
