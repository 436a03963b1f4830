"""The command line's end of the connection to the engine: operations by name, answered by events."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from tracebank import link
from tracebank.errors import EngineEndedError, EngineError
from tracebank.places import default_data_dir

ENGINE_ENDED = "the engine has ended before it answered: run the command again; what it had acknowledged is safe"

Events = AsyncIterator[dict[str, Any]]
Call = Callable[..., Events]


@asynccontextmanager
async def engine() -> AsyncIterator[Call]:
    """Connect to the engine of the data directory, starting it if need be, and give the function that calls its operations."""
    connection = await asyncio.to_thread(link.connect_or_start, default_data_dir(), "operations")
    for note in connection.about.get("notes", ()):
        print(f"tracebank: {note}", file=sys.stderr)

    def say(message: object) -> None:
        try:
            connection.send(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise EngineEndedError(ENGINE_ENDED) from error

    def hear() -> bytes:
        try:
            return connection.receive()
        except OSError as error:
            raise EngineEndedError(ENGINE_ENDED) from error

    async def call(operation: str, **arguments: Any) -> AsyncIterator[dict[str, Any]]:
        say({"operation": operation, "arguments": arguments})
        while line := await asyncio.to_thread(hear):
            message = json.loads(line)
            if "error" in message:
                raise EngineError(message["error"])
            if message.get("end"):
                return
            yield message["event"]
        raise EngineEndedError(ENGINE_ENDED)

    try:
        yield call
    finally:
        connection.close()


async def last(events: Events) -> dict[str, Any]:
    """Return the last of an operation's events: its result."""
    result: dict[str, Any] = {}
    async for event in events:
        result = event
    return result
