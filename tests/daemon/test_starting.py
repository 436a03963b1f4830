"""Many fronts, one engine, whatever lies in the directory from before."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from clients import HELLO, WAIT_S, Client, front_with
from places import Place, wait_for_exit

from tracebank import link, locking
from tracebank.errors import EngineError
from tracebank.locking import LOCK_NAME


def test_twenty_fronts_at_once_on_an_empty_directory_share_one_engine(here: Place) -> None:
    """All are answered, by the same process, and nothing stays behind when it is told to stop."""
    clients = [Client(here) for _ in range(20)]
    for client in clients:
        client.greet()
    assert {client.add(f"t{i}") for i, client in enumerate(clients)} == {f"t{i}" for i in range(20)}
    status = here.status()
    assert (status["sessions"], status["traces"]) == (20, 20)
    assert here.processes(engines=True) == [status["pid"]]
    assert [client.close() for client in clients] == [0] * 20
    assert not any(client.garbage or client.errors for client in clients)
    stopped = here.run("stop")
    assert (stopped.returncode, stopped.stderr) == (0, f"stopped process {status['pid']}\n")
    assert not here.processes()
    assert not here.leftovers()
    assert len(here.starts) == 1


def test_clients_that_come_and_go_at_once_all_leave_with_zero(here: Place) -> None:
    """Whoever closes its input at once needs no engine to leave."""
    clients = [Client(here) for _ in range(5)]
    assert [client.close() for client in clients] == [0] * 5


def test_the_engine_comes_up_when_the_front_that_started_it_is_killed_meanwhile(here: Place) -> None:
    """Clients kill without a word; others may be waiting for that engine."""
    gate = here.site / "gate"
    os.mkfifo(gate)
    here.sabotage(f"print('at the gate', flush=True, file=open({str(here.site / 'told')!r}, 'w')) or open({str(gate)!r}).read()")
    os.mkfifo(here.site / "told")
    with Client(here) as first:
        first.begin("initialize", HELLO)
        assert (here.site / "told").read_text() == "at the gate\n"
        first.process.kill()
        first.wait()
    here.make_peace()
    (here.site / "told").unlink()
    (engine,) = here.processes(engines=True)
    with Client(here) as second:
        call = second.begin("initialize", HELLO)
        gate.write_text("go on")
        assert second.result(call)
        # The second may have started another: the one that came first has the directory, and both clients' calls would work.
        assert here.engine in here.starts
        second.add("t")
    assert engine in here.starts


def test_two_that_start_an_engine_at_the_same_moment_both_get_the_one_that_was_first(here: Place) -> None:
    """The engine that finds the directory taken leaves, and its front connects to the other."""
    gate = here.site / "gate"
    os.mkfifo(gate)
    here.sabotage(f"open({str(gate)!r}).read()")
    environment = {**here.environment, "TRACEBANK_LOG_LEVEL": "info"}
    with Client(here) as client:
        client.begin("initialize", HELLO)
        # While the client's engine waits at the gate, another one takes the directory.
        with gate.open("w"):
            here.make_peace()
            other = subprocess.Popen(
                [sys.executable, "-m", "tracebank.daemon"], env=environment, cwd=here.site, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
            )
            assert other.stdout is not None
            assert other.stdout.readline() == b"ready\n"
        client.add("t")
        assert here.engine == other.pid
        other.terminate()
        other.stdout.close()
        assert other.wait(WAIT_S) == 0


def test_an_engine_that_does_not_come_up_is_not_waited_for_for_ever(here: Place) -> None:
    """The client is told, and the engine that hangs does not stay."""
    gate = here.site / "gate"
    os.mkfifo(gate)
    here.sabotage(f"open({str(gate)!r}).read()")
    with Client(here, command=front_with("link.START_TIMEOUT_S = 0.5")) as client:
        error = client.answer(client.begin("initialize", HELLO))["error"]
        assert "has not come up" in error["message"]
        (pid,) = here.starts
        assert wait_for_exit(pid)
    here.make_peace()


GARBAGE = [
    b"",
    b"{",
    b"\xff\xfe\x00",
    b"[]",
    b"7",
    b"null",
    b'"unix"',
    b'{"unix": 5}',
    b'{"unix": []}',
    b'{"unix": ""}',
    b'{"unix": "\\u0000"}',
]
GARBAGE += [b'{"port": "x"}', b'{"port": 99999999}', b'{"port": -1}', b'{"token": "x"}', b'{"unix": "' + b"x" * 200 + b'"}']


@pytest.mark.parametrize("address", GARBAGE)
def test_whatever_is_written_as_the_address_it_is_no_engine(tmp_path: Path, address: bytes) -> None:
    """Nobody is there, and a new engine may be started."""
    (tmp_path / link.ADDRESS_NAME).write_bytes(address)
    assert link.connect(str(tmp_path), "status") is None


def test_what_a_dead_engine_left_is_in_nobodys_way(here: Place) -> None:
    """Its socket, its address, its lock with its process id, the lock of starting."""
    with Client(here) as client:
        client.greet().add("before")
        killed = here.kill()
    assert here.leftovers() == [link.ADDRESS_NAME, "engine.sock"]
    assert json.loads((here.data_dir / LOCK_NAME).read_text())["pid"] == killed
    assert json.loads(here.run("status", "--json").stdout)["running"] is False
    assert here.run("stop").stderr == "not running\n"
    assert here.exported() == {"before"}
    assert len(here.starts) == 2


@pytest.mark.parametrize("garbage", [b"", b"\x00\xff garbage"])
def test_garbage_in_every_file_of_the_engine_is_in_nobodys_way(here: Place, garbage: bytes) -> None:
    """Only the store is not to be replaced."""
    here.data_dir.mkdir()
    for name in (link.ADDRESS_NAME, LOCK_NAME, link.START_LOCK_NAME, "engine.sock", link.STDERR_NAME, link.LOG_NAME):
        (here.data_dir / name).write_bytes(garbage)
    (here.data_dir / "answers").write_bytes(garbage)
    (here.data_dir / link.LOG_NAME).unlink()
    with Client(here) as client:
        client.greet().add("t")
    assert here.exported() == {"t"}
    assert len(here.starts) == 1


def test_a_lock_file_that_names_a_living_process_kills_nobody(here: Place) -> None:
    """Process ids are used again: that of a dead engine may be anybody's."""
    here.data_dir.mkdir()
    with subprocess.Popen(["sleep", "1000"]) as bystander:
        for mode in ("engine", "in-process"):
            (here.data_dir / LOCK_NAME).write_text(json.dumps({"pid": bystander.pid, "mode": mode, "version": "1", "started_at": 0}))
            assert here.run("stop").stderr == "not running\n"
            with Client(here) as client:
                client.greet().add(mode)
            here.kill()
        assert bystander.poll() is None
        bystander.kill()


@pytest.mark.parametrize(
    ("written", "told", "ended_by"),
    [
        (
            {"pid_space": "another-host pid:[1]"},
            r"process \d+, which holds .*, runs elsewhere \(another-host pid:\[1\], and .*end it there",
            0,
        ),
        ({"pid_space": locking.pid_space()}, "has not ended", signal.SIGTERM),
        ({}, "has not ended", signal.SIGTERM),
    ],
    ids=["elsewhere", "here", "of an older version"],
)
def test_an_engine_that_does_not_listen_is_ended_only_where_its_process_id_counts(
    tmp_path: Path, written: dict[str, str], told: str, ended_by: int
) -> None:
    """In another container on the same volume, or on another host, a stranger has its number."""
    lock = locking.DataDirLock(tmp_path)
    with subprocess.Popen(["sleep", "1000"]) as process:
        lock.acquire({"pid": process.pid, "mode": "in-process", **written})
        with pytest.raises(EngineError, match=told):
            link.ask_to_leave(str(tmp_path), timeout_s=0)
        if not ended_by:
            assert process.poll() is None
            process.kill()
    assert process.returncode == -(ended_by or signal.SIGKILL)
    lock.release()


def test_an_engine_of_another_user_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system does not let us end it."""

    def kill(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    lock = locking.DataDirLock(tmp_path)
    lock.acquire({"pid": 1, "mode": "in-process"})
    with pytest.raises(EngineError, match=r"process 1, which holds .*, may not be ended by you"):
        link.ask_to_leave(str(tmp_path))
    lock.release()


def test_who_only_looks_at_the_lock_keeps_no_engine_from_taking_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fronts look whether there is an engine; on a busy machine one may be held up in the middle of that."""
    looking = os.open(tmp_path / LOCK_NAME, os.O_RDWR | os.O_CREAT)
    fcntl.flock(looking, fcntl.LOCK_SH)
    monkeypatch.setattr(time, "sleep", lambda _: fcntl.flock(looking, fcntl.LOCK_UN))
    assert locking.holder_of(tmp_path) is None
    lock = locking.DataDirLock(tmp_path)
    lock.acquire({"pid": 7})
    assert locking.holder_of(tmp_path) == {"pid": 7}
    lock.release()
    os.close(looking)


def test_a_socket_where_nobody_listens_is_replaced(here: Place) -> None:
    """It is a dead engine's, as long as nobody holds the directory."""
    here.data_dir.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(here.data_dir / "engine.sock"))
    (here.data_dir / link.ADDRESS_NAME).write_text(json.dumps({"unix": str(here.data_dir / "engine.sock"), "token": ""}))
    with Client(here) as client:
        client.greet().add("t")


def test_python_files_in_the_data_directory_are_not_run(here: Place) -> None:
    """The engine works in that directory, and imports nothing from it."""
    here.data_dir.mkdir()
    for name in ("json", "asyncio", "anyio", "mcp"):
        (here.data_dir / f"{name}.py").write_text("raise SystemExit('a stranger was run')")
    with Client(here) as client:
        client.greet().add("t")
