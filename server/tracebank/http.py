"""Streamable HTTP by the same engine: one address, a bearer token, Host and Origin checked, sizes bounded.

`tracebank serve` asks the engine for it, so clients on HTTP and on stdio share one memory.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import ipaddress
import logging
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tracebank.caching import LruCache
from tracebank.errors import InputError, SettingsError

if TYPE_CHECKING:
    from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
    from mcp.server.mcpserver import MCPServer
    from starlette.types import ASGIApp, Receive, Scope, Send

    from tracebank.engine import Session

log = logging.getLogger(__name__)

PATH = "/mcp"
MAX_REQUEST_BYTES = 8 * 1_048_576
GRACE_S = 5
SESSION_HEADER = "mcp-session-id"
# So many are told apart; of one that is met again after as many others it is not known what it was shown.
MAX_SESSIONS = 1_000
REALM = b'Bearer realm="tracebank"'


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """Where to listen, and the token to ask for; None: none, which only loopback may."""

    host: str = "127.0.0.1"
    port: int = 0
    token: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise InputError("port", f"must be 0 to 65,535, not {self.port}")
        if self.token is None and not is_loopback(self.host):
            raise SettingsError(f"without a token only this machine may connect: {self.host} needs one")
        # An empty one would let everybody in, and with others no header can be made.
        if self.token is not None and not re.fullmatch(r"[!-~]+", self.token):
            raise SettingsError(
                "the token must be letters, digits and signs of ASCII without blanks: change TRACEBANK_HTTP_TOKEN, "
                "or remove http.token from the data directory, and a new one is made"
            )


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class BearerToken:
    """An ASGI middleware that lets nobody in without the token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._expected = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401."""
        # The scheme's name counts whatever its case (RFC 9110, 11.1).
        scheme, _, token = dict(scope.get("headers", ())).get(b"authorization", b"").partition(b" ")
        known = scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(b" "), self._expected)
        if scope["type"] == "http" and not known:
            await send({"type": "http.response.start", "status": 401, "headers": [(b"www-authenticate", REALM), (b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
            return
        await self._app(scope, receive, send)


class SessionOfEach:
    """An MCP middleware that gives each MCP session a `Session` of its own; the SDK has one state for all of HTTP.

    A call that belongs to no session (the stateless era) has one for itself: who cannot be told from others is credited with
    nothing that they were shown, and waits for nothing that they wrote.
    """

    def __init__(self, new: Callable[[], Session]) -> None:
        self._new = new
        self._sessions: LruCache[str, Session] = LruCache(capacity=MAX_SESSIONS, clock=time.monotonic)

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Pass the message on with its session."""
        return await call_next(replace(ctx, lifespan_context=self._session(ctx)))

    def _session(self, ctx: ServerRequestContext[Any, Any]) -> Session:
        name = ctx.request.headers.get(SESSION_HEADER) if ctx.request is not None else None
        if name is None:
            return self._new()
        if (session := self._sessions.get(name)) is None:
            self._sessions.put(name, session := self._new())
        return session


@asynccontextmanager
async def serving(server: MCPServer[Session], settings: HttpSettings) -> AsyncIterator[str]:
    """Serve MCP over HTTP until the body ends; yields the URL. Requests in work are finished, for a while.

    Raises: SettingsError where the address cannot be had.
    """
    import asyncio

    import uvicorn

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # signals are the engine's

    sock = _bound(settings)
    address, port = sock.getsockname()[:2]
    application = _application(server, settings, any_host=ipaddress.ip_address(address).is_unspecified)
    config = uvicorn.Config(application, log_config=None, lifespan="on", server_header=False, timeout_graceful_shutdown=GRACE_S)
    running = Server(config)
    task = asyncio.create_task(running.serve(sockets=[sock]))
    try:
        yield f"http://{_url_host(settings.host)}:{port}{PATH}"
    finally:
        running.should_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await task
        sock.close()


def _application(server: MCPServer[Session], settings: HttpSettings, *, any_host: bool) -> Callable[..., object]:
    """Return the application. `any_host`: it listens on every address, and clients come by names that are not known here.

    There the token is compulsory, and keeps out the pages of other sites, too.
    """
    from mcp.server.transport_security import TransportSecuritySettings

    names = [_url_host(name) for name in _names(settings.host)]
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=not any_host,
        # At a scheme's own port clients leave it out.
        allowed_hosts=[*names, *(f"{name}:*" for name in names)],
        allowed_origins=[f"http://{name}{port}" for name in names for port in ("", ":*")],
    )
    app: ASGIApp = server.streamable_http_app(
        streamable_http_path=PATH, max_request_body_size=MAX_REQUEST_BYTES, transport_security=security, host=settings.host
    )
    return app if settings.token is None else BearerToken(app, settings.token)


def _names(host: str) -> set[str]:
    """Return by what names clients may come: the one that is given, as they write it, too, and each that a loopback has."""
    names = {host, host.lower()} | ({"127.0.0.1", "localhost", "::1"} if is_loopback(host) else set())
    with contextlib.suppress(ValueError):
        names.add(str(ipaddress.ip_address(host)))
    return names


def _bound(settings: HttpSettings) -> socket.socket:
    try:
        return socket.create_server((settings.host, settings.port), family=socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    except OSError as error:
        amiss = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
        raise SettingsError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; choose another {amiss}") from error


def _url_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
