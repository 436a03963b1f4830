"""The engine as a process: settings are read here, the engine is opened, clients are served, everything is closed again.

python -m tracebank.daemon      one engine for all clients of the data directory, on a socket (the front starts it)
serve_one_client()              one engine for the client on standard input and output (TRACEBANK_ENGINE=in-process)
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from anyio import to_thread
from mcp.server.mcpserver import MCPServer

from tracebank import __version__, link, memory
from tracebank.engine import Engine, Session, prepare_data_dir
from tracebank.errors import EngineError, InputError, SettingsError, TracebankError
from tracebank.front import answers_path
from tracebank.http import HttpSettings, serving
from tracebank.operations import OPERATIONS
from tracebank.protocol.answers import early_answers, write_down
from tracebank.protocol.plugins import Plugins, load_plugins
from tracebank.protocol.server import build_server
from tracebank.protocol.session import Reading, lines, serve
from tracebank.records import check_id
from tracebank.settings import Settings, load_settings
from tracebank.store import traces

log = logging.getLogger(__name__)

LOG_BYTES, LOG_FILES = 1_048_576, 2
GREETING_TIMEOUT_S = 10.0
DRAIN_S = 10.0
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Daemon:
    """Serves connections with one engine until it is idle for long, is asked to leave, or gets a signal."""

    def __init__(self, engine: Engine, plugins: Plugins, token: str, leaving: asyncio.Event) -> None:
        self._engine, self._plugins, self._token = engine, plugins, token
        self.leaving = leaving
        self._settings = engine.settings
        self._environment = link.greeting("")["settings"]
        self._servers: dict[tuple[str, ...], MCPServer[Session]] = {}
        # With what they read, once they have said who they are.
        self._connections: dict[asyncio.Task[None], Reading | None] = {}
        self._answers: dict[str | None, asyncio.Task[None]] = {}
        self._sessions = 0
        self._idle_since = time.monotonic()
        self._stopped = False

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection; whatever goes wrong in it is its own."""
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = None
        try:
            await self._greet(task, reader, writer)
        except (OSError, TimeoutError, ValueError) as error:
            log.info("a connection ended: %s", error)
        except Exception:  # one client's trouble must not be another's
            log.exception("a connection has failed")
        finally:
            del self._connections[task]
            writer.close()

    async def _greet(self, task: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def say(message: Mapping[str, Any]) -> None:
            await _send(writer, json.dumps(message).encode() + b"\n")

        async with asyncio.timeout(GREETING_TIMEOUT_S):
            greeting = json.loads(await reader.readline() or b"null")
        if not isinstance(greeting, dict) or not hmac.compare_digest(str(greeting.get("token")).encode(), self._token.encode()):
            await say({"error": "this is not a greeting that Tracebank knows"})
            return
        reading = self._connections[task] = Reading(reader)
        role = greeting.get("role")
        if role == "mcp":
            await self._serve_mcp(greeting, reading, writer, say)
        elif role == "operations":
            await self._serve_operations(greeting, reading, say)
        elif role == "status":
            await say({**self._about(greeting), **await self._status()})
        elif role in ("stop", "make_way"):
            await say(self._about(greeting))
            # Who serves HTTP for a person goes on with the engine that comes next, unless this is to be the last.
            self._stopped = role == "stop"
            log.info("asked to leave")
            self.leaving.set()
        else:
            await say({"error": f"unknown role {role!r}"})

    def _about(self, greeting: Mapping[str, Any]) -> dict[str, Any]:
        theirs = greeting.get("settings")
        notes = [
            f"{name}={value!r} has no effect: the engine (process {os.getpid()}) runs with {self._environment.get(name)!r}. "
            "`tracebank stop` ends it, and the next client starts it with its own settings."
            for name, value in (theirs if isinstance(theirs, dict) else {}).items()
            if self._environment.get(name) != value
        ]
        return {"version": __version__, "pid": os.getpid(), "notes": notes}

    async def _status(self) -> dict[str, Any]:
        counts = await self._engine.store.read(traces.namespaces)
        return {
            "running": True,
            "data_dir": str(self._settings.data_dir),
            "sessions": self._sessions,
            "uptime_s": round(time.time() - self._engine.started_at, 1),
            "traces": sum(counts.values()),
        }

    @contextlib.contextmanager
    def _session(self) -> Any:
        self._sessions += 1
        try:
            yield
        finally:
            self._sessions -= 1
            self._idle_since = time.monotonic()

    # -- MCP ----------------------------------------------------------------------------------------------------

    async def _serve_mcp(
        self,
        greeting: Mapping[str, Any],
        reading: Reading,
        writer: asyncio.StreamWriter,
        say: Callable[[Mapping[str, Any]], Awaitable[None]],
    ) -> None:
        try:
            session = self._engine.session(self._namespace(greeting))
            choice = greeting.get("tools")
            server = self._server(self._tools(choice))
        except (InputError, SettingsError) as error:
            await say({"error": str(error)})
            return
        await say(self._about(greeting))
        self._write_answers_once(choice if isinstance(choice, str) else None)
        with self._session():
            await serve(server, session, reading, lambda line: _send(writer, line))

    def _namespace(self, greeting: Mapping[str, Any]) -> str:
        name = greeting.get("namespace")
        return check_id("TRACEBANK_NAMESPACE", name, self._engine.limits) if name else self._settings.namespace

    def _tools(self, choice: object) -> tuple[str, ...]:
        return tuple(n.strip() for n in choice.split(",") if n.strip()) if isinstance(choice, str) else self._settings.tools

    def _server(self, tools: tuple[str, ...]) -> MCPServer[Session]:
        if tools not in self._servers:
            self._servers[tools] = build_server(self._plugins.chosen(tools))
        return self._servers[tools]

    def _write_answers_once(self, choice: str | None) -> None:
        if choice not in self._answers:
            self._answers[choice] = asyncio.create_task(self._write_answers(choice))

    async def _write_answers(self, choice: str | None) -> None:
        """Write down what fronts of clients with this choice of tools may answer before an engine is up.

        Where there is something already it is seldom wrong (a plug-in was installed), and the clients come first.
        """
        path = Path(answers_path(str(self._settings.data_dir), choice))
        if await asyncio.to_thread(path.is_file):
            await self._engine.warm.wait()
        answers = await early_answers(self._server(self._tools(choice)), self._engine.session())
        try:
            write_down(path, answers)
        except OSError as error:
            log.warning("the answers for fronts cannot be written down: %s", error)

    # -- the command line ---------------------------------------------------------------------------------------

    async def _serve_operations(
        self, greeting: Mapping[str, Any], reading: Reading, say: Callable[[Mapping[str, Any]], Awaitable[None]]
    ) -> None:
        try:
            session = self._engine.session(self._namespace(greeting))
        except InputError as error:
            await say({"error": str(error)})
            return
        await say(self._about(greeting))
        with self._session():
            await self._obey(session, reading, say)

    async def _obey(self, session: Session, reading: Reading, say: Callable[[Mapping[str, Any]], Awaitable[None]]) -> None:
        async for line in lines(reading):
            request = json.loads(line)
            if request["operation"] == "serve":
                await self._serve_http(request["arguments"], reading, say)
                return
            try:
                if request["operation"] not in OPERATIONS:
                    raise EngineError(f"this engine ({__version__}) does not know {request['operation']!r}: end it with `tracebank stop`")
                async for event in OPERATIONS[request["operation"]](session, **request["arguments"]):
                    await say({"event": event})
                await say({"end": True})
            except TracebankError as error:
                await say({"error": str(error)})

    async def _serve_http(
        self,
        arguments: Mapping[str, Any],
        reading: Reading,
        say: Callable[[Mapping[str, Any]], Awaitable[None]],
    ) -> None:
        """Serve HTTP for as long as the one who asked for it stays connected."""
        try:
            server = build_server(self._plugins.chosen(self._settings.tools), shared=self._engine.session())
            async with serving(server, HttpSettings(**arguments)) as url:
                await say({"event": {"url": url}})
                await reading.read(1)
            if self._stopped:
                await say({"end": True})
        except TracebankError as error:
            await say({"error": str(error)})

    # -- leaving ------------------------------------------------------------------------------------------------

    async def until_leaving(self) -> None:
        """Wait until somebody asks, or nobody has been there for the idle time."""
        idle_s = self._settings.daemon.idle_s
        while True:
            left_s = idle_s if self._sessions else idle_s - (time.monotonic() - self._idle_since)
            try:
                async with asyncio.timeout(max(left_s, 0.05)):
                    await self.leaving.wait()
                    return
            except TimeoutError:
                if not self._sessions and time.monotonic() - self._idle_since >= idle_s:
                    log.info("nobody has been here for %s s: leaving", idle_s)
                    return

    async def drain(self) -> None:
        """Read no more, let what was read be answered, for a while, then end all connections."""
        for task, reading in self._connections.items():
            if reading is None:
                task.cancel()
            else:
                reading.end()
        if self._connections:
            await asyncio.wait(self._connections, timeout=DRAIN_S)
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)


async def _send(writer: asyncio.StreamWriter, line: bytes) -> None:
    writer.write(line)
    await writer.drain()


@contextlib.contextmanager
def _listening(data_dir: str) -> Any:
    """Listen for clients; yields the socket and the token they must know. The address is written when all is ready."""
    path = link.socket_path(data_dir)
    token = ""
    if path is None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.bind(("127.0.0.1", 0))
        token = secrets.token_urlsafe(32)
        address: dict[str, Any] = {"port": sock.getsockname()[1], "token": token}
    else:
        # We hold the directory's lock, so a socket that is there is a dead engine's.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Nobody else gets through its directory meanwhile; the umask is not ours alone, other threads are making files.
        sock.bind(path)
        os.chmod(path, 0o600)
        address = {"unix": path, "token": token}
    file = Path(data_dir) / link.ADDRESS_NAME
    try:
        sock.listen(128)
        sock.setblocking(False)
        draft = file.with_suffix(".tmp")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            json.dump(address, out)
        draft.replace(file)
        yield sock, token
    finally:
        file.unlink(missing_ok=True)
        sock.close()
        if path is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


async def _run(settings: Settings, ready: Callable[[], None]) -> None:
    leaving = asyncio.Event()
    _on_signals(leaving.set)
    plugins = load_plugins()
    async with Engine.open(settings) as engine:
        engine.plugins = plugins.report()
        with _listening(str(settings.data_dir)) as (sock, token):
            daemon = Daemon(engine, plugins, token, leaving)
            listener = await _listen(sock, daemon)
            ready()
            await daemon.until_leaving()
            listener.close()
            await daemon.drain()


async def _listen(sock: socket.socket, daemon: Daemon) -> asyncio.Server:
    if sock.family == socket.AF_INET:
        return await asyncio.start_server(daemon.accept, sock=sock)
    return await asyncio.start_unix_server(daemon.accept, sock=sock)


def _on_signals(act: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # Windows
            loop.add_signal_handler(number, act)


def main() -> None:
    """Run the engine process. Tells whoever started it "ready", or in one line what is wrong."""
    # What a library prints must not be taken for what we tell.
    starter: int | None = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def tell(line: str) -> None:
        nonlocal starter
        if starter is not None:
            # Whoever started us may be gone; others are waiting for us.
            with contextlib.suppress(OSError):
                os.write(starter, line.encode() + b"\n")
            os.close(starter)
            starter = None

    code = 0
    memory.share_one_arena()
    try:
        settings = load_settings()
        prepare_data_dir(settings.data_dir)
        configure_logging(settings.log_level, settings.data_dir / link.LOG_NAME)
        asyncio.run(_run(settings, lambda: tell("ready")))
    except TracebankError as error:
        log.error("%s", error)  # noqa: TRY400 - the message says it all
        tell(str(error).replace("\n", " "))
        code = 1
    except Exception:
        log.exception("the engine has failed")
        code = 1
    _leave(code)


# -- one client, in this process --------------------------------------------------------------------------------


class _StandardInput:
    """Standard input as a `ByteReader`: the reading blocks a thread, never the event loop."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    async def read(self, n: int) -> bytes:
        # Abandoned where a signal ends us: it comes back when the client says something, or never.
        return await to_thread.run_sync(os.read, self._descriptor, n, abandon_on_cancel=True)


def serve_one_client() -> None:
    """Serve the client on standard input and output until its input ends or a signal comes, then exit."""
    code = 0
    memory.share_one_arena()
    try:
        settings = load_settings()
        configure_logging(settings.log_level)
        asyncio.run(_serve_one(settings))
    except TracebankError as error:
        print(f"tracebank: {error}", file=sys.stderr)
        code = 1
    _leave(code)


async def _serve_one(settings: Settings) -> None:
    # The protocol keeps standard output for itself: a stray print goes to standard error.
    wire = os.dup(1)
    os.dup2(2, 1)
    reading = Reading(_StandardInput(os.dup(0)))
    one_line_at_a_time = asyncio.Lock()

    async def write(line: bytes) -> None:
        async with one_line_at_a_time:
            await to_thread.run_sync(_write_all, wire, line, abandon_on_cancel=True)

    plugins = load_plugins()
    async with Engine.open(settings, mode="in-process") as engine:
        engine.plugins = plugins.report()
        server = build_server(plugins.chosen(settings.tools))
        _on_signals(reading.end)
        await serve(server, engine.session(), reading, write)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def configure_logging(level: str, file: Path | None = None) -> None:
    """Send the log to a file that rotates, or to standard error: standard output belongs to the protocol."""
    handler = (
        RotatingFileHandler(file, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8")
        if file
        else logging.StreamHandler(sys.stderr)
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], format=LOG_FORMAT, force=True)


def _leave(code: int) -> None:
    logging.shutdown()
    # Everything is closed; what is left are threads of libraries that may block or take their time.
    os._exit(code)


if __name__ == "__main__":
    main()
