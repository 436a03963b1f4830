"""The engine dies under its clients, at every point: nothing that was acknowledged is lost, and nobody waits for ever."""

from __future__ import annotations

import io
import json
import os
import signal
from pathlib import Path

import pytest
from clients import HELLO, Client, Era, RefusedError, front_with
from places import Place, wait_for_exit, wait_for_file, written

from tracebank import front, link, remote

# Each ends the engine once: at a point of its start, or when it comes to a trace whose id and content are FATAL.
WHILE_STARTING = {
    "before it has the directory": "die()",
    "opening the store": "import tracebank.store as s; s.Store.open = lambda *_: die()",
    "listening, not ready": "import asyncio; asyncio.start_unix_server = lambda *_, **__: die()",
}
WHILE_WORKING = {
    "in a commit": """
from tracebank.store import traces
upsert = traces.upsert
def fatal(db, trace, *args, **options):
    added = upsert(db, trace, *args, **options)
    if trace.content == FATAL:
        die()
    return added
traces.upsert = fatal
""",
    "between commit and answer": """
from tracebank.intake import Intake
put = Intake._put
async def fatal(self, items, *args):
    added = await put(self, items, *args)
    if items[0][0].content == FATAL:
        die()
    return added
Intake._put = fatal
""",
    "in the middle of its answer": """
import asyncio
write = asyncio.StreamWriter.write
def fatal(self, line):
    if FATAL.encode() in line:
        write(self, line[:len(line) // 2])
        die()
    write(self, line)
asyncio.StreamWriter.write = fatal
""",
    "before it writes to the index": """
from tracebank.index import TantivyWordIndex as Index
apply = Index.apply
def fatal(self, namespace, upserts, removals):
    if any(FATAL in trace.text for trace in upserts):
        die()
    apply(self, namespace, upserts, removals)
Index.apply = fatal
""",
    "between index and outbox": """
from tracebank.index import TantivyWordIndex as Index
apply = Index.apply
def fatal(self, namespace, upserts, removals):
    apply(self, namespace, upserts, removals)
    if any(FATAL in trace.text for trace in upserts):
        die()
Index.apply = fatal
""",
}


def test_engines_killed_while_they_start_are_followed_by_others(here: Place, era: Era) -> None:
    """The client does not even notice."""
    here.sabotage(*WHILE_STARTING.values())
    with Client(here, era, command=front_with("link.MAX_DEATHS = 9")) as client:
        client.greet().add("t")
    assert len(here.starts) == len(WHILE_STARTING) + 1
    assert here.stored() == {"t"}


def test_engines_killed_at_work_have_lost_nothing_that_they_acknowledged(here: Place, era: Era) -> None:
    """The call is answered, or with an error that says to retry; then it works, and is stored once."""
    here.sabotage(*(f"FATAL = {point!r}\n{code}" for point, code in WHILE_WORKING.items()))
    with Client(here, era) as client:
        client.greet()
        for number, point in enumerate(WHILE_WORKING):
            client.add_again(f"before {number}")
            engine = here.engine
            client.add_again(point, content=point)
            # Where it dies after its answer, whoever calls next may be asked to retry.
            assert wait_for_exit(engine), point
        client.add_again("after")
        assert client.request("tools/list")["tools"]
        found = client.call("retrieve", query="the task", k=50)["results"]
        wanted = {*WHILE_WORKING, *(f"before {number}" for number in range(len(WHILE_WORKING))), "after"}
        assert sorted(memory["trace_id"] for memory in found) == sorted(wanted)
        assert here.exported() == wanted
    assert len(here.starts) == len(WHILE_WORKING) + 1


def test_a_command_whose_engine_dies_in_the_middle_of_its_answer_says_so(here: Place) -> None:
    """In one line, and the next one gets an answer of the next engine."""
    here.sabotage(f"FATAL = 'fatal'\n{WHILE_WORKING['in the middle of its answer']}")
    done = here.run("add", "t", "--id", "fatal")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"tracebank: {remote.ENGINE_ENDED}\n")
    assert here.run("add", "t", "--id", "fatal").stdout == "unchanged fatal\n"


@pytest.mark.parametrize(("fatal", "stored", "place"), [(1, 0, "the beginning"), (101, 100, "line 101"), (201, 200, "line 201")])
def test_an_import_whose_engine_dies_says_where_to_go_on(here: Place, tmp_path: Path, fatal: int, stored: int, place: str) -> None:
    """What is stored already would come twice, where it has no id. Blank lines are counted as an editor counts them."""
    here.sabotage(f"FATAL = 'fatal'\n{WHILE_WORKING['between commit and answer']}")
    lines = [json.dumps({"task": "t", "content": "fatal" if number == fatal else ""}) for number in range(1, 203)]
    file = tmp_path / "traces.jsonl"
    file.write_text("\n" + "\n".join(lines))
    done = here.run("import", str(file))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{stored} traces stored, up to {place} of {file}, perhaps with some of the next 100 lines." in done.stderr
    assert len(here.stored()) == min(stored + 100, 202)


def test_calls_in_flight_at_a_kill_are_answered_and_can_be_repeated(here: Place, era: Era) -> None:
    """Many at once, of one session and of others: each is acknowledged and kept, or to be retried."""
    with Client(here, era) as client, Client(here, era) as other:
        client.greet()
        other.greet()
        ids = [f"t{i}" for i in range(60)]
        calls = [client.message("tools/call", {"name": "add_trace", "arguments": {"task": "t", "trace_id": name}}) for name in ids]
        client.send(*calls)
        others = other.begin_call("add_trace", task="t", trace_id="other")
        client.answer(calls[5]["id"])
        killed = here.kill()
        answers = [client.answer(call["id"]) for call in calls] + [other.answer(others)]
        refused = [answer["error"] for answer in answers if "error" in answer]
        assert all(error["code"] == -32001 and error["data"] == {"retry": True} for error in refused)
        acknowledged = {answer["result"]["structuredContent"]["trace_id"] for answer in answers if "result" in answer}
        assert acknowledged <= here.exported()
        assert here.engine != killed
        for name in {*ids, "other"} - acknowledged:
            client.add(name)
        assert here.exported() == {*ids, "other"}
    assert len(here.starts) == 2


def test_the_first_calls_of_a_session_are_repeated_by_the_front(here: Place, era: Era) -> None:
    """They change nothing, and a client would give up if they failed."""
    here.sabotage("import tracebank.protocol.session as s; s.serve_dual_era_loop = lambda *_, **__: die()")
    with Client(here, era) as client:
        calls = [client.begin("initialize", HELLO)] if era == "legacy" else [client.begin("server/discover")]
        calls.append(client.begin("tools/list"))
        assert all(client.result(call) for call in calls)
        client.add("t")
    assert len(here.starts) == 2


# Where the engine meets a call that only reads.
AT_A_READ = {
    "tool": "from tracebank.engine import Engine; Engine.retrieve = lambda *_: die()",
    "resource": "from tracebank.engine import Engine; Engine.trace = lambda *_: die()",
}


def read(client: Client, kind: str) -> str:
    """Read what `t` says, as a tool or as a resource."""
    if kind == "tool":
        return str(client.call("retrieve", query="the task of t")["results"][0]["trace_id"])
    return str(json.loads(client.request("resources/read", {"uri": "trace://t"})["contents"][0]["text"])["trace_id"])


@pytest.mark.parametrize("kind", AT_A_READ)
def test_a_call_that_only_reads_is_repeated_by_the_front(here: Place, era: Era, kind: str) -> None:
    """It changes nothing, so nobody has to hear that an engine has died."""
    here.sabotage(AT_A_READ[kind])
    with Client(here, era) as client:
        client.greet().add("t")
        wait_for_file(written(here))
        assert read(client, kind) == "t"
    assert len(here.starts) == 2


@pytest.mark.parametrize("kind", AT_A_READ)
def test_a_call_that_engines_die_of_is_repeated_once(here: Place, kind: str) -> None:
    """The client hears of it then, and goes on with what it can do."""
    here.sabotage(AT_A_READ[kind], AT_A_READ[kind])
    with Client(here) as client:
        client.greet().add("t")
        wait_for_file(written(here))
        with pytest.raises(RefusedError, match="Retry this call") as refused:
            read(client, kind)
        assert refused.value.retry
        assert len(here.starts) == 2
        assert read(client, kind) == "t"
    assert len(here.starts) == 3


@pytest.mark.parametrize("params", [None, [], {}, {"name": None}, {"name": ["retrieve"]}, {"name": {"retrieve": 1}}, {"name": "add_trace"}])
def test_a_call_of_no_tool_that_is_known_to_read_is_not_repeated(params: object) -> None:
    """Whatever stands where the name should: the front checks nothing of what it passes on."""
    served = front.Front("nowhere", io.BytesIO(), io.BytesIO())
    assert not served._is_repeated("1", {"id": 1, "method": "tools/call", "params": params}, {"retrieve"})
    assert served._is_repeated("1", {"id": 1, "method": "tools/call", "params": {"name": "retrieve"}}, {"retrieve"})


# The front learns of its engine's end when it has tried to send the next call, and not before.
HEARS_LATE = """
import threading
receive, forward, tried = link.Connection.receive, front.Front._forward, threading.Event()
def late(connection):
    line = receive(connection)
    if not line:
        tried.clear()
        open({path!r}, "w").close()
        assert tried.wait(60)
    return line
def forwarded(self, *arguments):
    forward(self, *arguments)
    tried.set()
link.Connection.receive, front.Front._forward = late, forwarded
"""


def test_a_call_that_no_engine_has_had_goes_to_the_next_one(here: Place, era: Era, tmp_path: Path) -> None:
    """Whatever it changes: the one that has just died cannot have done it."""
    with Client(here, era, command=front_with(HEARS_LATE.format(path=str(tmp_path / "it has ended")))) as client:
        client.greet().add("before")
        here.kill()
        wait_for_file(tmp_path / "it has ended")
        assert client.add("after") == "after"
    assert here.exported() == {"before", "after"}
    assert len(here.starts) == 2


# The front learns of its engine's end between trying to send a call and knowing that it could not.
HEARS_MEANWHILE = """
import threading
send, receive, leave = link.Connection.send, link.Connection.receive, front.Front._engine_left
failed, left = threading.Event(), threading.Event()
def sent(connection, line):
    try:
        send(connection, line)
    except OSError:
        failed.set()
        left.wait(0.5)
        raise
def received(connection):
    line = receive(connection)
    assert line or failed.wait(60)
    return line
def engine_left(self, connection):
    leave(self, connection)
    left.set()
link.Connection.send, link.Connection.receive, front.Front._engine_left = sent, received, engine_left
"""


def test_a_call_that_could_not_be_sent_when_its_engine_left_goes_to_the_next_one(here: Place, era: Era) -> None:
    """It is not taken for one that was under way."""
    with Client(here, era, command=front_with(HEARS_MEANWHILE)) as client:
        client.greet().add("before")
        here.kill()
        assert client.add("after") == "after"
    assert here.exported() == {"before", "after"}


def test_an_engine_that_dies_while_nobody_calls_is_replaced_at_the_next_call(here: Place) -> None:
    """Not before: an engine that nobody needs is not started."""
    with Client(here) as client:
        client.greet().add("before")
        here.kill()
        assert not here.processes(engines=True)
        assert client.add_again("after") == "after"
    assert len(here.starts) == 2


def test_a_call_repeated_with_the_same_id_is_one_trace(here: Place) -> None:
    """Clients repeat what they got no answer to; the answer that was lost on the way had stored it already."""
    here.sabotage(f"FATAL = 'fatal'\n{WHILE_WORKING['between commit and answer']}")
    with Client(here) as client:
        client.greet()
        with pytest.raises(RefusedError, match="Retry this call") as refused:
            client.add("t", content="fatal")
        assert refused.value.retry
        assert client.call("add_trace", trace_id="t", task="the task of t", content="fatal")["status"] == "unchanged"


LOOPS = {
    "while it starts": "print('no memory left', file=sys.stderr, flush=True); os.kill(os.getpid(), signal.SIGKILL)",
    "when a client comes": """
import tracebank.protocol.session as session
def fatal(*args, **options):
    print('no memory left', file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
session.serve_dual_era_loop = fatal
""",
}


@pytest.mark.parametrize("loop", LOOPS)
def test_an_engine_that_dies_again_and_again_is_given_up_with_the_end_of_its_log(here: Place, loop: str) -> None:
    """It is not started for ever: calls are answered with what is known, until it is tried again after a while."""
    here.sabotage(LOOPS[loop])
    with Client(here, command=front_with("front.PAUSE_S = 1e9; front.MAX_FUTILE_DEATHS = 2")) as client:
        for attempt in (client.begin("initialize", HELLO), client.begin("tools/list")):
            with pytest.raises(RefusedError, match="no memory left") as refused:
                client.result(attempt)
            assert not refused.value.retry
        starts = len(here.starts)
        assert starts == (2 if loop == "when a client comes" else link.MAX_DEATHS)
        here.make_peace()
        with pytest.raises(RefusedError, match="no memory left"):
            client.call("stats")
        assert len(here.starts) == starts


@pytest.mark.parametrize("loop", LOOPS)
def test_an_engine_that_was_given_up_is_started_again_when_the_cause_is_gone(here: Place, loop: str) -> None:
    """The client goes on where it was, without beginning anew."""
    here.sabotage(LOOPS[loop])
    with Client(here, command=front_with("front.PAUSE_S = 0; front.MAX_FUTILE_DEATHS = 2")) as client:
        with pytest.raises(RefusedError, match="no memory left"):
            client.request("initialize", HELLO)
        here.make_peace()
        client.greet().add("t")
    assert here.exported() == {"t"}


def test_a_store_that_is_not_one_is_told_to_client_and_command_line_and_left_alone(here: Place) -> None:
    """Every start would end the same way: it is tried once, and the message says what to do."""
    here.expected_errors.append("is not a SQLite file")
    here.data_dir.mkdir()
    store = here.data_dir / "tracebank.sqlite3"
    store.write_bytes(b"a shopping list" * 100)
    with Client(here) as client:
        with pytest.raises(RefusedError, match="is not a SQLite file; it is left as it is: move it away") as refused:
            client.request("initialize", HELLO)
        assert not refused.value.retry
        assert len(here.starts) == 1
        assert "is not a SQLite file" not in client.errors.decode()  # it is read when the front has ended
    assert "is not a SQLite file" in client.errors.decode()
    done = here.run("export")
    assert (done.returncode, done.stdout) == (1, "")
    assert "is not a SQLite file" in done.stderr
    assert store.read_bytes() == b"a shopping list" * 100


def test_a_front_whose_standard_error_is_closed_goes_on_after_a_failure(here: Place) -> None:
    """Nobody may be reading what it has to say there."""
    here.sabotage(LOOPS["while it starts"])
    with Client(here, command=front_with("import os; os.close(2); front.PAUSE_S = 0")) as client:
        with pytest.raises(RefusedError, match="no memory left"):
            client.request("initialize", HELLO)
        here.make_peace()
        client.greet().add("t")


def test_an_engine_that_is_stopped_for_a_moment_keeps_its_clients_waiting_and_nothing_else(here: Place) -> None:
    """SIGSTOP and SIGCONT, as by a debugger or a laptop's lid."""
    with Client(here) as client:
        client.greet().add("before")
        engine = here.engine
        os.kill(engine, signal.SIGSTOP)
        call = client.begin_call("add_trace", task="while it sleeps", trace_id="t")
        os.kill(engine, signal.SIGCONT)
        assert client.result(call)
    assert len(here.starts) == 1


def test_status_tells_of_an_engine_that_does_not_answer(here: Place) -> None:
    """It has the directory, so it is running; how many clients and traces it has nobody else can say."""
    with Client(here) as client:
        client.greet()
        engine = here.status()
        os.kill(engine["pid"], signal.SIGSTOP)
        told, shown = json.loads(here.run("status", "--json").stdout), here.run("status").stdout
        os.kill(engine["pid"], signal.SIGCONT)
    assert told.pop("uptime_s") > 0
    assert told == {name: engine[name] for name in ("running", "pid", "version", "data_dir")} | {"sessions": None, "traces": None}
    assert shown.startswith(f"running: process {engine['pid']}, version {engine['version']}, which does not answer: ")
