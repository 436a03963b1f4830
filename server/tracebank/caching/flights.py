"""Single flight: who asks for what is already being fetched waits for that, instead of fetching it again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(slots=True)
class _Flight(Generic[Value]):
    task: asyncio.Task[Value]
    waiting: int = 0


class Flights(Generic[Key, Value]):
    """What is being fetched, by key. Everyone who waits gets the value, or hears of the error."""

    def __init__(self) -> None:
        self._flights: dict[Key, _Flight[Value]] = {}
        self.shared = 0

    async def fetch(self, key: Key, fetch: Callable[[], Awaitable[Value]]) -> Value:
        """Return the value of the flight under way, else of a new one.

        Who is cancelled leaves alone; the flight is cancelled when the last has left. Raises: what `fetch` raises.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.ensure_future(_awaited(fetch)))
            flight.task.add_done_callback(partial(self._landed, key))
        else:
            self.shared += 1
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        except asyncio.CancelledError:
            if flight.waiting == 1 and self._flights.get(key) is flight:
                # Whoever comes from now on starts anew: this one will not arrive.
                del self._flights[key]
                flight.task.cancel()
            raise
        finally:
            flight.waiting -= 1

    def _landed(self, key: Key, task: asyncio.Task[Value]) -> None:
        if (flight := self._flights.get(key)) is not None and flight.task is task:
            del self._flights[key]
        if not task.cancelled():
            # Heard, even where everyone has left in the meantime.
            task.exception()


async def _awaited(fetch: Callable[[], Awaitable[Value]]) -> Value:
    return await fetch()
