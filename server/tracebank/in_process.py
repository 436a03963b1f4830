"""The engine of one client, in this process, on standard input and output (TRACEBANK_ENGINE=in-process): for containers."""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial

from anyio import to_thread

from tracebank import memory
from tracebank.engine import Engine
from tracebank.errors import TracebankError
from tracebank.process import configure_logging, keep_what_came_up, leave, on_signals
from tracebank.protocol.plugins import load_plugins
from tracebank.protocol.server import build_server
from tracebank.protocol.session import Reading, serve
from tracebank.settings import Settings, load_settings


class _StandardInput:
    """Standard input as a `ByteReader`: the reading blocks a thread, never the event loop."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._ended = False

    async def read(self, n: int) -> bytes:
        # Abandoned where a signal ends us: it comes back when the client says something, or never.
        part = await to_thread.run_sync(os.read, self._descriptor, n, abandon_on_cancel=True)
        if not part and not self._ended:
            self._ended = True
            # Scripts forget it behind their last line, and an empty line is nothing.
            return b"\n"
        return part


def serve_one_client() -> None:
    """Serve the client on standard input and output until its input ends or a signal comes, then exit."""
    code = 0
    memory.share_one_arena()
    try:
        settings = load_settings()
        configure_logging(settings.log_level)
        asyncio.run(_serve(settings))
    except TracebankError as error:
        print(f"tracebank: {error}", file=sys.stderr)
        code = 1
    leave(code)


async def _serve(settings: Settings) -> None:
    # The protocol keeps standard output for itself: a stray print goes to standard error.
    wire = os.dup(1)
    os.dup2(2, 1)
    reading = Reading(_StandardInput(os.dup(0)))
    one_line_at_a_time = asyncio.Lock()

    async def write(line: bytes) -> None:
        async with one_line_at_a_time:
            await to_thread.run_sync(_write_all, wire, line, abandon_on_cancel=True)

    plugins = load_plugins()
    async with Engine.open(settings, mode="in-process") as engine:
        plugins = plugins.of(engine)
        engine.plugins = plugins.report()
        engine.background.spawn("collector", partial(keep_what_came_up, engine.warm))
        server = build_server(plugins.chosen(settings.tools))
        on_signals(reading.end)
        await serve(server, engine.session(), reading, write)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
