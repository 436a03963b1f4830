"""Single flight: who asks for what is already being fetched waits for that, instead of fetching it again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
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
            flight.task.add_done_callback(lambda _: self._landed(key, flight))
        else:
            self.shared += 1
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        except asyncio.CancelledError:
            if flight.waiting == 1 and not flight.task.done():
                # Whoever comes from now on starts anew: this one will not arrive.
                self._landed(key, flight)
                flight.task.cancel()
            raise
        finally:
            flight.waiting -= 1

    def _landed(self, key: Key, flight: _Flight[Value]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


async def _awaited(fetch: Callable[[], Awaitable[Value]]) -> Value:
    return await fetch()
