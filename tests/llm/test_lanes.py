"""Connections side by side: the warmest is used next, the idle ones are closed, one carries all where it can."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from tracebank.llm.lanes import HTTP_2, Lanes, proxy_of

pytestmark = pytest.mark.anyio


class Bytes(httpx.AsyncByteStream):
    """A response's bytes, in two parts."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in (b"a", b"b"):
            yield part


class Lane(httpx.AsyncBaseTransport):
    """The network's edge: it notes what it is asked, and fails or speaks HTTP/2 as a test likes."""

    def __init__(self, world: World, number: int) -> None:
        self._world, self._number = world, number

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer, or fail."""
        self._world.used.append(self._number)
        if self._world.failing:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, stream=Bytes(), extensions={"http_version": self._world.version})

    async def aclose(self) -> None:
        """Note who was closed."""
        self._world.closed.append(self._number)


class World:
    """What happened on the lanes, and the clock."""

    def __init__(self) -> None:
        self.made = 0
        self.used: list[int] = []
        self.closed: list[int] = []
        self.failing, self.version, self.now = False, b"HTTP/1.1", 0.0

    def lanes(self, size: int = 3) -> Lanes:
        """Return lanes of this world."""

        def make() -> Lane:
            self.made += 1
            return Lane(self, self.made)

        return Lanes(make, size=size, keepalive_s=60.0, clock=lambda: self.now)


REQUEST = httpx.Request("POST", "http://models.example/v1", extensions={"timeout": {"pool": 0.05}})


async def test_the_lane_that_was_used_last_is_used_next() -> None:
    """Its connection is the least likely to have been closed."""
    world = World()
    lanes = world.lanes()
    held = [await lanes.handle_async_request(REQUEST) for _ in range(3)]
    for response in held:
        assert await response.aread() == b"ab"
    await (await lanes.handle_async_request(REQUEST)).aread()
    assert (world.used, world.made) == ([1, 2, 3, 3], 3)


async def test_a_lane_is_free_again_when_its_response_is_closed_once_or_twice_or_it_failed() -> None:
    """And there are never more than were set."""
    world = World()
    lanes = world.lanes(size=1)
    for _ in range(3):
        response = await lanes.handle_async_request(REQUEST)
        with pytest.raises(httpx.PoolTimeout):
            await lanes.handle_async_request(REQUEST)
        await response.aclose()
        await response.aclose()
    world.failing = True
    for _ in range(2):
        with pytest.raises(httpx.ConnectError):
            await lanes.handle_async_request(REQUEST)
    assert world.made == 1


async def test_a_lane_that_cannot_be_made_gives_its_turn_back() -> None:
    """The next one that asks is told the same, and not that all are in use."""

    def make() -> Lane:
        raise ValueError("no such proxy")

    lanes = Lanes(make, size=1, keepalive_s=60.0)
    for _ in range(2):
        with pytest.raises(ValueError, match="no such proxy"):
            await lanes.handle_async_request(REQUEST)


async def test_who_is_cancelled_while_waiting_takes_no_lane_with_it() -> None:
    """The next one gets it."""
    lanes = World().lanes(size=1)
    response = await lanes.handle_async_request(REQUEST)
    patient = httpx.Request("POST", "http://models.example/v1", extensions={"timeout": {"pool": None}})
    waiting = asyncio.create_task(lanes.handle_async_request(patient))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await response.aclose()
    await (await lanes.handle_async_request(REQUEST)).aclose()


async def test_lanes_that_were_idle_for_long_are_closed() -> None:
    """After a burst few are needed, and a provider has long closed the others."""
    world = World()
    lanes = world.lanes()
    for response in [await lanes.handle_async_request(REQUEST) for _ in range(3)]:
        await response.aclose()
    world.now = 61.0
    await (await lanes.handle_async_request(REQUEST)).aclose()
    assert world.closed == [1, 2]
    await lanes.aclose()
    assert world.closed == [1, 2, 3]


async def test_a_lane_in_use_is_closed_with_its_response_once_all_are_closed() -> None:
    """Nobody would come by to close it later."""
    world = World()
    lanes = world.lanes()
    first, second = [await lanes.handle_async_request(REQUEST) for _ in range(2)]
    await second.aclose()
    await lanes.aclose()
    assert world.closed == [2]
    await first.aclose()
    assert world.closed == [2, 1]


async def test_over_http_2_one_lane_carries_all_and_the_others_are_closed() -> None:
    """However many are under way at once."""
    world = World()
    lanes = world.lanes(size=2)
    world.version = HTTP_2
    first = await lanes.handle_async_request(REQUEST)
    others = [await lanes.handle_async_request(REQUEST) for _ in range(5)]
    for response in (first, *others):
        await response.aread()
        await response.aclose()
    assert (world.used, world.closed) == ([1] * 6, [])
    early = World()
    lanes = early.lanes()
    both = [await lanes.handle_async_request(REQUEST)]
    early.version = HTTP_2
    both.append(await lanes.handle_async_request(REQUEST))
    for response in both:
        await response.aclose()
    assert early.closed == [1]


async def test_when_a_server_speaks_http_2_no_longer_its_lane_is_one_among_others() -> None:
    """Else all requests would wait for each other on it, for as long as the engine runs."""
    world = World()
    lanes = world.lanes()
    world.version = HTTP_2
    await (await lanes.handle_async_request(REQUEST)).aclose()
    world.version = b"HTTP/1.1"
    for response in [await lanes.handle_async_request(REQUEST)]:
        await response.aclose()
    held = [await lanes.handle_async_request(REQUEST) for _ in range(3)]
    assert (world.used, world.made) == ([1, 1, 1, 2, 3], 3)
    for response in held:
        await response.aclose()
    await lanes.aclose()
    assert sorted(world.closed) == [1, 2, 3]


async def test_a_lane_that_all_shared_is_not_given_out_before_its_responses_are_read() -> None:
    """And only once."""
    world = World()
    lanes = world.lanes()
    world.version = HTTP_2
    first = await lanes.handle_async_request(REQUEST)
    world.version = b"HTTP/1.1"
    second = await lanes.handle_async_request(REQUEST)
    third = await lanes.handle_async_request(REQUEST)
    assert world.used == [1, 1, 2]  # who reads on the first lane still has it
    for response in (first, second, third):
        await response.aclose()
    assert sorted(lane._number for _, lane in lanes._idle) == [1, 2]  # type: ignore[attr-defined]


async def test_the_environments_proxy_is_used_but_not_for_those_it_exempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As every HTTP client does."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert proxy_of(httpx.URL("https://api.example/v1")) is None
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert proxy_of(httpx.URL("https://api.example/v1")) == "http://proxy.example:3128"
    assert proxy_of(httpx.URL("http://api.example/v1")) is None
    assert proxy_of(httpx.URL("https://127.0.0.1:1/v1")) is None
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "localhost:11434,api.example:443")
    assert proxy_of(httpx.URL("https://localhost:11434/v1")) is None
    assert proxy_of(httpx.URL("https://api.example/v1")) is None
    assert proxy_of(httpx.URL("https://localhost:1/v1")) == "http://proxy.example:3128"
