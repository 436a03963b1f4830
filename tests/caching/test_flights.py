"""Single flight: equal questions in flight are one piece of work."""

from __future__ import annotations

import asyncio

import pytest

from tracebank.caching import Flights

pytestmark = pytest.mark.anyio


class Work:
    """Something that takes until it is let go, and counts how often it was begun and cancelled."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.begun = self.cancelled = 0
        self.entered = asyncio.Event()

    async def __call__(self) -> str:
        """Return when it is let go."""
        self.begun += 1
        self.entered.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return "done"


async def test_equal_keys_share_one_flight_and_others_do_not() -> None:
    """Everybody gets its value; who comes afterwards begins anew."""
    flights: Flights[str, str] = Flights()
    work, other = Work(), Work()
    together = [asyncio.create_task(flights.fetch("a", work)) for _ in range(3)]
    apart = asyncio.create_task(flights.fetch("b", other))
    await work.entered.wait()
    work.go.set()
    other.go.set()
    assert await asyncio.gather(*together, apart) == ["done"] * 4
    assert (work.begun, other.begun, flights.shared) == (1, 1, 2)
    await flights.fetch("a", work)
    assert work.begun == 2


async def test_who_is_cancelled_leaves_alone_and_the_last_one_ends_the_work() -> None:
    """The first to have asked is no different from the others."""
    flights: Flights[str, str] = Flights()
    work = Work()
    first, second = (asyncio.create_task(flights.fetch("a", work)) for _ in range(2))
    await work.entered.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert work.cancelled == 0
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    again = asyncio.create_task(flights.fetch("a", work))
    work.go.set()
    assert await again == "done"
    assert (work.begun, work.cancelled) == (2, 1)


async def test_everybody_hears_of_an_error() -> None:
    """And it is not kept: the next one tries again."""
    flights: Flights[str, str] = Flights()

    async def fail() -> str:
        raise OSError("gone")

    outcomes = await asyncio.gather(*(flights.fetch("a", fail) for _ in range(3)), return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["gone"] * 3
    work = Work()
    work.go.set()
    assert await flights.fetch("a", work) == "done"
