"""One MCP session on a byte stream: newline-delimited JSON-RPC in, newline-delimited JSON-RPC out."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.server.mcpserver import MCPServer
from mcp.server.runner import serve_dual_era_loop
from mcp.shared.message import SessionMessage
from mcp.types import (
    INVALID_REQUEST,
    PARSE_ERROR,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    jsonrpc_message_adapter,
)

from tracebank.engine import Session
from tracebank.link import MAX_DEPTH, MAX_LINE_BYTES, is_too_deep

log = logging.getLogger(__name__)

READ_BYTES = 65_536
# How long the calls of a client that has closed its end may go on.
FAREWELL_S = 10.0
# So many calls of one session may be open; it is not listened to until some are answered. Who never reads its answers
# would otherwise fill our memory.
MAX_OPEN_CALLS = 256


class ByteReader(Protocol):
    """The reading half of a connection (`asyncio.StreamReader` is one)."""

    async def read(self, n: int) -> bytes:
        """Return some bytes, at most n; b"" at the end. Raises: OSError."""
        ...


class Reading:
    """The reading half of a connection, which can be ended from our side, too: then nothing more is read."""

    def __init__(self, reader: ByteReader) -> None:
        self._reader = reader
        self._scope: anyio.CancelScope | None = None
        self._ended = False

    async def read(self, n: int) -> bytes:
        """Return some bytes, at most n; b"" at the end, whoever has ended it. Raises: OSError."""
        if not self._ended:
            with anyio.CancelScope() as self._scope:
                return await self._reader.read(n)
        return b""

    def end(self) -> None:
        """Read no more; who is reading is told that this was the end."""
        self._ended = True
        if self._scope is not None:
            self._scope.cancel()


async def lines(reader: ByteReader) -> AsyncIterator[bytes]:
    """Yield whole lines; of one over the limit no more than shows that. What stands unfinished at the end is dropped.

    Raises: OSError.
    """
    buffer = bytearray()
    while part := await reader.read(READ_BYTES):
        searched = len(buffer)
        buffer += part
        while (end := buffer.find(b"\n", searched)) >= 0:
            line = bytes(buffer[: min(end, MAX_LINE_BYTES + 1)])
            del buffer[: end + 1]
            searched = 0
            yield line
        del buffer[MAX_LINE_BYTES + 1 :]


async def serve(server: MCPServer[Session], session: Session, reading: Reading, write: Callable[[bytes], Awaitable[None]]) -> None:
    """Serve one client until it closes its end; what it asked for until then is done, within `FAREWELL_S`.

    `write` sends a line and waits while the client does not read.
    """
    to_server, from_client = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    to_client, from_server = anyio.create_memory_object_stream[SessionMessage](0)
    client = _Client(reading, write)
    async with anyio.create_task_group() as group:
        group.start_soon(client.listen, to_server)
        group.start_soon(client.tell, from_server)
        await serve_dual_era_loop(server._lowlevel_server, from_client, to_client, lifespan_state=session)
        group.cancel_scope.cancel()


class _Client:
    """A client's end of the session: what it says, what it is told, and its calls that are not answered yet."""

    def __init__(self, reading: Reading, write: Callable[[bytes], Awaitable[None]]) -> None:
        self._reading, self._write = reading, write
        self._open: set[str] = set()
        self._changed = anyio.Condition()

    async def listen(self, to_server: MemoryObjectSendStream[SessionMessage | Exception]) -> None:
        """Hand over what the client says until its end, then wait for the answers."""
        async with to_server:
            try:
                async for line in lines(self._reading):
                    await self._take(line, to_server)
            except OSError as error:
                log.warning("a client's connection is closed: %s", error)
            with anyio.move_on_after(FAREWELL_S):
                await self._until(lambda: not self._open)

    async def tell(self, from_server: MemoryObjectReceiveStream[SessionMessage]) -> None:
        """Pass on what the server says. When the client has left, the calls that are open go on all the same."""
        async with from_server:
            async for item in from_server:
                try:
                    await self._write(item.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
                except OSError:
                    self._reading.end()
                if isinstance(item.message, JSONRPCResponse | JSONRPCError):
                    await self._close(item.message.id)

    async def _take(self, line: bytes, to_server: MemoryObjectSendStream[SessionMessage | Exception]) -> None:
        if not line.strip():
            return
        if len(line) > MAX_LINE_BYTES:
            await self._write(_error(None, INVALID_REQUEST, f"a message must be at most {MAX_LINE_BYTES:,} bytes"))
            return
        message = _parsed(line)
        if message is None:
            batch = _batch(line)
            for part in batch:
                if is_too_deep(part):  # to be written again, too
                    await self._write(_refused(part))
                else:
                    await self._take(json.dumps(part if isinstance(part, dict) else None).encode(), to_server)
            if not batch:
                await self._write(_refusal(line))
            return
        if isinstance(message, JSONRPCRequest):
            await self._until(lambda: len(self._open) < MAX_OPEN_CALLS)
            self._open.add(str(message.id))
        elif isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
            # It is never answered.
            await self._close((message.params or {}).get("requestId"))
        await to_server.send(SessionMessage(message))

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with self._changed:
            while not condition():
                await self._changed.wait()

    async def _close(self, call_id: object) -> None:
        self._open.discard(str(call_id))
        async with self._changed:
            self._changed.notify_all()


def _parsed(line: bytes) -> JSONRPCMessage | None:
    """Return the message, or None where it is none."""
    try:
        message = jsonrpc_message_adapter.validate_json(line, by_name=False)
        # With an id that cannot be one it passes for a notification, and its client would wait for ever.
        return None if isinstance(message, JSONRPCNotification) and "id" in json.loads(line) else message
    except ValueError:
        return None


def _batch(line: bytes) -> list[Any]:
    """Return the messages of a JSON-RPC batch, which protocol 2025-03-26 allows; none of what is something else."""
    if not line.lstrip().startswith(b"["):
        return []
    try:
        return list(json.loads(line))
    except (ValueError, RecursionError):
        return []


def _refusal(line: bytes) -> bytes:
    """Return the error for a line that is no message, to the call it was meant to be where that can be seen."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return _error(None, PARSE_ERROR, "this line is not valid JSON")
    return _refused(message)


def _refused(message: object) -> bytes:
    """Return the error for what is no message."""
    problem = f"{_wrong_with(message)}: nothing was done; send valid Unicode and JSON-RPC 2.0"
    return _error(_call_id(message), INVALID_REQUEST, problem)


def _error(call_id: str | int | None, code: int, message: str) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": call_id, "error": {"code": code, "message": message}}).encode() + b"\n"


def _call_id(message: object) -> str | int | None:
    call_id = message.get("id") if isinstance(message, dict) else None
    return call_id if isinstance(call_id, str | int) else None


def _wrong_with(message: object) -> str:
    if is_too_deep(message):
        return f"nested deeper than {MAX_DEPTH}"
    try:
        json.dumps(message, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "text with a lone surrogate (half a character, \\ud800 to \\udfff)"
    return "not a JSON-RPC message"
