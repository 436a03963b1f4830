"""Time in which nobody calls: what is done in it is given up as soon as somebody does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable


class Idle:
    """Knows when somebody has called. It belongs to one event loop."""

    def __init__(self) -> None:
        self._called_at = time.monotonic()
        self._interrupting: set[asyncio.Event] = set()

    def touch(self) -> None:
        """Somebody calls."""
        # Only a time where nothing is to be given up: whoever waits looks at it when its while is over.
        self._called_at = time.monotonic()
        for event in self._interrupting:
            event.set()

    async def wait(self, quiet_s: float) -> None:
        """Wait until nobody has called for so long."""
        while (left_s := self._called_at + quiet_s - time.monotonic()) > 0:  # noqa: ASYNC110 - waking at each call costs the call
            await asyncio.sleep(left_s)

    async def run(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do the work unless somebody calls; then it is cancelled at once. Returns whether it came to its end.

        Raises: what the work raises.
        """
        self._interrupting.add(called := asyncio.Event())
        doing, calling = asyncio.ensure_future(work()), asyncio.ensure_future(called.wait())
        try:
            await asyncio.wait((doing, calling), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._interrupting.discard(called)
            finished = doing.done()
            for task in (doing, calling):
                task.cancel()
            outcomes = await asyncio.gather(doing, calling, return_exceptions=True)
        if isinstance(error := outcomes[0], Exception):
            raise error
        return finished
