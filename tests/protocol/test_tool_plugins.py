"""Tools of other packages: found by entry point, listed and called like our own; a broken one harms nobody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from clients import Client, RefusedError
from homes import Home, home
from talk import ERAS, Connect, Era, text_of

TALKING = """
import logging
import os
import subprocess
import sys


def talk(where):
    print("print", where)
    print("flushed", where, flush=True)
    sys.__stdout__.write("sys.__stdout__\\n")
    os.write(1, b"os.write\\n")
    subprocess.run([sys.executable, "-S", "-c", "print('child')"], check=True)
    logging.getLogger("talking").warning("a log line, %s", where)
    logging.getLogger("talking").debug("a debug line, %s", where)
"""
PARROT = """
import sys
from typing import Annotated, Any

from mcp.types import CallToolResult
from pydantic import BaseModel
from talking import talk

from tracebank.protocol.tools import ToolContext, ToolSpec, argument, reply, session_of


class Echoed(BaseModel):
    echo: str
    namespace: str


async def echo(ctx: ToolContext, words: Annotated[Any, argument("What to say", type="string")]) -> Annotated[CallToolResult, Echoed]:
    'Say it again.'
    talk("when called")
    return reply(Echoed(echo=words, namespace=session_of(ctx).namespace), f"{words}, {words}")


async def fail(ctx: ToolContext) -> Annotated[CallToolResult, Echoed]:
    'Fail.'
    raise RuntimeError("a secret of the plug-in")


async def leave(ctx: ToolContext) -> Annotated[CallToolResult, Echoed]:
    'Try to end the process.'
    sys.exit(3)


async def stats(ctx: ToolContext) -> Annotated[CallToolResult, Echoed]:
    'Pretend to be another tool.'
    raise AssertionError


ECHO = ToolSpec(run=echo, title="Echo", read_only=True)
FAIL = ToolSpec(run=fail, title="Fail")
LEAVE = ToolSpec(run=leave, title="Leave")
NAMESAKE = ToolSpec(run=stats, title="Namesake")
NO_SPEC = "a string"
"""
HALF = 'raise RuntimeError("half installed")'
LOUD = """
from parrot import ECHO
from talking import talk

talk("at import")
"""
LEAVING = """
import sys

sys.exit(3)
"""
MODULES = {"talking": TALKING, "parrot": PARROT, "half": HALF, "loud": LOUD, "leaving": LEAVING}
ECHO = {"echo": "parrot:ECHO"}
OTHERS = {
    "fail": "parrot:FAIL", "leave": "parrot:LEAVE", "namesake": "parrot:NAMESAKE", "no_spec": "parrot:NO_SPEC",
    "not_there": "parrot:NOT_THERE", "half": "half:TOOL", "absent": "no_such_module:TOOL",
}  # fmt: skip
TOOLS = [
    "add_trace", "complete_episode", "compress_prompt", "feedback", "forget", "log_steps", "retrieve", "stats", "echo", "fail", "leave",
]  # fmt: skip


@contextmanager
def plugged(directory: Path, entries: dict[str, str]) -> Iterator[Home]:
    """Yield a home with an installed package that names these entry points beside Tracebank's own."""
    site = directory / "site"
    about = site / "parrot_tools-1.0.dist-info"
    about.mkdir(parents=True)
    for name, code in MODULES.items():
        (site / f"{name}.py").write_text(code, encoding="utf-8")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: parrot-tools\nVersion: 1.0\n", encoding="utf-8")
    lines = ["[tracebank.tools]", *(f"{name} = {value}" for name, value in entries.items())]
    (about / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    with home(directory, path=site, TRACEBANK_LOG_LEVEL="debug") as opened:
        yield opened


@pytest.fixture(scope="module")
def plugged_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Return a home with good tools of another package and broken ones."""
    with plugged(tmp_path_factory.mktemp("plugged"), ECHO | OTHERS) as opened:
        yield opened


@pytest.mark.parametrize("era", ERAS)
def test_a_third_partys_tool_is_listed_and_called_like_our_own(connect: Connect, plugged_home: Home, era: Era) -> None:
    """With its title and its schemas, in the namespace of the client that calls."""
    with connect(plugged_home, era, TRACEBANK_NAMESPACE="parrots") as talk:
        tools = {tool.name: tool for tool in talk.ask(talk.client.list_tools).tools}
        assert list(tools) == TOOLS
        assert tools["echo"].title == "Echo"
        assert tools["echo"].input_schema["required"] == ["words"]
        result = talk.result("echo", words="ahoy")
        assert result.structured_content == {"echo": "ahoy", "namespace": "parrots"}
        assert text_of(result) == "ahoy, ahoy"
        assert talk.refusal("echo") == "words: is required. What to say"
        assert talk.refusal("echo", word="ahoy") == "word: is not an argument of echo; its arguments are words"


def test_a_broken_plug_in_is_reported_and_stops_nothing(connect: Connect, plugged_home: Home) -> None:
    """By its entry point, with what is wrong; the advice says what to do."""
    with connect(plugged_home) as talk:
        figures = talk.call("stats")
        assert figures["plugins"]["tools"] == TOOLS
        broken = figures["plugins"]["broken"]
        assert broken.keys() == {"parrot:NAMESAKE", "parrot:NO_SPEC", "parrot:NOT_THERE", "half:TOOL", "no_such_module:TOOL"}
        assert broken["half:TOOL"] == "RuntimeError: half installed"
        assert broken["parrot:NO_SPEC"] == "TypeError: must be a ToolSpec, not str"
        assert broken["parrot:NAMESAKE"] == "TypeError: there is already a tool named stats"
        assert "No module named 'no_such_module'" in broken["no_such_module:TOOL"]
        assert any("A tool plug-in is broken" in advice for advice in figures["advice"])
        assert "store" in figures


def test_a_tool_that_fails_is_an_error_and_the_server_goes_on(connect: Connect, plugged_home: Home) -> None:
    """What went wrong inside a stranger's code stays in the log."""
    with connect(plugged_home) as talk:
        refusal = talk.refusal("fail")
        assert "fail" in refusal
        assert "secret" not in refusal
        assert talk.call("echo", words="still here")["echo"] == "still here"


def test_a_tool_that_tries_to_end_the_process_ends_nothing(plugged_home: Home) -> None:
    """One client's call must not be another's end."""
    with Client(plugged_home).greet() as client:
        pid = client.call("stats", section="engine")["engine"]["pid"]
        with pytest.raises(RefusedError):
            client.call("leave")
        assert client.call("stats", section="engine")["engine"]["pid"] == pid


@pytest.mark.parametrize("engine", ["shared", "in-process"])
@pytest.mark.parametrize("entry", ["parrot:ECHO", "loud:ECHO"], ids=["when called", "at import"])
def test_no_print_and_no_log_line_reaches_the_client(tmp_path: Path, entry: str, engine: str) -> None:
    """Every line is JSON, with the log at debug and a plug-in that writes to standard output in every way there is."""
    with plugged(tmp_path, {"echo": entry}) as at, Client(at, TRACEBANK_ENGINE=engine).greet() as client:
        assert client.call("echo", words="ahoy") == {"echo": "ahoy", "namespace": "default"}
        client.call("add_trace", task="Be quiet")
        client.call("retrieve", query="quiet")
        assert "error" in client.answer(client.begin("resources/read", {"uri": "trace://nothing"}))
        assert client.close() == 0
        assert client.garbage == []


def test_a_plug_in_that_ends_the_process_at_import_is_reported_like_any_other(tmp_path: Path) -> None:
    """Some scripts call sys.exit where they should not."""
    with plugged(tmp_path, {"leaving": "leaving:TOOL"}) as at, Client(at).greet() as client:
        assert client.call("stats", section="plugins")["plugins"]["broken"] == {"leaving:TOOL": "SystemExit: 3"}
