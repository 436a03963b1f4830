"""What comes through the pipes, or does not: garbage, halves, megabytes, silence, the end."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from typing import Any

import pytest
from clients import COMMAND, HELLO, WAIT_S, Client, Era, RefusedError, front_with
from places import Place, wait_for_exit

PARSE_ERROR, INVALID_REQUEST = -32700, -32600


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"hello\n", PARSE_ERROR),
        (b'{"jsonrpc": "2.0", "id": 1, "method"\n', PARSE_ERROR),
        (b"\xff\xfe\n", PARSE_ERROR),
        (b"[" * 100_000 + b"\n", PARSE_ERROR),
        (b"[]\n", INVALID_REQUEST),
        (b"[1]\n", INVALID_REQUEST),
        (b"[[[[]]]]\n", INVALID_REQUEST),
        (b"7\n", INVALID_REQUEST),
        (b"null\n", INVALID_REQUEST),
        (b"{}\n", INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": null, "method": "ping"}\n', INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": 1.5, "method": "ping"}\n', INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": {}, "method": "ping"}\n', INVALID_REQUEST),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else "",
)
def test_garbage_is_refused_and_the_session_goes_on(shared: Place, line: bytes, code: int) -> None:
    """Nobody can say which call it was, so the error belongs to none."""
    with Client(shared) as client:
        client.greet()
        client.send(line)
        assert client.answer(None)["error"]["code"] == code
        client.call("stats", section="engine")


@pytest.mark.parametrize("engine", ["shared", "in-process"])
@pytest.mark.parametrize("batch", [False, True], ids=["alone", "in a batch"])
def test_a_message_that_is_nested_too_deeply_is_refused_and_the_session_goes_on(here: Place, engine: str, batch: bool) -> None:
    """However deep: there are some that Python reads and cannot write again. In-process it would be the server's end."""
    with Client(here, TRACEBANK_ENGINE=engine) as client:
        client.greet()
        for depth in (300, *range(960, 1_000)):
            message = client.message("tools/call", {"name": "stats", "arguments": {"section": "DEEP"}})
            line = json.dumps([message] if batch else message).replace('"DEEP"', "[" * depth + "]" * depth)
            before = len(client.messages)
            client.send(line.encode() + b"\n")
            client.wait_for(before + 1)
            (answer,) = client.messages[before:]
            # What is not even read is nobody's.
            assert (answer["id"], answer["error"]["code"]) in ((message["id"], INVALID_REQUEST), (None, PARSE_ERROR))
            assert answer["id"] is None or "nested" in answer["error"]["message"]
        assert client.call("stats", section="engine")


@pytest.mark.parametrize("space", [b"\n", b"\r\n", b"  \t \n", b"\n" * 1_000])
def test_empty_lines_are_nothing(shared: Place, space: bytes) -> None:
    """They are neither answered nor counted as a message."""
    with Client(shared) as client:
        client.send(space)
        client.greet()
        client.send(space)
        client.call("stats", section="engine")
        assert len(client.messages) == 2


def test_lines_may_end_as_on_windows_and_come_in_pieces(shared: Place) -> None:
    """A pipe knows bytes, not messages."""
    with Client(shared) as client:
        client.greet()
        message = client.message("tools/call", {"name": "stats", "arguments": {"section": "engine"}})
        for byte in json.dumps(message).encode() + b"\r\n":
            client.send(bytes([byte]))
        assert client.result(message["id"])


def test_a_batch_is_taken_apart(shared: Place) -> None:
    """Protocol 2025-03-26 has them: every call in it is answered, and what is no message is refused alone."""
    with Client(shared) as client:
        client.greet()
        calls = [client.message("ping"), client.message("tools/list")]
        client.send(json.dumps([calls[0], 7, {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}, calls[1]]).encode() + b"\n")
        assert client.result(calls[0]["id"]) == {}
        assert client.result(calls[1]["id"])["tools"]
        assert client.answer(None)["error"]["code"] == INVALID_REQUEST


def test_a_message_of_a_megabyte_goes_both_ways(shared: Place, era: Era) -> None:
    """Content of the largest size allowed is stored, and comes back whole."""
    content = "".join(f"{i:09d}\n" for i in range(1_048_576 // 10))
    with Client(shared, era) as client:
        client.greet()
        name = client.add(f"large-{era}", content=content)
        resource = client.request("resources/read", {"uri": f"trace://{name}"})["contents"][0]
        assert json.loads(resource["text"])["content"] == content
        with pytest.raises(RefusedError, match="content"):
            client.add("larger", content=content + "x" * 1_000)
        client.call("stats", section="engine")


def test_a_message_over_the_limit_is_refused_and_the_session_goes_on(shared: Place) -> None:
    """By the front: the engine would have to close the connection."""
    with Client(shared, command=front_with("link.MAX_LINE_BYTES = 10_000")) as client:
        client.greet()
        with pytest.raises(RefusedError, match="at most 10,000 bytes, not 20,1") as refused:
            client.add("t", content="x" * 20_000)
        assert not refused.value.retry
        client.call("stats", section="engine")


@pytest.mark.parametrize("end", [b"", b"\n" * 3], ids=["and nothing more", "and more"])
def test_a_message_over_the_limit_is_refused_in_process(here: Place, end: bytes) -> None:
    """Nobody keeps it, so nobody knows whose it was. How much longer it is makes no difference."""
    with Client(here, command=front_with("link.MAX_LINE_BYTES = 10_000"), TRACEBANK_ENGINE="in-process") as client:
        client.greet()
        for size in (10_001, 200_000):
            before = len(client.messages)
            client.send(b"x" * size + b"\n" + end)
            client.wait_for(before + 1)
            (answer,) = client.messages[before:]
            assert (answer["id"], answer["error"]["code"]) == (None, INVALID_REQUEST)
            assert answer["error"]["message"] == "a message must be at most 10,000 bytes"
        client.send(b"x" * 10_000 + b"\n")
        client.wait_for(before + 2)
        assert client.messages[-1]["error"]["code"] == PARSE_ERROR
        client.call("stats", section="engine")


def test_a_notification_with_a_number_that_python_does_not_read_is_refused(here: Place) -> None:
    """Of more than some thousand digits."""
    with Client(here, TRACEBANK_ENGINE="in-process") as client:
        client.greet()
        client.send(b'{"jsonrpc": "2.0", "method": "x", "params": {"n": ' + b"1" * 5_000 + b"}}\n")
        assert client.answer(None)["error"]["code"] == PARSE_ERROR
        client.call("stats", section="engine")


@pytest.mark.parametrize("engine", ["shared", "in-process"])
@pytest.mark.parametrize("half", [b'{"jsonrpc": "2.0", "id": 9, "method": "tools/call", "par', b'{"jsonrpc'])
def test_half_a_line_at_the_end_of_input_does_nothing(here: Place, half: bytes, engine: str) -> None:
    """The client died while it wrote."""
    with Client(here, TRACEBANK_ENGINE=engine) as client:
        client.greet()
        client.send(half)
        assert client.close() == 0
        assert [message["error"]["code"] for message in client.messages if "error" in message] == [PARSE_ERROR]


@pytest.mark.parametrize("engine", ["shared", "in-process"])
def test_a_last_line_without_its_newline_counts(here: Place, engine: str) -> None:
    """Scripts forget it."""
    with Client(here, TRACEBANK_ENGINE=engine) as client:
        client.greet()
        message = client.message("ping")
        client.send(json.dumps(message).encode())
        assert client.close() == 0
        assert client.result(message["id"]) == {}


def test_the_end_of_input_in_mid_call_is_waited_out(shared: Place, era: Era) -> None:
    """All that was asked for is done and answered, then the front leaves with status 0."""
    with Client(shared, era) as client:
        client.greet()
        ids = [f"end-{era}-{i}" for i in range(20)]
        calls = [client.begin_call("add_trace", task="at the end", trace_id=name) for name in ids]
        assert client.close() == 0
        assert [client.result(call)["structuredContent"]["trace_id"] for call in calls] == ids
    assert set(ids) <= shared.exported()


def test_the_end_of_input_before_an_engine_is_up_is_waited_out(here: Place) -> None:
    """A script may pipe in all it has to say at once."""
    lines = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "add_trace", "arguments": {"task": "t", "trace_id": "t"}}},
    ]
    done = subprocess.run(
        [COMMAND],
        env=here.environment,
        input="\n".join(map(json.dumps, lines)),
        capture_output=True,
        encoding="utf-8",
        timeout=WAIT_S,
        check=True,
    )
    assert sorted(json.loads(line)["id"] for line in done.stdout.splitlines()) == [1, 2]
    assert here.stored() == {"t"}


def test_a_client_that_never_reads_is_nobody_elses_trouble(shared: Place) -> None:
    """Others are served, and it is not listened to for ever: its answers are not kept without bound, so its own pipe fills."""
    silent = Silent(shared)
    assert silent.flood({"method": "tools/list"}) > 100
    with Client(shared) as other:
        other.greet().add("meanwhile")
        assert other.call("retrieve", query="meanwhile")["results"]
        while silent.flood({"method": "tools/list"}):
            pass
        silent.leave()
        other.call("stats", section="engine")


class Silent:
    """A client that sends and never reads."""

    def __init__(self, here: Place) -> None:
        self.process = subprocess.Popen(
            [COMMAND], env=here.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self.process.stdin is not None
        self.send({"id": 0, "method": "initialize", "params": HELLO})
        self._sent = 0
        os.set_blocking(self.process.stdin.fileno(), False)

    def send(self, message: dict[str, Any]) -> int:
        """Send a message, in one piece. Returns how many of its bytes the pipe took."""
        assert self.process.stdin is not None
        return os.write(self.process.stdin.fileno(), json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def flood(self, message: dict[str, Any]) -> int:
        """Send the message again and again, until the pipe has been full for a while. Returns how many went in."""
        before = self._sent
        assert self.process.stdin is not None
        while select.select([], [self.process.stdin], [], 0.5)[1]:
            self._sent += 1
            assert self._sent < 100_000, "it takes everything and waits for nothing"
            # A pipe that can be written to takes 4 KB in one piece.
            self.send({"id": self._sent, **message})
        return self._sent - before

    def leave(self) -> None:
        """Die, as clients do."""
        self.process.kill()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(WAIT_S)


def test_a_client_that_closes_its_output_ends_the_front(shared: Place) -> None:
    """Nobody hears it any more, though its input is open."""
    with Client(shared) as client:
        client.greet()
    process = subprocess.Popen([COMMAND], env=shared.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.close()
    process.stdin.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO}).encode() + b"\n")
    process.stdin.flush()
    assert process.wait(WAIT_S) == 0
    process.stdin.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_to_the_front_ends_the_front_alone(shared: Place, number: signal.Signals) -> None:
    """With status 0; its engine lives on for the others."""
    with Client(shared) as other, Client(shared) as client:
        other.greet()
        engine = shared.engine
        client.greet().add(f"before-{number}")
        client.process.send_signal(number)
        assert client.wait() == 0
        other.call("stats", section="engine")
        assert shared.engine == engine


def test_a_signal_to_the_clients_process_group_does_not_reach_the_engine(here: Place) -> None:
    """Ctrl-C in the terminal where a client runs is meant for the client."""
    process = subprocess.Popen([COMMAND], env=here.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO}).encode() + b"\n")
    process.stdin.flush()
    assert process.stdout.readline()
    engine = here.engine
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(WAIT_S) == 0
    process.stdin.close()
    process.stdout.close()
    assert here.engine == engine


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_to_the_engine_lets_it_finish_what_it_has_read(here: Place, number: signal.Signals) -> None:
    """What it acknowledges is kept, what it does not is to be retried; it takes its address and its socket along."""
    with Client(here) as client:
        client.greet()
        engine = here.engine
        calls = [client.begin_call("add_trace", task="t", trace_id=f"t{i}") for i in range(50)]
        client.answer(calls[0])
        os.kill(engine, number)
        assert wait_for_exit(engine)
        answers = [client.answer(call) for call in calls]
        assert not here.leftovers()
        refused = [answer["error"] for answer in answers if "error" in answer]
        assert all(error["data"]["retry"] for error in refused)
        acknowledged = {answer["result"]["structuredContent"]["trace_id"] for answer in answers if "result" in answer}
        assert acknowledged
        assert acknowledged <= here.stored()


def test_stop_does_not_wait_for_clients_that_never_stop_calling(here: Place) -> None:
    """Nothing more is read once it is asked to leave; the clients go on with the next engine."""
    clients = [Client(here).greet() for _ in range(3)]
    engine = here.engine
    calls = {
        client: [client.begin_call("add_trace", task="t", trace_id=f"{number}-{i}") for i in range(300)]
        for number, client in enumerate(clients)
    }
    assert here.run("stop").stderr == f"stopped process {engine}\n"
    acknowledged = set()
    for client, begun in calls.items():
        for call in begun:
            answer = client.answer(call)
            assert "error" not in answer or answer["error"]["data"]["retry"], answer
            if "result" in answer:
                acknowledged.add(answer["result"]["structuredContent"]["trace_id"])
    assert acknowledged <= here.exported()
    assert {client.close() for client in clients} == {0}


def test_nothing_but_protocol_comes_out_of_the_front(here: Place) -> None:
    """Not even what the interpreter and the engine have to say; that goes to standard error and the log."""
    with Client(here, PYTHONVERBOSE="1", PYTHONWARNINGS="default", TRACEBANK_LOG_LEVEL="debug", TRACEBANK_RETRIEVAL__K="7") as client:
        client.greet().add("t")
        client.call("retrieve", query="t")
        client.close()
        assert not client.garbage
        assert all(message["jsonrpc"] == "2.0" for message in client.messages)


def test_the_log_of_the_engine_is_no_clients_business(here: Place) -> None:
    """A client's standard error stays empty while all is well."""
    with Client(here) as client:
        client.greet().add("t")
        client.close()
        assert client.errors == b""
