"""The engine as a process: settings are read here, the engine opened, a client served, and everything closed again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys

from tracebank.engine import Engine
from tracebank.errors import TracebankError
from tracebank.protocol.plugins import load_plugins
from tracebank.protocol.server import serve_stdio
from tracebank.settings import Settings, load_settings


def configure_logging(level: str) -> None:
    """Send the log to standard error: standard output belongs to the protocol."""
    logging.basicConfig(level=level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)


def serve_one_client() -> None:
    """Serve the client on standard input and output until its input ends or SIGTERM or SIGINT comes, then exit."""
    try:
        settings = load_settings()
        configure_logging(settings.log_level)
        asyncio.run(_serve(settings))
    except TracebankError as error:
        print(f"tracebank: {error}", file=sys.stderr)
        _leave(1)
    _leave(0)


async def _serve(settings: Settings) -> None:
    plugins = load_plugins()
    async with Engine.open(settings) as engine:
        engine.plugins = plugins.report()
        serving = asyncio.create_task(serve_stdio(engine, plugins, namespace=settings.namespace, tools=settings.tools))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError):  # Windows
                loop.add_signal_handler(number, serving.cancel)
        # A reader blocked on standard input cannot be cancelled; closing the engine does not wait for it.
        await asyncio.wait([serving])
        if not serving.cancelled() and (error := serving.exception()):
            raise error


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is closed; what is left are threads of libraries that may block or take their time.
    os._exit(code)
