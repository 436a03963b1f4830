"""The server at the end of its real pipes, line by line, without the SDK: what it says is seen as it is."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from collections.abc import Mapping
from typing import Any

from homes import COMMAND, WAIT_S, Home

CLIENT = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "wire", "version": "1"}}


class Wire:
    """A started server. `garbage` holds every line of its standard output that is not a JSON object."""

    def __init__(self, home: Home, **variables: str) -> None:
        self.process = subprocess.Popen(
            [COMMAND], env={**home.environment, **variables}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.garbage: list[bytes] = []
        self.errors = b""
        self._messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._id = 0
        self._threads = [threading.Thread(target=read, daemon=True) for read in (self._read_messages, self._read_errors)]
        for thread in self._threads:
            thread.start()

    def greeted(self) -> Wire:
        """Say what a client says first."""
        try:
            self.request("initialize", CLIENT)
            self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        except BaseException:
            self.__exit__()
            raise
        return self

    def send(self, message: Mapping[str, Any] | bytes) -> None:
        """Send a message, or a line as it is."""
        assert self.process.stdin is not None
        self.process.stdin.write((message if isinstance(message, bytes) else json.dumps(message).encode()) + b"\n")
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any] | None:
        """Return the next message, None when the server has closed its output."""
        return self._messages.get(timeout=WAIT_S)

    def begin(self, method: str, params: Mapping[str, Any] | None = None) -> int:
        """Send a request without waiting for its answer. Returns its id."""
        self._id += 1
        self.send({"jsonrpc": "2.0", "id": self._id, "method": method, "params": dict(params or {})})
        return self._id

    def request(self, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send a request and return its answer."""
        wanted = self.begin(method, params)
        while (message := self.receive()) is not None:
            if message.get("id") == wanted:
                return message
        raise EOFError(self.errors.decode())

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool and return its structured content; the call must succeed."""
        answer = self.request("tools/call", {"name": tool, "arguments": arguments})
        assert not answer.get("error"), answer
        assert not answer["result"]["isError"], answer
        structured: dict[str, Any] = answer["result"]["structuredContent"]
        return structured

    def insist(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool, and once more where the answer says that the engine died before it could be given."""
        answer = self.request("tools/call", {"name": tool, "arguments": arguments})
        if "error" in answer:
            assert answer["error"]["data"]["retry"] is True, answer
            return self.call(tool, **arguments)
        structured: dict[str, Any] = answer["result"]["structuredContent"]
        return structured

    def close(self) -> int:
        """End the server's input and return its exit status."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        return self.wait()

    def wait(self) -> int:
        """Wait for the server's end and return its exit status."""
        code = self.process.wait(WAIT_S)
        for thread in self._threads:
            thread.join(WAIT_S)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        return code

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
            self.wait()

    def _read_messages(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                message = json.loads(line)
            except ValueError:
                message = None
            if isinstance(message, dict):
                self._messages.put(message)
            else:
                self.garbage.append(line)
        self._messages.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors = self.process.stderr.read()
