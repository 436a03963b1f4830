"""Work that goes on though whoever asked for it has given up."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class Lasting:
    """Runs work to its end: a caller that is cancelled stops waiting, and nothing is left half done."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Return the result of the work. Raises: what the work raises."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        # Where nobody waits any more, nobody else would ask for the exception, and asyncio complains.
        if not task.cancelled():
            task.exception()

    async def settled(self) -> None:
        """Wait until all work has ended, well or not."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
