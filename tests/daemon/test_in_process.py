"""TRACEBANK_ENGINE=in-process: one client, its engine in the same process, for containers."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
from clients import COMMAND, HELLO, WAIT_S, Client, Era, RefusedError
from places import Place

from tracebank import __version__


def alone(here: Place, era: Era = "legacy") -> Client:
    """Return a client whose front is the engine, too."""
    return Client(here, era, TRACEBANK_ENGINE="in-process")


def test_one_client_is_served_without_another_process(here: Place, era: Era) -> None:
    """From its first line to the end of its input."""
    with alone(here, era) as client:
        client.greet().add("t")
        assert here.processes() == [client.process.pid]
        assert client.call("retrieve", query="t")["results"]
        assert client.close() == 0
    assert here.stored() == {"t"}


def test_a_second_client_and_the_command_line_are_told_which_process_has_the_directory(here: Place) -> None:
    """And what to do about it."""
    with alone(here) as client:
        client.greet().add("t")
        taken = f"is in use by process {client.process.pid}"
        with Client(here) as second:
            with pytest.raises(RefusedError, match=f"{taken}, which serves its own client only: end it first"):
                second.request("initialize", HELLO)
            assert second.close() == 0
        with alone(here) as third:
            assert third.wait() == 1
            assert f"{taken}: end it with `tracebank stop`" in third.errors.decode()
            assert not third.messages
        done = here.run("search", "t")
        assert (done.returncode, done.stdout) == (1, "")
        assert taken in done.stderr
        client.add("still there")


def test_a_process_is_told_that_an_engine_has_the_directory(here: Place) -> None:
    """It does not share it."""
    with Client(here) as client:
        client.greet()
        with alone(here) as second:
            assert second.wait() == 1
            assert f"is in use by process {here.engine}" in second.errors.decode()


def test_status_and_stop_know_it(here: Place) -> None:
    """By what it wrote down when it took the directory."""
    with alone(here) as client:
        client.greet().add("t")
        status = json.loads(here.run("status", "--json").stdout)
        assert (status["running"], status["pid"], status["version"], status["sessions"]) == (True, client.process.pid, __version__, 1)
        assert status["data_dir"] == str(here.data_dir)
        assert f"process {client.process.pid}, version {__version__}, for a client of its own alone, in" in here.run("status").stdout
        assert here.run("stop").stderr == f"stopped process {client.process.pid}\n"
        assert client.wait() == 0
    assert json.loads(here.run("status", "--json").stdout)["running"] is False
    assert here.stored() == {"t"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_ends_it_although_its_client_says_nothing(here: Place, number: signal.Signals) -> None:
    """The thread that reads its input blocks, and must not keep it."""
    with alone(here) as client:
        client.greet().add("t")
        client.process.send_signal(number)
        assert client.wait() == 0
    assert here.stored() == {"t"}


def test_the_end_of_its_input_in_mid_call_is_waited_out(here: Place) -> None:
    """As the front does."""
    with alone(here) as client:
        client.greet()
        calls = [client.begin_call("add_trace", task="t", trace_id=f"t{i}") for i in range(20)]
        assert client.close() == 0
        assert {client.result(call)["structuredContent"]["trace_id"] for call in calls} == {f"t{i}" for i in range(20)}
    assert len(here.stored()) == 20


def test_large_answers_and_refusals_at_once_stay_whole_lines(here: Place) -> None:
    """Who writes to the pipe takes turns."""
    with alone(here) as client:
        client.greet().add("large", content="x" * 500_000)
        reads = [client.message("resources/read", {"uri": "trace://large"}) for _ in range(5)]
        client.send(*(part for read in reads for part in (read, b"no JSON\n" * 20)))
        assert all(len(client.result(read["id"])["contents"][0]["text"]) > 500_000 for read in reads)
    assert not client.garbage


def test_it_dies_with_kill_9_and_leaves_the_directory_to_the_next(here: Place) -> None:
    """What it had acknowledged is there."""
    with alone(here) as client:
        client.greet().add("t")
        client.process.kill()
        client.wait()
    assert here.stored() == {"t"}


@pytest.mark.parametrize(("name", "known"), [("TRACEBANK_ENGINE", "shared, in-process"), ("TRACEBANK_TRANSPORT", "unix, tcp")])
@pytest.mark.parametrize("arguments", [(), ("add", "a task")], ids=["client", "command line"])
def test_a_typo_starts_no_other_kind_of_engine(here: Place, name: str, known: str, arguments: tuple[str, ...]) -> None:
    """It is told, and nothing is started."""
    done = here.run(*arguments, **{name: "inprocess"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"tracebank: {name} must be one of {known}, or not set, not 'inprocess'\n"
    assert not here.data_dir.exists()


@pytest.mark.parametrize("engine", ["shared", "in-process"])
@pytest.mark.parametrize("arguments", [(), ("add", "a task")], ids=["client", "command line"])
def test_the_home_of_nobody_is_no_directory(here: Place, engine: str, arguments: tuple[str, ...]) -> None:
    """One that is called ~somebody, wherever the command runs, is not what was meant."""
    done = here.run(*arguments, TRACEBANK_ENGINE=engine, TRACEBANK_DATA_DIR="~nosuchuser/x")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "tracebank: setting data_dir: begins with the home directory of a user who is not known: ~nosuchuser/x\n"
    assert not Path("~nosuchuser").exists()


def test_a_client_that_closes_its_output_ends_it(here: Place) -> None:
    """What it was asked for is done, although nobody hears of it, and no more is read."""
    process = subprocess.Popen(
        [COMMAND], env={**here.environment, "TRACEBANK_ENGINE": "in-process"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        for message in (
            {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO},
            {
                "jsonrpc": "2.0",
                "id": 2,
                "method": "tools/call",
                "params": {"name": "add_trace", "arguments": {"task": "t", "trace_id": "t"}},
            },
        ):
            process.stdin.write(json.dumps(message).encode() + b"\n")
            process.stdin.flush()
            if message["id"] == 1:
                process.stdout.readline()
                process.stdout.close()
        assert process.wait(WAIT_S) == 0
    assert here.stored() == {"t"}
