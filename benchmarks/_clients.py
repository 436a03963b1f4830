"""Clients of a real server for the benchmarks: over a front's pipes, and straight on the engine's socket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from tracebank import link

COMMAND = str(Path(sys.executable).with_name("tracebank"))
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "benchmark", "version": "1"}}


class RefusedError(Exception):
    """A call was answered with an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error.get("message"))
        self.retry = bool((error.get("data") or {}).get("retry"))


class Session:
    """One client after its handshake; it calls and waits."""

    def __init__(self, send: Callable[[bytes], object], receive: Callable[[], bytes]) -> None:
        self._send, self._receive = send, receive
        self._id = 0
        started = time.perf_counter()
        self.request("initialize", HELLO)
        self.initialize_ms = (time.perf_counter() - started) * 1e3
        self._say({"method": "notifications/initialized"})

    def _say(self, message: dict[str, Any]) -> None:
        self._send(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def request(self, method: str, params: dict[str, Any]) -> Any:
        """Return the result of a request. Raises: RefusedError, EOFError."""
        self._id += 1
        self._say({"id": self._id, "method": method, "params": params})
        while line := self._receive():
            message = json.loads(line)
            if message.get("id") == self._id and "method" not in message:
                if "error" in message:
                    raise RefusedError(message["error"])
                return message["result"]
        raise EOFError("the server has closed its output")

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool and return its structured content. Raises: RefusedError, EOFError."""
        result = self.request("tools/call", {"name": tool, "arguments": arguments})
        if result.get("isError"):
            raise RefusedError({"message": result["content"][0]["text"]})
        structured: dict[str, Any] = result["structuredContent"]
        return structured


class StdioSession(Session):
    """A client with a server of its own at the end of its pipes. `initialize_ms` counts from the start of the process."""

    def __init__(
        self,
        environment: dict[str, str],
        command: Sequence[str] = (COMMAND,),
        stderr: int | IO[bytes] = subprocess.DEVNULL,
        *,
        in_blocks: bool = True,
    ) -> None:
        started = time.perf_counter()
        # Not in blocks a line is read byte by byte, which takes longer than the call.
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, bufsize=-1 if in_blocks else 0
        )
        super().__init__(self._write, self._read)
        self.initialize_ms = (time.perf_counter() - started) * 1e3

    def _write(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def _read(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def close(self) -> int:
        """End the server's input and return its exit status."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        code = self.process.wait(30)
        self.process.stdout.close()
        return code


def direct(data_dir: str) -> Session:
    """Return a session on the engine's own socket, without a front. The engine must be running."""
    connection = link.connect(data_dir, "mcp")
    assert connection is not None
    return Session(connection.send, connection.receive)


def environment(home: str) -> dict[str, str]:
    """Return the environment of everything that shall use this data directory."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRACEBANK_")}
    return {**kept, "TRACEBANK_DATA_DIR": home}


def run(env: dict[str, str], *arguments: str) -> str:
    """Run the command line and return what it prints."""
    return subprocess.run([COMMAND, *arguments], env=env, check=True, capture_output=True, encoding="utf-8").stdout


def engine_pid(env: dict[str, str]) -> int:
    """Return the process id of the running engine."""
    return int(json.loads(run(env, "status", "--json"))["pid"])


def exported(env: dict[str, str]) -> set[str]:
    """Return the id of every trace that is stored."""
    return {json.loads(line)["trace_id"] for line in run(env, "export").splitlines()}


def wait_until_warm(session: Session) -> None:
    """Wait until the model is loaded and nothing is left to be indexed."""
    while True:
        figures = session.call("stats")
        if figures["embedding"]["state"] != "loading" and not any(figures["index"]["pending"].values()):
            return
        time.sleep(0.2)


def footprint(pid: int) -> dict[str, float]:
    """Return memory, threads and open files of a process (Linux)."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        "rss_mb": round(int(status["VmRSS"].split()[0]) / 1024, 1),
        "threads": int(status["Threads"]),
        "files": len(os.listdir(f"/proc/{pid}/fd")),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return p50, p95 and the largest of some durations in milliseconds."""
    ordered = sorted(values)
    return {
        "p50": round(ordered[len(ordered) // 2], 2),
        "p95": round(ordered[int(len(ordered) * 0.95)], 2),
        "max": round(ordered[-1], 2),
        "n": len(ordered),
    }


def timed_ms(action: Callable[[], object]) -> float:
    """Return how long an action takes, in milliseconds."""
    started = time.perf_counter()
    action()
    return (time.perf_counter() - started) * 1e3
