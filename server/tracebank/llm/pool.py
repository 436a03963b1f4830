"""The connections to one provider: one httpx client, kept open, HTTP/2 where it is offered, bounded in every phase."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
from anyio import to_thread

from tracebank.errors import LlmAnswerError, LlmRejectedError, LlmTooLateError, LlmUnavailableError
from tracebank.llm.faults import SHOWN_CHARS, of_network, of_status, without
from tracebank.llm.lanes import Lanes, proxy_of
from tracebank.llm.storable import storable_json

MAX_ANSWER_BYTES = 16 * 1_048_576
KEEPALIVE_S = 60.0
# Of the time for all of a call: who has no connection by then has sent nothing, which is to be told apart from no answer.
LANE_SHARE = 0.9

# It writes every header into its debug log, the key's among them.
logging.getLogger("hpack").setLevel(logging.INFO)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """How many connections, and how long each phase may take, in seconds."""

    connections: int = 10
    connect_s: float = 5.0
    read_s: float = 90.0
    write_s: float = 30.0
    pool_s: float = 60.0
    attempt_s: float = 180.0


class Pool:
    """Posts JSON to one provider. The first request opens it; `close` ends it."""

    def __init__(self, provider: str, *, base_url: str, limits: PoolLimits, ca_file: str, wall_clock: Callable[[], float]) -> None:
        self._provider, self._base_url, self._limits = provider, base_url, limits
        self._ca_file, self._wall_clock = ca_file, wall_clock
        self._opening = asyncio.Lock()
        self._client: httpx.AsyncClient | None = None

    async def post(
        self, path: str, headers: Mapping[str, str], body: Mapping[str, Any], *, key: str, wait_s: float = math.inf
    ) -> Mapping[str, Any]:
        """Return the answer's JSON object. `key` is what must not come out again; `wait_s`: how long the caller waits.

        Raises: LlmRejectedError, LlmUnavailableError, LlmAnswerError.
        """
        limit_s = min(self._limits.attempt_s, wait_s)
        try:
            client = self._client or await self._open()
            async with asyncio.timeout(limit_s):
                response, content = await self._exchange(client, path, headers, body, lane_s=min(self._limits.pool_s, LANE_SHARE * limit_s))
        except TimeoutError as error:
            kind = LlmUnavailableError if limit_s == self._limits.attempt_s else LlmTooLateError
            raise kind(self._provider, f"no answer after {limit_s:.3g} s", again=True) from error
        except httpx.HTTPError as error:
            raise of_network(self._provider, error) from error
        except (httpx.InvalidURL, ExceptionGroup, OverflowError, UnicodeError) as error:
            # What the libraries raise for hosts and ports that cannot be. Their own text can hold a proxy's password.
            problem = f"base_url {self._base_url}, or the proxy that the environment names, cannot be used ({type(error).__name__})"
            raise LlmRejectedError(self._provider, f"{problem}: correct it", processed=False) from None
        if response.status_code != httpx.codes.OK:
            raise of_status(self._provider, response.status_code, response.headers, content, key=key, now=self.now())
        return self._parsed(content, key)

    def now(self) -> datetime:
        """Return the time by the clock on the wall, which is what dates of HTTP are in."""
        return datetime.fromtimestamp(self._wall_clock(), UTC)

    async def _exchange(
        self, client: httpx.AsyncClient, path: str, headers: Mapping[str, str], body: Mapping[str, Any], *, lane_s: float
    ) -> tuple[httpx.Response, bytes]:
        phases = httpx.Timeout(connect=self._limits.connect_s, read=self._limits.read_s, write=self._limits.write_s, pool=lane_s)
        async with client.stream("POST", f"{self._base_url}{path}", headers=dict(headers), json=body, timeout=phases) as response:
            content = bytearray()
            async for part in response.aiter_bytes():
                content += part
                if len(content) > MAX_ANSWER_BYTES:
                    raise LlmAnswerError(self._provider, f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
            return response, bytes(content)

    def _parsed(self, content: bytes, key: str) -> Mapping[str, Any]:
        try:
            payload = storable_json(content)
        except ValueError as error:
            shown = without(key, content.decode("utf-8", "replace"))[-SHOWN_CHARS:]
            raise LlmAnswerError(self._provider, f"its answer is not JSON ({error}), and ends with {shown!r}", again=True) from error
        if not isinstance(payload, dict):
            raise LlmAnswerError(self._provider, f"its answer is no JSON object but {type(payload).__name__}", again=True)
        return payload

    async def _open(self) -> httpx.AsyncClient:
        async with self._opening:
            if self._client is None:
                # Reading the certificates takes tens of milliseconds.
                self._client = await to_thread.run_sync(self._make)
            return self._client

    def _make(self) -> httpx.AsyncClient:
        limits, certificates = self._limits, self._certificates()
        proxy = proxy_of(httpx.URL(self._base_url))

        def lane() -> httpx.AsyncHTTPTransport:
            one = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEEPALIVE_S)
            try:
                return httpx.AsyncHTTPTransport(http2=True, verify=certificates, limits=one, proxy=proxy)
            except (ValueError, ImportError, httpx.InvalidURL) as error:
                # The error's own text can hold the proxy's password.
                problem = f"the proxy that the environment names cannot be used ({type(error).__name__}): write it as http://host:port"
                raise LlmRejectedError(self._provider, problem, processed=False) from None

        return httpx.AsyncClient(transport=Lanes(lane, size=limits.connections, keepalive_s=KEEPALIVE_S))

    def _certificates(self) -> ssl.SSLContext:
        try:
            context = httpx.create_ssl_context()
        except OSError as error:
            named = {name: os.environ[name] for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if name in os.environ}
            problem = f"the certificates that the environment names cannot be read, {named}: {error}; correct or remove the variable"
            raise LlmRejectedError(self._provider, problem, processed=False) from error
        if self._ca_file:
            try:
                context.load_verify_locations(cafile=os.path.expanduser(self._ca_file))
            except OSError as error:
                problem = f"ca_file {self._ca_file} cannot be read as certificates: {error}"
                raise LlmRejectedError(self._provider, problem, processed=False) from error
        return context

    async def close(self) -> None:
        """Close the connections; a later request opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()
