"""Tasks beside the answering of calls: one that fails is told in `stats`, and the others go on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

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

    def repeat(self, name: str, turn: Callable[[], Awaitable[None]], *, retry_s: float) -> asyncio.Task[None]:
        """Begin to do the same again and again, as one task. A turn waits until something is due, and does it.

        After one that has failed there is a pause; its problem is told until one succeeds.
        """
        return self.spawn(name, partial(self._repeated, name, turn, retry_s))

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
            cause = self._noted(name, error)
            # What we raise on purpose says it all; of anything else the place is wanted.
            log.error("%s has failed: %s", name, cause, exc_info=not isinstance(cause, TracebankError))  # noqa: TRY400 - as just said

    async def _repeated(self, name: str, turn: Callable[[], Awaitable[None]], retry_s: float) -> None:
        while True:
            try:
                await turn()
                self.problems.pop(name, None)
            except Exception as error:  # whatever it is: what ended would not be done until the next start
                cause = self._noted(name, error)
                if isinstance(cause, TracebankError):
                    log.warning("%s has failed and waits: %s", name, cause)
                else:
                    log.exception("%s has failed and waits", name)
                await asyncio.sleep(retry_s)

    def _noted(self, name: str, error: BaseException) -> BaseException:
        """Tell of an error in `problems`. Returns the first one in a group."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        self.problems[name] = str(error) or type(error).__name__
        return error
