"""One MCP session on a byte stream: newline-delimited JSON-RPC in, newline-delimited JSON-RPC out."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.server.mcpserver import MCPServer
from mcp.server.runner import serve_dual_era_loop
from mcp.shared.message import SessionMessage
from mcp.types import INVALID_REQUEST, PARSE_ERROR, JSONRPCError, JSONRPCRequest, JSONRPCResponse, jsonrpc_message_adapter

from tracebank.engine import Session

log = logging.getLogger(__name__)

MAX_LINE_BYTES = 64 * 1_048_576
READ_BYTES = 65_536


class ByteReader(Protocol):
    """The reading half of a connection (`asyncio.StreamReader` is one)."""

    async def read(self, n: int) -> bytes:
        """Return some bytes, at most n; b"" at the end. Raises: OSError."""
        ...


@dataclass(slots=True)
class Calls:
    """The calls in work, over all sessions: what a draining engine waits for."""

    count: int = 0
    idle: anyio.Event = field(default_factory=anyio.Event)

    def begin(self) -> None:
        """A call was read."""
        self.count += 1
        self.idle = anyio.Event() if self.count == 1 else self.idle

    def end(self, number: int = 1) -> None:
        """Calls were answered, or their client has left."""
        self.count -= number
        if self.count == 0:
            self.idle.set()


async def lines(reader: ByteReader) -> AsyncIterator[bytes]:
    """Yield whole lines, of any size up to the limit. What stands unfinished at the end is dropped.

    Raises: ValueError for a longer line, OSError.
    """
    buffer = bytearray()
    while part := await reader.read(READ_BYTES):
        searched = len(buffer)
        buffer += part
        while (end := buffer.find(b"\n", searched)) >= 0:
            line = bytes(buffer[:end])
            del buffer[: end + 1]
            searched = 0
            yield line
        if len(buffer) > MAX_LINE_BYTES:
            raise ValueError(f"a message must be at most {MAX_LINE_BYTES:,} bytes")


async def serve(
    server: MCPServer[Session], session: Session, reader: ByteReader, write: Callable[[bytes], Awaitable[None]], calls: Calls
) -> None:
    """Serve one client until it closes its end. `write` sends a line and waits while the client does not read."""
    to_server, from_client = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    to_client, from_server = anyio.create_memory_object_stream[SessionMessage](0)
    open_calls: set[str] = set()

    async def read_client() -> None:
        async with to_server:
            try:
                async for line in lines(reader):
                    await _take(line, to_server, write, open_calls, calls)
            except (ValueError, OSError) as error:
                log.warning("a client's connection is closed: %s", error)

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(read_client)
            group.start_soon(_write_client, from_server, write, open_calls, calls)
            await serve_dual_era_loop(server._lowlevel_server, from_client, to_client, lifespan_state=session)
            group.cancel_scope.cancel()
    finally:
        calls.end(len(open_calls))


async def _take(
    line: bytes,
    to_server: MemoryObjectSendStream[SessionMessage | Exception],
    write: Callable[[bytes], Awaitable[None]],
    open_calls: set[str],
    calls: Calls,
) -> None:
    if not line.strip():
        return
    try:
        message = jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValueError as error:
        await write(json.dumps(_refusal(line, error)).encode() + b"\n")
        return
    if isinstance(message, JSONRPCRequest):
        open_calls.add(repr(message.id))
        calls.begin()
    await to_server.send(SessionMessage(message))


async def _write_client(
    from_server: MemoryObjectReceiveStream[SessionMessage], write: Callable[[bytes], Awaitable[None]], open_calls: set[str], calls: Calls
) -> None:
    async with from_server:
        async for item in from_server:
            await write(item.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
            if isinstance(item.message, JSONRPCResponse | JSONRPCError) and repr(item.message.id) in open_calls:
                open_calls.remove(repr(item.message.id))
                calls.end()


def _refusal(line: bytes, error: ValueError) -> dict[str, Any]:
    """Return the JSON-RPC error for a line that is no message, to the call it was meant to be where that can be seen."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return {"jsonrpc": "2.0", "id": None, "error": {"code": PARSE_ERROR, "message": "this line is not valid JSON"}}
    call_id = message.get("id") if isinstance(message, dict) else None
    reason = "text with a lone surrogate (half a character, \\ud800 to \\udfff)" if "surrogate" in str(error) else "not a JSON-RPC message"
    return {
        "jsonrpc": "2.0",
        "id": call_id if isinstance(call_id, str | int) else None,
        "error": {"code": INVALID_REQUEST, "message": f"{reason}: nothing was done; send valid Unicode and JSON-RPC 2.0"},
    }
