"""Who waits for an answer goes first: long work is done in parts, and asks between two of them whether somebody waits.

Chroma writes with the interpreter's lock held, 0.7 ms for each text: whatever it is given at once holds up everybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager

# Who has asked will ask again: until then parts stay small. Who has not for minutes will hardly ask just now.
LATELY_S, LONG_S = 10.0, 300.0
# So long a request takes, once it can be read, from the socket to where it counts as waiting.
BREATH_S = 0.003
# Texts that are written to Chroma at once: 0.2 s, or 17 ms while somebody asks. Each commit takes 10 ms, so small parts take three
# times as long, and an eighth less those of 0.35 s, which are written where nobody has asked for long.
LONELY_TEXTS, QUIET_TEXTS, ASKED_TEXTS = 500, 250, 8
# A slow answer, or one after the other, must not stop the work.
GIVE_WAY_S = 0.25


class Precedence:
    """Knows who waits for an answer. It belongs to one event loop."""

    def __init__(self) -> None:
        self.waiting = 0
        self._nobody = asyncio.Event()
        self._nobody.set()
        self._asked_at = -LONG_S

    def asked(self) -> None:
        """Somebody calls, who will hardly be the last."""
        self._asked_at = time.monotonic()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Somebody waits for an answer that the index is asked for."""
        self.waiting += 1
        self._nobody.clear()
        self.asked()
        try:
            yield
        finally:
            self.waiting -= 1
            if not self.waiting:
                self._nobody.set()

    @property
    def lately(self) -> bool:
        """Whether somebody waits, or has called within the last `LATELY_S` seconds."""
        return self.waiting > 0 or self._asked_within(LATELY_S)

    @property
    def texts(self) -> int:
        """How many texts may be written to Chroma at once."""
        return ASKED_TEXTS if self.lately else QUIET_TEXTS if self._asked_within(LONG_S) else LONELY_TEXTS

    def _asked_within(self, seconds: float) -> bool:
        return time.monotonic() - self._asked_at < seconds

    async def give_way(self) -> None:
        """Let requests that have come meanwhile be read, and wait until nobody waits for an answer, at most `GIVE_WAY_S`."""
        await asyncio.sleep(BREATH_S if self.lately else 0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GIVE_WAY_S):
                await self._nobody.wait()
