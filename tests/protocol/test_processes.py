"""The processes: how they begin, whom they serve, how they end, and that what was acknowledged outlives all of it."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import HELLO, Client
from homes import Home, home
from mcp.shared.exceptions import MCPError
from talk import ERAS, Connect, Era

TRACES = 60
KILLED_AFTER = 20


def engine_pid(at: Home) -> int:
    """Return the process that holds the data directory."""
    state = json.loads(at.run("status", "--json").out)
    assert state["running"]
    pid: int = state["pid"]
    return pid


def exported(at: Home) -> set[str]:
    """Return the ids of all traces."""
    export = at.run("export")
    assert export.code == 0, export
    return {json.loads(line)["trace_id"] for line in export.out.splitlines()}


@pytest.fixture
def living_home(tmp_path: Path) -> Iterator[Home]:
    """Return a home whose engine may be killed: what it leaves behind is this test's own."""
    with home(tmp_path) as opened:
        yield opened


def test_the_end_of_input_ends_the_server_with_status_0(words_home: Home) -> None:
    """A client that leaves leaves no process behind."""
    with Client(words_home).greet() as client:
        said = len(client.messages)
        assert client.close() == 0
        assert client.messages[said:] == []


def test_the_end_of_input_before_any_message_ends_the_server_with_status_0(words_home: Home) -> None:
    """A client may change its mind."""
    with Client(words_home) as client:
        assert client.close() == 0
        assert client.messages == []


def test_calls_in_flight_are_answered_although_the_input_has_ended(words_home: Home, namespace: str) -> None:
    """A script that pipes its calls in and reads what comes out gets all answers."""
    with Client(words_home).greet() as client:
        ids = [client.begin_call("add_trace", task=f"Piped {n}", namespace=namespace) for n in range(20)]
        assert client.close() == 0
        assert all(client.result(number)["structuredContent"]["status"] == "created" for number in ids)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM that a process could answer")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_ends_the_server_with_status_0(words_home: Home, number: signal.Signals) -> None:
    """Clients end their servers with it; it is no failure."""
    with Client(words_home).greet() as client:
        client.process.send_signal(number)
        assert client.wait() == 0


def test_many_clients_share_one_engine_and_see_each_others_traces(words_home: Home, namespace: str) -> None:
    """What one stores the others find as soon as it is acknowledged and indexed."""
    with Client(words_home).greet() as first, Client(words_home).greet() as second:
        assert len({client.call("stats", section="engine")["engine"]["pid"] for client in (first, second)}) == 1
        first.call("add_trace", task="Shared with others", namespace=namespace, trace_id=namespace)
        # The search waits for the caller's own writes only; after one it is indexed for all.
        first.call("retrieve", query="shared", namespace=namespace)
        found = second.call("retrieve", query="shared", namespace=namespace)["results"]
        assert [memory["trace_id"] for memory in found] == [namespace]


@pytest.mark.parametrize("era", ERAS)
def test_each_client_has_its_own_namespace(connect: Connect, words_home: Home, namespace: str, era: Era) -> None:
    """TRACEBANK_NAMESPACE belongs to the client: two clients of one engine differ."""
    with connect(words_home, era, TRACEBANK_NAMESPACE=namespace) as own, connect(words_home, era) as other:
        own.call("add_trace", task="Tell the ospreys apart", trace_id=f"{namespace} osprey")
        assert own.found(query="ospreys") == [f"{namespace} osprey"]
        assert own.call("retrieve", query="ospreys")["results"][0]["namespace"] == namespace
        assert other.found(query="ospreys") == []
        assert other.found(query="ospreys", namespace=namespace) == [f"{namespace} osprey"]


@pytest.mark.parametrize("era", ERAS)
def test_each_client_is_offered_its_own_tools(connect: Connect, words_home: Home, era: Era) -> None:
    """TRACEBANK_TOOLS belongs to the client, too; what is not offered cannot be called."""
    with connect(words_home, era, TRACEBANK_TOOLS="retrieve, stats") as talk, connect(words_home, era) as other:
        assert [tool.name for tool in talk.ask(talk.client.list_tools).tools] == ["retrieve", "stats"]
        assert talk.refusal("add_trace", task="Not offered") == "name: there is no tool 'add_trace'; there are retrieve, stats"
        assert len(other.ask(other.client.list_tools).tools) == 8


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"TRACEBANK_TOOLS": "retrieve,remember"},
            "'remember' is not a tool; the tools are add_trace, complete_episode, compress_prompt, feedback, forget, log_steps, "
            "retrieve, stats",
        ),
        ({"TRACEBANK_NAMESPACE": "a\tb"}, "must be one line without control characters or outer spaces"),
    ],
    ids=["tools", "namespace"],
)
def test_a_clients_wrong_setting_is_told_in_the_answer_and_on_standard_error(
    words_home: Home, variables: dict[str, str], message: str
) -> None:
    """The client shows one of the two to the person who wrote it."""
    with Client(words_home, **variables) as client:
        # What is known of the engine is answered before the setting is seen: then it is told at the first call.
        answer = client.answer(client.begin("initialize", HELLO))
        if "error" not in answer:
            answer = client.answer(client.begin_call("stats"))
        assert message in answer["error"]["message"]
        assert client.close() == 0
        assert message in client.errors.decode()
        assert "Traceback" not in client.errors.decode()


def test_a_data_directory_that_cannot_be_is_told_in_the_answer_and_on_standard_error(tmp_path: Path) -> None:
    """A file in its place; the client's log says what to do."""
    (tmp_path / "data").write_text("a file", encoding="utf-8")
    with home(tmp_path) as at, Client(at) as client:
        answer = client.answer(client.begin("initialize", HELLO))
        assert "set TRACEBANK_DATA_DIR to a directory that can" in answer["error"]["message"]
        assert client.close() == 0
        assert "set TRACEBANK_DATA_DIR" in client.errors.decode()
        assert "Traceback" not in client.errors.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9")
def test_every_acknowledged_trace_outlives_a_kill(living_home: Home) -> None:
    """Killed among writes: whoever was answered finds the trace; whoever was not is told, and nobody hangs."""
    with Client(living_home).greet() as client:
        pid = engine_pid(living_home)
        greeted = len(client.messages)
        ids = {client.begin_call("add_trace", task=f"Outlive number {n}", trace_id=f"t{n}"): f"t{n}" for n in range(TRACES)}
        client.wait_for(greeted + KILLED_AFTER)
        os.kill(pid, signal.SIGKILL)
        answers = {name: client.answer(number) for number, name in ids.items()}
        refused = [answer["error"] for answer in answers.values() if "error" in answer]
        assert all(error["data"]["retry"] is True for error in refused)
        acknowledged = {name for name, answer in answers.items() if "result" in answer}
        assert len(acknowledged) >= KILLED_AFTER
        # The same client goes on, with another engine.
        assert client.call_again("add_trace", task="After the kill", trace_id="after")["trace_id"] == "after"
        assert engine_pid(living_home) != pid
        assert client.close() == 0
    # What was not answered may have been stored or not.
    kept = exported(living_home)
    assert kept >= acknowledged | {"after"}
    found = json.loads(living_home.run("search", "outlive the kill", "-k", "50", "--json").out)["results"]
    assert len(found) == min(50, len(kept))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9")
@pytest.mark.parametrize("era", ERAS)
def test_a_client_of_either_era_goes_on_after_its_engine_was_killed(connect: Connect, living_home: Home, era: Era) -> None:
    """Nobody has to initialize again. A call that was on its way may have to be repeated, as its error says."""
    with connect(living_home, era) as talk:
        talk.call("add_trace", task="Before the kill", trace_id="before")
        os.kill(engine_pid(living_home), signal.SIGKILL)
        try:
            talk.call("add_trace", task="After the kill", trace_id="after")
        except MCPError as error:
            if "Retry this call." not in error.error.message:
                raise
            talk.call("add_trace", task="After the kill", trace_id="after")
        assert sorted(talk.found(query="the kill")) == ["after", "before"]
        assert len(talk.ask(talk.client.list_tools, cache_mode="bypass").tools) == 8


def test_stop_ends_the_engine_and_the_next_call_starts_another(living_home: Home) -> None:
    """A client does not notice, but for the process."""
    with Client(living_home).greet() as client:
        client.call("add_trace", task="Before the stop", trace_id="before")
        # Who comes after the stop waits for its own writes only.
        client.call("retrieve", query="the stop")
        pid = engine_pid(living_home)
        stopped = living_home.run("stop")
        assert (stopped.code, stopped.errors.strip()) == (0, f"stopped process {pid}")
        assert not json.loads(living_home.run("status", "--json").out)["running"]
        found = client.call_again("retrieve", query="the stop")["results"]
        assert [memory["trace_id"] for memory in found] == ["before"]
        assert engine_pid(living_home) != pid


def test_the_data_directory_is_for_its_owner_alone(words_home: Home) -> None:
    """Memories are private: nobody else may enter, nor read the socket."""
    with Client(words_home).greet():
        assert words_home.data_dir.stat().st_mode & 0o077 == 0
        for socket in words_home.data_dir.glob("*.sock"):
            assert socket.stat().st_mode & 0o077 == 0
