"""How fronts reach the engine: Unix socket, its short path, loopback TCP; and who may not."""

from __future__ import annotations

import json
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clients import Client, Era
from places import Place, place

from tracebank import link
from tracebank.errors import EngineError


@pytest.fixture
def tcp(tmp_path: Path) -> Iterator[Place]:
    """Return a place whose engine is reached by TCP."""
    with place(tmp_path, TRACEBANK_TRANSPORT="tcp") as opened:
        yield opened


def mode(path: Path) -> int:
    """Return the permissions of a file."""
    return stat.S_IMODE(path.lstat().st_mode)


def test_everything_in_the_data_directory_is_its_owners_alone(here: Place) -> None:
    """Whatever the umask of the client that starts the engine."""
    with Client(here, umask=0) as client:
        client.greet().add("t")
        client.call("retrieve", query="t")
        assert mode(here.data_dir) == 0o700
        assert [mode(here.data_dir / name) for name in ("engine.sock", "engine.address", "tracebank.sqlite3")] == [0o600] * 3
        others = {str(path): oct(mode(path)) for path in here.data_dir.rglob("*") if mode(path) & 0o077}
        assert not others


def test_a_directory_that_was_open_before_keeps_its_files_closed(here: Place) -> None:
    """Its permissions are the user's business, the memories are ours."""
    here.data_dir.mkdir(mode=0o755)
    here.data_dir.chmod(0o755)
    with Client(here, umask=0o022) as client:
        client.greet().add("t")
        open_files = [str(path) for path in here.data_dir.iterdir() if mode(path) & 0o077]
        assert not open_files


def test_a_long_data_directory_gets_a_short_socket(tmp_path: Path) -> None:
    """Unix sockets have paths of about 100 bytes."""
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    long = tmp_path / ("d" * 100) / ("e" * 100)
    with place(tmp_path / "place", data_dir=long, XDG_RUNTIME_DIR=str(runtime)) as here:
        with Client(here) as client:
            client.greet().add("t")
            (path,) = runtime.iterdir()
            assert here.address["unix"] == str(path)
            assert stat.S_ISSOCK(path.stat().st_mode)
            assert mode(path) == 0o600
        assert here.exported() == {"t"}
        assert here.run("stop").returncode == 0
        assert not list(runtime.iterdir())


def test_a_runtime_directory_that_there_is_not_is_not_missed(tmp_path: Path) -> None:
    """In a container or a scheduled job it may be named all the same."""
    with (
        tempfile.TemporaryDirectory() as temporary,
        place(tmp_path / "place", data_dir=tmp_path / ("d" * 100), XDG_RUNTIME_DIR="/proc/nowhere", TMPDIR=temporary) as here,
    ):
        assert here.run("add", "a task").returncode == 0
        assert Path(here.address["unix"]).is_relative_to(temporary)


@pytest.mark.parametrize(("runtime", "told"), [("{long}", "cannot be a socket: "), ("", "there is no place for a socket beside ")])
def test_where_there_can_be_no_socket_one_line_says_so(tmp_path: Path, runtime: str, told: str) -> None:
    """And nothing is tried again: it would end the same way."""
    (long := tmp_path / ("r" * 100)).mkdir(mode=0o700)
    (tmp_path / f"tracebank-{os.getuid()}").touch()
    named = {"XDG_RUNTIME_DIR": runtime.format(long=long), "TMPDIR": str(tmp_path)}
    with place(tmp_path / "place", data_dir=tmp_path / ("d" * 100), **named) as here:
        done = here.run("add", "a task")
        (line,) = done.stderr.splitlines()
        assert (done.returncode, done.stdout) == (1, "")
        assert told in line
        assert len(here.starts) == 1


def test_a_runtime_directory_that_others_can_enter_is_not_used(tmp_path: Path) -> None:
    """They could put their own socket there."""
    runtime = tmp_path / "run"
    runtime.mkdir()
    runtime.chmod(0o755)
    with place(tmp_path / "place", data_dir=tmp_path / ("d" * 100), XDG_RUNTIME_DIR=str(runtime)) as here:
        here.expected_errors.append("must belong to you alone")
        done = here.run("add", "a task")
        assert done.returncode == 1
        assert f"{runtime} must belong to you alone" in done.stderr


def test_tcp_works_end_to_end(tcp: Place, era: Era) -> None:
    """Where there are no Unix sockets: a client, its engine killed, the command line, stop."""
    with Client(tcp, era) as client:
        client.greet().add("before")
        assert tcp.address.keys() == {"port", "token"}
        assert mode(tcp.data_dir / link.ADDRESS_NAME) == 0o600
        assert not (tcp.data_dir / "engine.sock").exists()
        first = tcp.address["token"]
        tcp.kill()
        client.add_again("after")
        assert tcp.address["token"] != first
    assert tcp.exported() == {"before", "after"}
    assert tcp.run("stop").returncode == 0
    assert not tcp.leftovers()


def test_whoever_does_not_know_the_token_is_refused(tcp: Place) -> None:
    """He is told nothing, and nothing of what he says is read."""
    with Client(tcp) as client:
        client.greet()
        known = tcp.address
        for token in ("", "x", known["token"][:-1], known["token"] + "x", "ünï", None, 7, [known["token"]]):
            assert said_to(known["port"], {"role": "status", "token": token}) == {"error": "this is not a greeting that Tracebank knows"}
        for line in (b"GET / HTTP/1.1\r\n", b"[]\n", b"null\n", b"\xff\n", b"7\n"):
            assert (said_to(known["port"], line) or {"error": ""}).keys() == {"error"}
        assert said_to(known["port"], {"role": "status", "token": known["token"]})["running"]
        client.add("t")


def said_to(port: int, greeting: dict[str, Any] | bytes) -> Any:
    """Return what the engine answers to a greeting; None where it hangs up."""
    line = greeting if isinstance(greeting, bytes) else json.dumps(greeting).encode() + b"\n"
    with socket.create_connection(("127.0.0.1", port)) as sock, sock.makefile("rb") as reader:
        sock.sendall(line)
        return json.loads(reader.readline() or b"null")


def test_a_token_is_not_told_to_whoever_has_the_port_of_a_dead_engine(tmp_path: Path) -> None:
    """Nobody holds the directory, so it is not the engine that listens there."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        (tmp_path / link.ADDRESS_NAME).write_text(json.dumps({"port": stranger.getsockname()[1], "token": "secret"}))
        assert link.connect(str(tmp_path), "status") is None
        stranger.setblocking(False)
        with pytest.raises(BlockingIOError):
            stranger.accept()


def test_an_unknown_role_is_refused(shared: Place) -> None:
    """Say, of a newer front."""
    with Client(shared) as client:
        client.greet()
        with pytest.raises(EngineError, match="unknown role 'friend'"):
            link.connect(str(shared.data_dir), "friend")


def test_greetings_that_are_none_are_hung_up_on(shared: Place) -> None:
    """And other clients do not notice."""
    with Client(shared) as client:
        client.greet()
        for line in (b"", b"hello\n", b"x" * 200_000, b'{"role": "mcp", "token": "", "settings": 7}\n'):
            with socket.socket(socket.AF_UNIX) as sock, sock.makefile("rb") as reader:
                sock.connect(shared.address["unix"])
                sock.sendall(line)
                if not line.endswith(b"}\n"):
                    sock.shutdown(socket.SHUT_WR)
                    assert reader.read() in (b"", b'{"error": "this is not a greeting that Tracebank knows"}\n')
        client.call("stats", section="engine")


def test_the_data_directory_may_be_relative_and_may_hold_a_tilde(tmp_path: Path) -> None:
    """It is the same directory for front, engine and command line, wherever they run."""
    with place(tmp_path) as here:
        relative = os.path.relpath(here.data_dir)
        with Client(here, TRACEBANK_DATA_DIR=relative) as client:
            client.greet().add("t")
            assert here.status()["data_dir"] == str(here.data_dir)
        done = here.run("export", HOME=str(tmp_path), TRACEBANK_DATA_DIR="~/data")
        assert [json.loads(line)["trace_id"] for line in done.stdout.splitlines()] == ["t"]
        assert len(here.starts) == 1


def test_somebody_who_says_nothing_is_cut_off_when_the_engine_leaves(here: Place) -> None:
    """That is no fault, and nothing is logged as one."""
    with Client(here) as client:
        client.greet().add("t")
        with socket.socket(socket.AF_UNIX) as silent:
            silent.connect(str(here.data_dir / "engine.sock"))
            # Whoever came later has been accepted later.
            here.status()
            client.close()
            assert here.run("stop").returncode == 0
            assert silent.recv(1) == b""
