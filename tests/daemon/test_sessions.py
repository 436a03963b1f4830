"""What one engine does for several clients at once, and when it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from clients import WAIT_S, Client, Era, front_with
from places import Place, place, wait_for_exit

# A package with tools that wait, tell how far they are, and ask back.
PLUG_IN = '''
import anyio
from mcp.types import CallToolResult
from pydantic import BaseModel
from tracebank.protocol.tools import ToolContext, ToolSpec, reply

class Nothing(BaseModel):
    pass

async def hang(ctx: ToolContext) -> CallToolResult:
    """Wait for ever."""
    await ctx.report_progress(1, 2, "waiting")
    await anyio.sleep_forever()

async def ask(ctx: ToolContext) -> CallToolResult:
    """Ask the client."""
    class Answer(BaseModel):
        name: str
    asked = await ctx.elicit("Who?", Answer)
    return reply(asked.data, asked.data.name)

HANG, ASK = ToolSpec(run=hang, title="Hang"), ToolSpec(run=ask, title="Ask")
'''


def offer_plug_in(here: Place) -> None:
    """Install the package where engines find it."""
    (here.site / "slow_tools.py").write_text(PLUG_IN, encoding="utf-8")
    about = here.site / "slow_tools-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: slow-tools\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[tracebank.tools]\nhang = slow_tools:HANG\nask = slow_tools:ASK\n")


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Return a place with tools that take their time."""
    with place(tmp_path_factory.mktemp("slow")) as opened:
        offer_plug_in(opened)
        yield opened
    assert not opened.complaints()


def test_twenty_calls_of_one_session_are_answered_side_by_side(slow: Place, era: Era) -> None:
    """One that takes long keeps none of the others waiting."""
    with Client(slow, era, command=front_with("front.FAREWELL_S = 0")) as client:
        client.greet()
        hanging = client.begin_call("hang")
        ids = [f"{era}-{i}" for i in range(10)]
        calls = [client.begin_call("add_trace", task="t", trace_id=name) for name in ids]
        calls += [client.begin_call("retrieve", query=f"t {i}") for i in range(10)]
        assert all(client.result(call)["structuredContent"] for call in calls)
        assert not client.answers(hanging)
        client.close()
    assert set(ids) <= slow.exported()


def test_a_cancelled_call_is_never_answered_and_keeps_nobody(slow: Place, era: Era) -> None:
    """Neither the session nor the front at the end of its input: it would wait for an hour for a call in flight."""
    with Client(slow, era, command=front_with("front.FAREWELL_S = 3600")) as client:
        client.greet()
        hanging = client.begin_call("hang")
        client.notify("notifications/cancelled", {"requestId": hanging, "reason": "no patience"})
        client.add(f"after-{era}")
        assert not client.answers(hanging)
        assert client.close() == 0


def test_a_cancelled_call_does_not_keep_the_engine_from_leaving(here: Place) -> None:
    """It waits for calls that are to be answered: here for an hour."""
    offer_plug_in(here)
    here.data_dir.mkdir()
    patient = "from tracebank import daemon; import tracebank.protocol.session as s; daemon.DRAIN_S = s.FAREWELL_S = 3600; daemon.main()"
    engine = subprocess.Popen([sys.executable, "-c", patient], env=here.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert engine.stdout is not None
    assert engine.stdout.readline() == b"ready\n"
    engine.stdout.close()
    with Client(here) as client:
        client.greet()
        hanging = client.begin_call("hang")
        client.notify("notifications/cancelled", {"requestId": hanging})
        client.add("t")
        engine.terminate()
        assert engine.wait(WAIT_S) == 0


def test_a_client_may_have_long_settings(here: Place) -> None:
    """Whatever it says of language models travels with its greeting."""
    long = {f"TRACEBANK_UNKNOWN_{number}": '"' * 100_000 for number in range(3)}
    with Client(here, **long) as client:
        client.greet().add("t")
    assert here.run("stats", **long).returncode == 0


def test_a_variable_counts_whatever_the_case_of_its_name(here: Place) -> None:
    """As it does for the engine, which must not make one client's choice that of all."""
    with Client(here, tracebank_tools="stats", tracebank_namespace="mine") as client, Client(here) as other:
        client.greet()
        assert [tool["name"] for tool in client.request("tools/list")["tools"]] == ["stats"]
        assert len(other.greet().request("tools/list")["tools"]) > 1
        other.add("t")
        here.run("add", "a task", tracebank_namespace="mine")
    assert [json.loads(line)["namespace"] for line in here.run("export").stdout.splitlines()] == ["default", "mine"]
    assert "TRACEBANK_RETRIEVAL__K has no effect" in here.run("stats", tracebank_retrieval__k="7").stderr


def test_progress_reaches_the_client_that_asked_for_it(slow: Place, era: Era) -> None:
    """Under the token it gave."""
    with Client(slow, era, command=front_with("front.FAREWELL_S = 0")) as client:
        client.greet()
        params = client._complete({"name": "hang", "arguments": {}})
        params["_meta"] = {**params.get("_meta", {}), "progressToken": "mine"}
        client.send({"jsonrpc": "2.0", "id": 99, "method": "tools/call", "params": params})
        told = client.event("notifications/progress")["params"]
        assert (told["progressToken"], told["progress"], told["total"], told["message"]) == ("mine", 1, 2, "waiting")


def test_a_tool_can_ask_the_client_back(slow: Place) -> None:
    """Requests go both ways over the front, under ids of their own."""
    hello = {"protocolVersion": "2025-11-25", "capabilities": {"elicitation": {"form": {}}}, "clientInfo": {"name": "t", "version": "1"}}
    with Client(slow) as client:
        client.request("initialize", hello)
        client.notify("notifications/initialized")
        call = client.begin_call("ask")
        question = client.event("elicitation/create")
        client.send({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": {"name": "Ada"}}})
        assert client.result(call)["content"][0]["text"] == "Ada"


def test_clients_with_their_own_namespace_and_tools_share_an_engine(slow: Place) -> None:
    """What belongs to a client comes with its connection, and again with the next engine."""
    with (
        Client(slow, TRACEBANK_NAMESPACE="one", TRACEBANK_TOOLS="add_trace,retrieve") as one,
        Client(slow, TRACEBANK_NAMESPACE="two") as two,
    ):
        one.greet().add("t", content="of one")
        two.greet().add("t", content="of two")
        slow.kill()
        one.add_again("u")
        two.add_again("v")
        assert slow.status()["sessions"] == 2
        assert sorted(memory["trace_id"] for memory in one.call("retrieve", query="the task")["results"]) == ["t", "u"]
        assert sorted(memory["trace_id"] for memory in two.call("retrieve", query="the task")["results"]) == ["t", "v"]
        assert [tool["name"] for tool in one.request("tools/list")["tools"]] == ["add_trace", "retrieve"]
        assert len(two.request("tools/list")["tools"]) > 2


def test_a_client_that_asks_for_other_settings_than_the_engines_is_told(here: Place) -> None:
    """On its standard error, with what to do; the client that started the engine is not. Values may hold a key and are not told."""
    with Client(here, TRACEBANK_RETRIEVAL__K="3", TRACEBANK_NAMESPACE="mine") as first:
        first.greet().add("t")
        with Client(here, TRACEBANK_RETRIEVAL__K="9", TRACEBANK_LLM__PROVIDERS='[{"model": "sk-secret"}]') as second:
            second.greet().add("t")
            engine = here.engine
    assert first.errors == b""
    ends = "`tracebank stop` ends it, and the next client starts it with its own settings."
    assert sorted(second.errors.decode().splitlines()) == [
        f"tracebank: TRACEBANK_LLM__PROVIDERS has no effect: the engine (process {engine}) was started without it. {ends}",
        f"tracebank: TRACEBANK_RETRIEVAL__K has no effect: the engine (process {engine}) was started with another value. {ends}",
    ]


def test_an_idle_engine_leaves_after_its_last_client_and_not_before(here: Place) -> None:
    """A client that says nothing is a client."""
    with Client(here, TRACEBANK_DAEMON__IDLE_S="1") as client:
        client.greet().add("t")
        engine = here.engine
        with Client(here, TRACEBANK_DAEMON__IDLE_S="1") as passing:
            passing.greet()
        assert not wait_for_exit(engine, timeout_s=1.5)
        client.add("u")
    assert wait_for_exit(engine)
    assert not here.leftovers()


def test_import_works_while_clients_are_connected(slow: Place) -> None:
    """And what is imported they find."""
    lines = "".join(json.dumps({"trace_id": f"i{i}", "task": f"imported number {i}", "namespace": "imported"}) + "\n" for i in range(300))
    with Client(slow, TRACEBANK_NAMESPACE="imported") as client:
        client.greet()
        calls = [client.begin_call("add_trace", task="meanwhile", trace_id=f"c{i}") for i in range(100)]
        done = slow.run("import", "-", text=lines)
        assert done.returncode == 0, done.stderr
        assert "300 traces imported" in done.stderr
        added = {client.result(call)["structuredContent"]["trace_id"] for call in calls}
        assert client.call("retrieve", query="imported number 250", k=1)["results"][0]["trace_id"] == "i250"
    assert {f"i{i}" for i in range(300)} | added <= slow.exported()


def test_nothing_is_left_of_fronts_that_were_killed(slow: Place) -> None:
    """Their sessions end, and their engine serves on."""
    with Client(slow) as client:
        client.greet()
        descriptors = len(os.listdir(f"/proc/{slow.engine}/fd"))
        for _ in range(5):
            with Client(slow) as victim:
                victim.greet()
                victim.begin_call("hang")
                victim.process.kill()
                victim.wait()
        client.call("stats", section="engine")
        # A session in mid-call is given some seconds to finish it.
        assert slow.status()["sessions"] <= 6
        assert len(os.listdir(f"/proc/{slow.engine}/fd")) <= descriptors + 6
