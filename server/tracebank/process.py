"""What every process that runs an engine does: signals, the log, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path

LOG_BYTES, LOG_FILES = 1_048_576, 2
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def configure_logging(level: str, file: Path | None = None) -> None:
    """Send the log to a file that rotates, or to standard error: standard output belongs to the protocol."""
    handler = (
        RotatingFileHandler(file, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8")
        if file
        else logging.StreamHandler(sys.stderr)
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], format=LOG_FORMAT, force=True)


def on_signals(act: Callable[[], object]) -> None:
    """Do something at SIGTERM and SIGINT instead of ending."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # Windows
            loop.add_signal_handler(number, act)


async def keep_what_came_up(warm: asyncio.Event) -> None:
    """Tell the collector, once everything is loaded, that it stays: to look through it stopped every call for 40 ms, again and again."""
    await warm.wait()
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def leave(code: int) -> None:
    """End the process."""
    logging.shutdown()
    # Everything is closed; what is left are threads of libraries that may block or take their time.
    os._exit(code)
