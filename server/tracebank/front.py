"""The command `tracebank`: a thin front between one client and the engine that all clients of a data directory share.

It copies lines both ways, and starts the engine where none answers. With arguments it is the command line.

Standard library only, and little of it: this is what every client pays for. What it knows of MCP:

- Until the engine is there it answers `initialize`, `server/discover` and `tools/list` with what an engine of the same
  version and settings wrote down, and repeats the client's `initialize` to the engine afterwards.
- When the engine dies it answers the calls in flight that may have changed something with an error that says to retry, starts
  another engine as soon as there is something to send, and repeats the handshake and, once, the other calls.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time

from tracebank import early, link
from tracebank.errors import SettingsError, TracebankError
from tracebank.places import default_data_dir

TYPE_CHECKING = False  # as in typing, which would cost every client 2 ms and 0.7 MB
if TYPE_CHECKING:
    from typing import Any, BinaryIO

# JSON-RPC error codes: what the specification gives to servers, "invalid request" and "parse error".
RETRY_CODE, FAILED_CODE, INVALID_CODE, PARSE_CODE = -32001, -32002, -32600, -32700
# So often may the engine die without having answered anything, before we stop starting it for a while.
MAX_FUTILE_DEATHS = 5
PAUSE_S = 15.0
# How long calls in flight may go on after the client has closed its end.
FAREWELL_S = 10.0
INITIALIZED, CANCELLED = "notifications/initialized", "notifications/cancelled"
# Calls that change nothing, beside tools that say so of themselves.
READING = ("ping", "resources/list", "resources/templates/list", "resources/read", "prompts/list", "prompts/get")


def main() -> None:
    """Run the command: serve a client, or hand over to the command line."""
    if wrong := _wrong_place():
        print(f"tracebank: {wrong}", file=sys.stderr)
        sys.exit(2)
    elif len(sys.argv) > 1 or sys.stdin is None or sys.stdin.isatty():
        from tracebank.cli import app

        app()
    elif os.environ.get("TRACEBANK_ENGINE") == "in-process":
        from tracebank import blas

        blas.stay_in_one_thread()
        from tracebank.in_process import serve_one_client

        serve_one_client()
    else:
        try:
            data_dir = default_data_dir()
        except SettingsError as error:
            sys.exit(f"tracebank: {error}")
        code = Front(data_dir, sys.stdin.buffer, sys.stdout.buffer).run()
        # The other thread may be blocked for good on a client that does not read.
        os._exit(code)


def _wrong_place() -> str:
    """Return what is wrong with the variables that only say where the engine runs: a typo must not start another kind of engine."""
    for name, known in (("TRACEBANK_ENGINE", ("shared", "in-process")), (link.TRANSPORT_VARIABLE, ("unix", "tcp"))):
        if os.environ.get(name, "") not in ("", *known):
            return f"{name} must be one of {', '.join(known)}, or not set, not {os.environ[name]!r}"
    return ""


class Front:
    """One client and its connection to the engine. Two threads: the client's lines, and the engine's."""

    def __init__(self, data_dir: str, source: BinaryIO, sink: BinaryIO) -> None:
        self._data_dir = data_dir
        self._source, self._sink = source, sink
        self._writing = threading.Lock()
        # Held from a call's noting until it is known whether it could be sent: only then can it be said who has had it.
        self._sending = threading.Lock()
        # Guards everything below, and tells of its changes.
        self._state = threading.Condition()
        self._connection: link.Connection | None = None
        self._wanted = True
        self._failure = ""
        self._retry_at = 0.0
        # Calls by id, as JSON.
        self._in_flight: dict[str, dict[str, Any]] = {}
        # Those of them that another engine was asked before: it may be they that it died of.
        self._repeated: set[str] = set()
        # And those that no engine has had.
        self._unsent: set[str] = set()
        # What every engine of this session must hear first, and the id whose answer the client has already.
        self._handshake: list[dict[str, Any]] = []
        self._swallow: str | None = None
        self._futile_deaths = 0

    def run(self) -> int:
        """Serve until the client closes its end. Returns the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os._exit(0))
        pump = threading.Thread(target=self._pump, name="engine", daemon=True)
        pump.start()
        try:
            for line in self._source:
                if line.strip():
                    self._from_client(line if line.endswith(b"\n") else line + b"\n")
        except OSError:
            pass
        self._farewell()
        return 0

    # -- the client's lines -------------------------------------------------------------------------------------

    def _from_client(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            self._tell(_error(None, PARSE_CODE, "this line is not valid JSON"))
            return
        messages = [m for m in (message if isinstance(message, list) else [message]) if isinstance(m, dict)]
        if len(line) > link.MAX_LINE_BYTES:
            self._refuse(_calls(messages), FAILED_CODE, f"a message must be at most {link.MAX_LINE_BYTES:,} bytes, not {len(line):,}")
        elif link.is_too_deep(message):
            # It may have to be written again, for another engine.
            self._refuse(_calls(messages) or [{"id": None}], INVALID_CODE, f"a message must be nested at most {link.MAX_DEPTH} deep")
        elif not (isinstance(message, dict) and (self._answer_early(message) or self._keep(message))):
            self._forward(line, messages)

    def _answer_early(self, message: dict[str, Any]) -> bool:
        """Answer from what an engine wrote down, if ours is not there yet. Returns whether that was possible."""
        if message.get("method") not in early.METHODS or not _calls([message]):
            return False
        with self._state:
            if self._connection is not None or self._failure:
                return False
            result = early.written_down(self._data_dir, message)
            if result is None:
                return False
            if message["method"] == "initialize":
                # The engine is to hear it, too.
                self._handshake = [message]
        self._tell({"jsonrpc": "2.0", "id": message["id"], "result": result})
        return True

    def _keep(self, message: dict[str, Any]) -> bool:
        """Keep the end of the handshake for an engine that is not there yet. Returns whether it was that."""
        with self._state:
            kept = message.get("method") == INITIALIZED and self._connection is None and bool(self._handshake)
            if kept:
                self._handshake.append(message)
        return kept

    def _forward(self, line: bytes, messages: list[dict[str, Any]]) -> None:
        with self._sending:
            failure = self._send(line, messages)
        if failure:
            self._refuse(_calls(messages), FAILED_CODE, failure)

    def _send(self, line: bytes, messages: list[dict[str, Any]]) -> str:
        """Send what the engine is to hear, once there is one. Returns why there is none."""
        with self._state:
            if self._failure and time.monotonic() >= self._retry_at:
                self._failure = ""
            while self._connection is None and not self._failure:
                self._wanted = True
                self._state.notify_all()
                self._state.wait()
            connection, failure = self._connection, self._failure
            if connection is not None:
                self._note(messages)
        if connection is None:
            return failure
        try:
            connection.send(line)
        except OSError:
            # The engine has died, and its thread sees to the calls in flight. No engine has had these, whatever they change.
            with self._state:
                self._unsent |= self._in_flight.keys() & {json.dumps(call["id"]) for call in _calls(messages)}
        return ""

    def _note(self, messages: list[dict[str, Any]]) -> None:
        """Note what the engine owes us, and what the next one has to hear again."""
        for call in _calls(messages):
            self._in_flight[json.dumps(call["id"])] = call
            if call["method"] == "initialize":
                self._handshake = [call]
        for message in messages:
            params = message.get("params")
            if message.get("method") == INITIALIZED:
                self._handshake.append(message)
            elif message.get("method") == CANCELLED and isinstance(params, dict):
                # It will not be answered.
                self._repeated.discard(key := json.dumps(params.get("requestId")))
                self._in_flight.pop(key, None)

    # -- the engine's lines -------------------------------------------------------------------------------------

    def _pump(self) -> None:
        while True:
            with self._state:
                while not self._wanted:
                    self._state.wait()
            try:
                if self._connect():
                    self._copy()
            except Exception as error:  # without this thread the client would wait for ever
                self._fail(f"Tracebank's front has failed: {error!r}")

    def _connect(self) -> bool:
        """Connect, starting the engine if need be, and repeat the handshake. Returns whether it worked."""
        if self._futile_deaths >= MAX_FUTILE_DEATHS:
            self._futile_deaths = 0
            self._fail(f"Tracebank's engine ends again and again; its log ends with: {link.log_tail(self._data_dir)}")
            return False
        try:
            connection = link.connect_or_start(self._data_dir, "mcp")
        except (TracebankError, OSError) as error:
            self._fail(f"Tracebank's engine cannot be started: {error}")
            return False
        for note in connection.about.get("notes", ()):
            _warn(note)
        with self._state:
            try:
                for message in self._opening():
                    connection.send(_line(message))
            except OSError:
                self._futile_deaths += 1
                connection.close()
                return False
            self._connection = connection
            self._state.notify_all()
        return True

    def _opening(self) -> list[dict[str, Any]]:
        """Return what a new engine must hear before all else: the handshake, and calls that are still to be answered."""
        first = json.dumps(self._handshake[0]["id"]) if self._handshake else None
        # Where the client has its answer, it is to get no second one.
        self._swallow = None if first in self._in_flight else first
        return self._handshake + [call for key, call in self._in_flight.items() if key != first]

    def _fail(self, failure: str) -> None:
        """Answer what waits with the failure, and so what comes in the next seconds."""
        # First of all: whoever is told in an answer may end this process at once.
        _warn(failure)
        with self._state:
            self._failure, self._retry_at, self._wanted = failure, time.monotonic() + PAUSE_S, False
            connection, self._connection = self._connection, None
            calls = list(self._in_flight.values())
            self._state.notify_all()
        if connection is not None:
            connection.close()
        self._refuse(calls, FAILED_CODE, failure)
        self._settle(calls)

    def _copy(self) -> None:
        connection = self._connection
        assert connection is not None
        answered = False
        try:
            while line := connection.receive():
                answered |= self._from_engine(line)
        except OSError:
            pass
        self._futile_deaths = 0 if answered else self._futile_deaths + 1
        self._engine_left(connection)

    def _from_engine(self, line: bytes) -> bool:
        """Pass a line on, unless it answers what we have answered. Returns whether it was an answer to the client."""
        answer = _answered_id(line)
        if answer is None:
            self._write(line)
            return False
        with self._state:
            call = self._in_flight.get(answer)
            swallowed = answer == self._swallow
            if swallowed:
                self._swallow = None
        if swallowed:
            return False
        self._write(line)
        # Not before it is written: at its end the client waits for what is in flight, and for nothing else.
        if call is not None:
            self._settle([call])
        return True

    def _engine_left(self, connection: link.Connection) -> None:
        """Settle what was in flight; the next engine is started when there is something to send to it."""
        # An engine that ends in its first second may not have written down yet which tools only read.
        reading = early.reading_tools(self._data_dir)
        with self._sending, self._state:
            self._connection = None
            again = {key for key, call in self._in_flight.items() if self._is_repeated(key, call, reading)}
            lost = [call for key, call in self._in_flight.items() if key not in again]
            self._repeated |= again - self._unsent
            self._unsent.clear()
            self._wanted = bool(again)
        connection.close()
        self._refuse(lost, RETRY_CODE, "Tracebank's engine was restarted; what it had acknowledged is safe. Retry this call.")
        self._settle(lost)

    def _is_repeated(self, key: str, call: dict[str, Any], reading: set[str]) -> bool:
        """Whether a call goes to the next engine: no other has had it, or it changes nothing and is not what engines die of."""
        # Without an answer to the calls with which a session begins a client would give up.
        if key in self._unsent or call["method"] in early.METHODS:
            return True
        params = call.get("params")
        tool = params.get("name") if call["method"] == "tools/call" and isinstance(params, dict) else None
        # The name may be anything: what comes in is not checked here.
        return key not in self._repeated and (call["method"] in READING or (isinstance(tool, str) and tool in reading))

    # -- both ---------------------------------------------------------------------------------------------------

    def _farewell(self) -> None:
        """Let the calls in flight be answered, for a while, when the client has nothing more to say."""
        give_up_at = time.monotonic() + FAREWELL_S
        with self._state:
            while self._in_flight and (left := give_up_at - time.monotonic()) > 0:
                self._state.wait(left)
            connection = self._connection
        if connection is not None:
            connection.close()

    def _refuse(self, calls: list[dict[str, Any]], code: int, message: str) -> None:
        for call in calls:
            self._tell(_error(call["id"], code, message))

    def _settle(self, calls: list[dict[str, Any]]) -> None:
        with self._state:
            for call in calls:
                # A client may have used the id again as soon as it had the answer.
                if self._in_flight.get(key := json.dumps(call["id"])) is call:
                    del self._in_flight[key]
                    self._repeated.discard(key)
                    self._unsent.discard(key)
            self._state.notify_all()

    def _tell(self, message: dict[str, Any]) -> None:
        self._write(_line(message))

    def _write(self, line: bytes) -> None:
        try:
            with self._writing:
                self._sink.write(line)
                self._sink.flush()
        except (OSError, ValueError):
            # The client does not read any more: it has gone, and so do we.
            os._exit(0)


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def _calls(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return those of the messages that are to be answered."""
    return [message for message in messages if "method" in message and isinstance(message.get("id"), str | int)]


def _error(call_id: Any, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": call_id, "error": {"code": code, "message": message, "data": {"retry": code == RETRY_CODE}}}


def _warn(message: str) -> None:
    # The client may have closed our standard error.
    with contextlib.suppress(OSError, ValueError):
        print(f"tracebank: {message}", file=sys.stderr, flush=True)


_ANSWER = b'{"jsonrpc":"2.0","id":'
# Longer ones are found all the same, by reading the whole line.
MAX_ID_BYTES = 200


def _answered_id(line: bytes) -> str | None:
    """Return the id that a line from the engine answers, as JSON, or None where it is a request or a notification."""
    # As the engine writes them: an answer may be long, and what stands behind its id is the client's to read.
    end = line.find(b',"result":', len(_ANSWER), len(_ANSWER) + MAX_ID_BYTES) if line.startswith(_ANSWER) else -1
    if end > 0:
        with contextlib.suppress(ValueError):
            return json.dumps(json.loads(line[len(_ANSWER) : end]))
    message = json.loads(line)
    return json.dumps(message["id"]) if isinstance(message, dict) and "id" in message and "method" not in message else None


if __name__ == "__main__":
    main()
