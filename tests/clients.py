"""Clients that speak to a front over real pipes, line by line: what it says is seen as it is."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

COMMAND = str(shutil.which("tracebank", path=str(Path(sys.executable).parent)))
WAIT_S = 60.0
"""How long a test waits for an answer that comes at once on a fast machine."""

Era = Literal["legacy", "modern"]
ERAS: tuple[Era, ...] = ("legacy", "modern")
Result = TypeVar("Result")
WHO = {"name": "test", "version": "1"}
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": WHO}
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": WHO,
    "io.modelcontextprotocol/clientCapabilities": {},
}


class Place(Protocol):
    """Where a client starts its server: whatever has an environment for it."""

    @property
    def environment(self) -> Mapping[str, str]:
        """All variables of the process."""
        ...


class RefusedError(Exception):
    """A call was answered with a JSON-RPC error, or its tool with one."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(error.get("message"))
        self.error = error

    @property
    def retry(self) -> bool:
        """Whether the client is asked to call again."""
        return bool((self.error.get("data") or {}).get("retry"))


def front_with(settings: str) -> Sequence[str]:
    """Return the command of a front some of whose constants are changed."""
    return [sys.executable, "-c", f"from tracebank import front, link\n{settings}\nfront.main()"]


class Client:
    """A client and the front it has started. Every line of its standard output must be a message."""

    def __init__(
        self, place: Place, era: Era = "legacy", *, command: Sequence[str] = (COMMAND,), umask: int = -1, **variables: str
    ) -> None:
        self.era = era
        self.process = subprocess.Popen(
            command,
            env={**place.environment, **variables}, umask=umask,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.messages: list[dict[str, Any]] = []
        self.garbage: list[bytes] = []
        self.errors = b""
        self._id = 0
        self._news = threading.Condition()
        self._open = True
        self._threads = [threading.Thread(target=read, daemon=True) for read in (self._read_messages, self._read_errors)]
        for thread in self._threads:
            thread.start()

    # -- speaking -----------------------------------------------------------------------------------------------

    def send(self, *messages: Mapping[str, Any] | bytes) -> None:
        """Send messages, or lines as they are, in one write."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"".join(m if isinstance(m, bytes) else json.dumps(m).encode() + b"\n" for m in messages))
        self.process.stdin.flush()

    def message(self, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return a request with an id of its own."""
        self._id += 1
        return {"jsonrpc": "2.0", "id": self._id, "method": method, "params": self._complete(params)}

    def _complete(self, params: Mapping[str, Any] | None) -> dict[str, Any]:
        return {**(params or {}), **({"_meta": ENVELOPE} if self.era == "modern" else {})}

    def begin(self, method: str, params: Mapping[str, Any] | None = None) -> int:
        """Send a request without waiting for its answer. Returns its id."""
        message = self.message(method, params)
        self.send(message)
        return int(message["id"])

    def begin_call(self, tool: str, **arguments: Any) -> int:
        """Call a tool without waiting for its answer. Returns the call's id."""
        return self.begin("tools/call", {"name": tool, "arguments": arguments})

    def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Send a notification."""
        self.send({"jsonrpc": "2.0", "method": method, "params": self._complete(params)})

    def greet(self) -> Client:
        """Say what a client of this era says first. Returns the client."""
        try:
            if self.era == "legacy":
                self.request("initialize", HELLO)
                self.notify("notifications/initialized")
            else:
                self.request("server/discover")
        except BaseException:
            # `with Client(…).greet()` has not been entered yet.
            self.process.kill()
            self.wait()
            raise
        return self

    # -- listening ----------------------------------------------------------------------------------------------

    def answers(self, call_id: int) -> list[dict[str, Any]]:
        """Return every answer to a call that has come so far."""
        return [message for message in self.messages if message.get("id") == call_id and "method" not in message]

    def answer(self, call_id: int | None) -> dict[str, Any]:
        """Wait for the answer to a call and return it."""
        return self._wait(lambda m: "method" not in m and "id" in m and m["id"] == call_id)

    def event(self, method: str) -> dict[str, Any]:
        """Wait for a request or notification from the server and return it."""
        return self._wait(lambda m: m.get("method") == method)

    def _wait(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        with self._news:
            while True:
                for message in self.messages:
                    if wanted(message):
                        return message
                assert self._open, f"the front has closed its output: {self.errors.decode()}"
                assert self._news.wait(WAIT_S), f"no answer; it said {self.messages[-3:]}"

    def wait_for(self, count: int) -> None:
        """Wait until the server has said so many messages in all."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.messages) >= count or not self._open, WAIT_S)
        assert len(self.messages) >= count, f"the front has closed its output: {self.errors.decode()}"

    def result(self, call_id: int) -> dict[str, Any]:
        """Wait for the answer to a call, and return its result. Raises: RefusedError."""
        answer = self.answer(call_id)
        if "error" in answer:
            raise RefusedError(answer["error"])
        result: dict[str, Any] = answer["result"]
        if result.get("isError"):
            raise RefusedError({"message": result["content"][0]["text"]})
        return result

    def request(self, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send a request and return its result. Raises: RefusedError."""
        return self.result(self.begin(method, params))

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool and return its structured content. Raises: RefusedError."""
        structured: dict[str, Any] = self.result(self.begin_call(tool, **arguments))["structuredContent"]
        return structured

    def add(self, trace_id: str, **fields: Any) -> str:
        """Store a trace and return its id. Raises: RefusedError."""
        return str(self.call("add_trace", trace_id=trace_id, task=f"the task of {trace_id}", **fields)["trace_id"])

    def add_again(self, trace_id: str, **fields: Any) -> str:
        """The same, once more where the front asks for that. Raises: RefusedError."""
        return self._again(lambda: self.add(trace_id, **fields))

    def call_again(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool, and once more where the front asks for that. Raises: RefusedError."""
        return self._again(lambda: self.call(tool, **arguments))

    def _again(self, action: Callable[[], Result]) -> Result:
        try:
            return action()
        except RefusedError as error:
            if not error.retry:
                raise
            return action()

    # -- leaving ------------------------------------------------------------------------------------------------

    def close(self) -> int:
        """End the front's input and return its exit status."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        return self.wait()

    def wait(self) -> int:
        """Wait for the front's end and return its exit status."""
        code = self.process.wait(WAIT_S)
        for thread in self._threads:
            thread.join(WAIT_S)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()
        return code

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self.process.returncode is None:
            if kind is not None:
                self.process.kill()
            self.close()
        if kind is None:
            assert not self.garbage
            answered = [message["id"] for message in self.messages if "method" not in message and message["id"] is not None]
            assert len(answered) == len(set(answered)), "a call was answered twice"

    def _read_messages(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                message = json.loads(line)
            except ValueError:
                message = None
            with self._news:
                if isinstance(message, dict):
                    self.messages.append(message)
                else:
                    self.garbage.append(line)
                self._news.notify_all()
        with self._news:
            self._open = False
            self._news.notify_all()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors = self.process.stderr.read()
