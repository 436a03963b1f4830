"""The engine as a process: settings are read here, the engine is opened, clients are served, everything is closed again.

python -m tracebank.daemon      one engine for all clients of the data directory, on a socket (the front starts it)
"""

from __future__ import annotations

import gc

from tracebank import blas

if __name__ == "__main__":
    # What is imported stays: looking through all of it, again and again, takes a seventh of the time.
    gc.disable()
    blas.stay_in_one_thread()

import asyncio
import contextlib
import hmac
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mcp.server.mcpserver import MCPServer

from tracebank import __version__, link, memory
from tracebank.early import answers_path, settings_mark
from tracebank.endpoint import bound, listen
from tracebank.engine import Engine, Session, prepare_data_dir
from tracebank.errors import EngineError, InputError, SettingsError, TracebankError
from tracebank.http import HttpSettings, SessionOfEach, serving
from tracebank.operations import OPERATIONS
from tracebank.places import default_data_dir
from tracebank.process import configure_logging, keep_what_came_up, leave, on_signals
from tracebank.protocol.answers import early_answers, write_down
from tracebank.protocol.plugins import Plugins, load_plugins
from tracebank.protocol.server import build_server
from tracebank.protocol.session import Reading, lines, serve
from tracebank.records import check_id
from tracebank.settings import Settings, load_settings
from tracebank.store import traces

log = logging.getLogger(__name__)

Say = Callable[[Mapping[str, Any]], Awaitable[None]]

GREETING_TIMEOUT_S = 10.0
# A greeting has the settings of the client's environment, and what they say of language models may be long.
MAX_GREETING_BYTES = 4 * 1_048_576
DRAIN_S = 10.0


class Daemon:
    """Serves connections with one engine until it is idle for long, is asked to leave, or gets a signal."""

    def __init__(self, engine: Engine, plugins: Plugins, token: str, leaving: asyncio.Event, mark: str) -> None:
        self._engine, self._plugins, self._token, self._mark = engine, plugins, token, mark
        self.leaving = leaving
        self._settings = engine.settings
        self._environment = link.settings_variables()
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
        except OSError as error:
            log.info("a connection ended: %s", error)
        except asyncio.CancelledError:
            # The engine leaves. The streams of Python 3.11 log a handler that is cancelled as a fault.
            log.info("a connection was cut off")
        except Exception:  # one client's trouble must not be another's
            log.exception("a connection has failed")
        finally:
            del self._connections[task]
            writer.close()

    async def _greet(self, task: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def say(message: Mapping[str, Any]) -> None:
            await _send(writer, json.dumps(message).encode() + b"\n")

        async with asyncio.timeout(GREETING_TIMEOUT_S):
            greeting = await _first_line(reader)
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
            async with self._telling("status", say):
                await say({**self._about(greeting), **await self._status()})
        elif role in ("stop", "make_way"):
            await say(self._about(greeting))
            # Who serves HTTP for a person goes on with the engine that comes next, unless this is to be the last.
            self._stopped |= role == "stop"
            log.info("asked to leave")
            self.leaving.set()
        else:
            await say({"error": f"unknown role {role!r}"})

    def _about(self, greeting: Mapping[str, Any]) -> dict[str, Any]:
        theirs = greeting.get("settings")
        # By name only: it may be that of the providers, and somebody put the key itself there.
        notes = [
            f"{name} has no effect: the engine (process {os.getpid()}) was started "
            f"{'with another value' if name in self._environment else 'without it'}. "
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
            "uptime_s": self._engine.uptime_s,
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
        say: Say,
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
        path = Path(answers_path(str(self._settings.data_dir), choice, self._mark))
        if await asyncio.to_thread(path.is_file):
            await self._engine.warm.wait()
        answers = await early_answers(self._server(self._tools(choice)), self._engine.session())
        try:
            write_down(path, answers)
        except OSError as error:
            log.warning("the answers for fronts cannot be written down: %s", error)

    # -- the command line ---------------------------------------------------------------------------------------

    async def _serve_operations(self, greeting: Mapping[str, Any], reading: Reading, say: Say) -> None:
        try:
            session = self._engine.session(self._namespace(greeting))
        except InputError as error:
            await say({"error": str(error)})
            return
        await say(self._about(greeting))
        with self._session():
            await self._obey(session, reading, say)

    async def _obey(self, session: Session, reading: Reading, say: Say) -> None:
        received = lines(reading)
        while True:
            try:
                request = json.loads(await anext(received, b"null"))
                if request is None:
                    return
                operation, arguments = request["operation"], request["arguments"]
            except (ValueError, RecursionError, LookupError, TypeError) as error:
                await say({"error": f"this is not a request that Tracebank knows: {error}"})
                return
            async with self._telling(operation, say):
                if operation == "serve":
                    await self._serve_http(arguments, reading, say)
                    return
                if operation not in OPERATIONS:
                    raise EngineError(f"this engine ({__version__}) does not know {operation!r}: end it with `tracebank stop`")
                async for event in OPERATIONS[operation](session, **arguments):
                    await say({"event": event})
                await say({"end": True})

    @contextlib.asynccontextmanager
    async def _telling(self, what: object, say: Say) -> AsyncIterator[None]:
        """Tell whoever asked what has gone wrong; of what nobody expects the log tells the place."""
        try:
            yield
        except TracebankError as error:
            await say({"error": str(error)})
        except ConnectionError:
            raise  # nobody is there to be told
        except Exception as error:
            log.exception("%s has failed", what)
            place = self._settings.data_dir / link.LOG_NAME
            await say(
                {"error": f"{what} has failed by a fault of Tracebank's own ({type(error).__name__}: {error}): its place is in {place}"}
            )

    async def _serve_http(
        self,
        arguments: Mapping[str, Any],
        reading: Reading,
        say: Say,
    ) -> None:
        """Serve HTTP for as long as the one who asked for it stays connected."""
        server = build_server(self._plugins.chosen(self._settings.tools), middleware=[SessionOfEach(self._engine.session)])
        async with serving(server, HttpSettings(**arguments)) as url:
            await say({"event": {"url": url}})
            await reading.read(1)
        if self._stopped:
            await say({"end": True})

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


async def _first_line(reader: asyncio.StreamReader) -> object:
    """Return what the first line holds, None where that is no JSON or too long. Raises: OSError."""
    line = bytearray()
    while not line.endswith(b"\n") and len(line) <= MAX_GREETING_BYTES:
        try:
            line += await reader.readuntil()
        except asyncio.LimitOverrunError as error:
            # It is longer than a stream keeps. That bound is to stay: it is how much of a client's calls is read ahead.
            line += await reader.readexactly(error.consumed)
        except asyncio.IncompleteReadError as error:
            line += error.partial
            break
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


async def _send(writer: asyncio.StreamWriter, line: bytes) -> None:
    writer.write(line)
    await writer.drain()


async def _run(settings: Settings, mark: str, ready: Callable[[], None]) -> None:
    leaving = asyncio.Event()
    on_signals(leaving.set)
    plugins = load_plugins()
    async with Engine.open(settings) as engine:
        plugins = plugins.of(engine)
        engine.plugins = plugins.report()
        engine.background.spawn("collector", partial(keep_what_came_up, engine.warm))
        with bound(str(settings.data_dir)) as (sock, token):
            daemon = Daemon(engine, plugins, token, leaving, mark)
            listener = await listen(sock, daemon.accept)
            ready()
            await daemon.until_leaving()
            listener.close()
            await daemon.drain()


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
    gc.freeze()
    gc.enable()
    memory.share_one_arena()
    try:
        # Before they are read: where the file changes in between, the mark is that of no settings that hold.
        mark = settings_mark(default_data_dir(), link.settings_variables())
        settings = load_settings()
        prepare_data_dir(settings.data_dir)
        configure_logging(settings.log_level, settings.data_dir / link.LOG_NAME)
        asyncio.run(_run(settings, mark, lambda: tell("ready")))
    except TracebankError as error:
        log.error("%s", error)  # noqa: TRY400 - the message says it all
        tell(str(error).replace("\n", " "))
        code = 1
    except Exception:
        log.exception("the engine has failed")
        code = 1
    leave(code)


if __name__ == "__main__":
    main()
