"""Preparing the answers that will likely be asked for: after a start, and after a write has made them unusable.

In idle time only, one after the other, given up as soon as anybody calls. A prepared answer is like one that somebody asked
for, but nobody did: no memory is noted as recalled, and no call as answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from tracebank.answering.answers import Answers
from tracebank.answering.history import History
from tracebank.errors import TracebankError
from tracebank.idle import Idle

log = logging.getLogger(__name__)


class Warmer:
    """Prepares the `limit` likeliest answers when nobody has called for `quiet_s`.

    `ready()` waits until everything stored can be found by meaning.
    """

    def __init__(
        self, *, answers: Answers, history: History, idle: Idle, quiet_s: float, ready: Callable[[], Awaitable[None]], limit: int
    ) -> None:
        self._answers, self._history, self._ready, self._limit = answers, history, ready, limit
        self._idle, self._quiet_s = idle, quiet_s
        self._news = asyncio.Event()
        # There may be something to prepare from before the start.
        self._news.set()
        self._prepared = self._interrupted = 0

    def news(self) -> None:
        """What is stored has changed: answers may be missing."""
        self._news.set()

    async def run(self) -> None:
        """Prepare answers whenever some may be missing and nobody calls, until cancelled."""
        while self._limit:
            await self._news.wait()
            await self._idle.wait(self._quiet_s)
            self._news.clear()
            try:
                if not await self._idle.run(self.prepare):
                    self._interrupted += 1
                    self._news.set()
            except TracebankError as error:
                log.info("answers could not be prepared: %s", error)

    async def prepare(self) -> None:
        """Find the likeliest answers, as far as they are missing. Raises: StoreError."""
        await self._ready()
        for asked in self._history.likely(self._limit):
            if not self._answers.has(asked):
                await self._answers.prepare(asked)
                self._prepared += 1

    def report(self) -> dict[str, Any]:
        """Return the figures for `stats`; `used` are the prepared answers that somebody then asked for."""
        return {
            "questions": len(self._history),
            "prepared": self._prepared,
            "used": self._answers.prepared_used,
            "interrupted": self._interrupted,
        }
