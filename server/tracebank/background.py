"""Tasks beside the answering of calls: one that fails is told in `stats`, and the others go on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from tracebank.errors import TracebankError

log = logging.getLogger(__name__)


class Background:
    """The tasks of one engine, on one event loop. `problems` says by name what went wrong."""

    def __init__(self) -> None:
        self.problems: dict[str, str] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    def spawn(self, name: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Begin a task; it never raises."""
        task = asyncio.create_task(self._supervised(name, work), name=name)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def cancel(self) -> None:
        """End all tasks, and wait until they have ended."""
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _supervised(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:  # a part that fails is told in `stats`, and the others go on
            cause: BaseException = error
            while isinstance(cause, BaseExceptionGroup):
                cause = cause.exceptions[0]
            self.problems[name] = str(cause)
            # What we raise on purpose says it all; of anything else the place is wanted.
            log.error("%s has failed: %s", name, cause, exc_info=not isinstance(cause, TracebankError))  # noqa: TRY400 - as just said
