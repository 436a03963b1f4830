"""A transport for httpx whose connections stand side by side, each a transport of its own.

A pool looks at all of its connections before and after every request, and asks the system of each idle one whether it is
readable still: with ten connections that was half of what a call cost. Here the lane that was used last is used next, and
nobody looks at the others. Over HTTP/2 one lane carries all requests.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.request import getproxies, proxy_bypass

import httpx

HTTP_2 = b"HTTP/2"
_PORTS = {"http": 80, "https": 443}


class Lanes(httpx.AsyncBaseTransport):
    """At most `size` lanes, made when they are needed. One that was idle for `keepalive_s` is closed by whoever comes by."""

    def __init__(
        self, make: Callable[[], httpx.AsyncBaseTransport], *, size: int, keepalive_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._make, self._keepalive_s, self._clock = make, keepalive_s, clock
        self._turns = asyncio.Semaphore(size)
        # With the time since when; the longest idle first.
        self._idle: deque[tuple[float, httpx.AsyncBaseTransport]] = deque()
        self._shared: httpx.AsyncBaseTransport | None = None
        self._closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request on a lane; reading the response to its end, or closing it, frees the lane.

        Raises: httpx.PoolTimeout where none is free in time, and what `make` and the transport raise.
        """
        if (shared := self._shared) is not None:
            response = await shared.handle_async_request(request)
            if response.extensions.get("http_version") != HTTP_2 and self._shared is shared:
                # Another server answers at that address now: this lane is one among others once it is free.
                self._shared = None
                assert isinstance(response.stream, httpx.AsyncByteStream)
                response.stream = _Borrowed(response.stream, lambda: self._parked(shared))
            return response
        await self._turn(request)
        try:
            lane = self._idle.pop()[1] if self._idle else self._make()
        except BaseException:
            self._turns.release()
            raise
        try:
            response = await lane.handle_async_request(request)
        except BaseException:
            await self._returned(lane)
            raise
        if response.extensions.get("http_version") == HTTP_2 and self._shared is None:
            self._shared = lane
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Borrowed(response.stream, lambda: self._returned(lane))
        return response

    async def _turn(self, request: httpx.Request) -> None:
        try:
            async with asyncio.timeout(request.extensions.get("timeout", {}).get("pool")):
                await self._turns.acquire()
        except TimeoutError as error:
            raise httpx.PoolTimeout("", request=request) from error

    async def _returned(self, lane: httpx.AsyncBaseTransport) -> None:
        self._turns.release()
        await self._parked(lane)

    async def _parked(self, lane: httpx.AsyncBaseTransport) -> None:
        if lane is not self._shared and all(lane is not other for _, other in self._idle):
            self._idle.append((self._clock(), lane))
        # Once all go over one lane, or no more requests come, the others are of no use.
        while self._idle and (self._closed or self._shared is not None or self._clock() - self._idle[0][0] > self._keepalive_s):
            await self._idle.popleft()[1].aclose()

    async def aclose(self) -> None:
        """Close all lanes that nobody uses, and the one that all share; others in use are closed with their response."""
        self._closed = True
        lanes = [lane for _, lane in self._idle] + ([self._shared] if self._shared else [])
        self._idle.clear()
        self._shared = None
        for lane in lanes:
            await lane.aclose()


class _Borrowed(httpx.AsyncByteStream):
    """A response's bytes; closing them gives the lane back, once."""

    def __init__(self, stream: httpx.AsyncByteStream, give_back: Callable[[], Awaitable[None]]) -> None:
        self._stream, self._give_back = stream, give_back
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            await self._stream.aclose()
        finally:
            await self._give_back()


def proxy_of(url: httpx.URL) -> str | None:
    """Return the proxy that the environment names for an address (HTTPS_PROXY, ALL_PROXY, NO_PROXY), or None."""
    if proxy_bypass(f"{url.host}:{url.port or _PORTS.get(url.scheme, '')}"):
        return None
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    # Many write host:port alone, and every other client takes it.
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy
