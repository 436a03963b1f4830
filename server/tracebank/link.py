"""Finding, starting and greeting the engine of a data directory. Standard library only: the front starts with it.

The engine listens on a Unix socket (loopback TCP where there are none) and writes where into `engine.address`, for its
owner's eyes only. Whoever connects says who it is in one line of JSON and is answered in one. Whoever finds nobody
starts the engine, one at a time under a file lock, and waits until it says that it listens.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time

from tracebank import __version__
from tracebank.errors import DataDirError, EngineError
from tracebank.locking import FileLock, holder_of, pid_space

TYPE_CHECKING = False  # as in typing, which would cost every client 2 ms and 0.7 MB
if TYPE_CHECKING:
    from typing import Any

ADDRESS_NAME, START_LOCK_NAME, LOG_NAME, STDERR_NAME = "engine.address", "start.lock", "engine.log", "engine.stderr"
TRANSPORT_VARIABLE = "TRACEBANK_TRANSPORT"
START_TIMEOUT_S = 60.0
GREETING_TIMEOUT_S = 60.0
RETRY_S = 0.05
# So often may the engine die while it starts, without a word, before we give up.
MAX_DEATHS = 3
MAX_LINE_BYTES = 64 * 1_048_576
# How deep a message may be nested: what can just be read cannot be written again.
MAX_DEPTH = 200
LOG_TAIL_BYTES = 2_000
# Variables that belong to one client; they travel with its greeting and not to the engine.
CLIENT_VARIABLES = ("TRACEBANK_NAMESPACE", "TRACEBANK_TOOLS")
# Variables that say where and how, and are therefore the same for whoever finds the engine.
PLACE_VARIABLES = ("TRACEBANK_DATA_DIR", "TRACEBANK_ENGINE", "TRACEBANK_HTTP_TOKEN", TRANSPORT_VARIABLE)

# Older versions whose engine this process has asked to leave. If one comes again, it is what is installed now.
_asked_to_leave: set[str] = set()


class Connection:
    """A connection to the engine: whole lines in both directions. Reading and writing may be two threads' work."""

    def __init__(self, sock: socket.socket, about: dict[str, Any]) -> None:
        self.socket, self.about = sock, about
        self._reader = sock.makefile("rb")

    def send(self, line: bytes) -> None:
        """Send a line, its newline included. Raises: OSError."""
        self.socket.sendall(line)

    def receive(self) -> bytes:
        """Return the next line, or b"" when the engine has closed, in the middle of one, too. Raises: OSError."""
        line = self._reader.readline()
        return line if line.endswith(b"\n") else b""

    def close(self) -> None:
        """Close both directions; a thread that is receiving wakes up."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def connect_or_start(data_dir: str, role: str) -> Connection:
    """Return a greeted connection, starting the engine where none answers.

    An engine of an older version is asked to leave first. Raises: EngineError, DataDirError.
    """
    give_up_at = time.monotonic() + START_TIMEOUT_S
    deaths = 0
    while True:
        connection = connect(data_dir, role)
        if connection is not None:
            version = str(connection.about.get("version"))
            if not _older(version) or version in _asked_to_leave:
                return connection
            _asked_to_leave.add(version)
            connection.close()
            ask_to_leave(data_dir, only=connection.about.get("pid"))
        elif (holder := holder_of(data_dir)) is not None:
            if holder.get("mode") == "in-process":
                raise EngineError(f"{data_dir} is in use by process {holder.get('pid')}, which serves its own client only: end it first")
            # It is coming up, or on its way out.
            time.sleep(RETRY_S)
        elif death := _start_one(data_dir):
            deaths += 1
            if deaths >= MAX_DEATHS:
                raise EngineError(death)
        if time.monotonic() > give_up_at:
            raise EngineError(
                f"the engine of {data_dir} does not answer within {START_TIMEOUT_S:.0f} s: see {os.path.join(data_dir, LOG_NAME)}"
            )


def connect(data_dir: str, role: str, timeout_s: float = GREETING_TIMEOUT_S) -> Connection | None:
    """Return a greeted connection to the engine that is running, or None. Raises: EngineError where it refuses."""
    sock, token = _dial(data_dir)
    if sock is None:
        return None
    connection = Connection(sock, {})
    try:
        sock.settimeout(timeout_s)
        connection.send(json.dumps({**greeting(role), "token": token}).encode() + b"\n")
        answer = json.loads(connection.receive() or b"null")
        sock.settimeout(None)
    except (OSError, ValueError):
        answer = None
    if isinstance(answer, dict) and "error" not in answer:
        connection.about = answer
        return connection
    connection.close()
    if isinstance(answer, dict):
        raise EngineError(answer["error"])
    return None


def settings_variables() -> dict[str, str]:
    """Return the variables that are settings of the engine's, which reads them whatever the case of their names."""
    return {name: value for name, value in _variables().items() if name not in (*CLIENT_VARIABLES, *PLACE_VARIABLES)}


def client_variable(name: str) -> str | None:
    """Return one of CLIENT_VARIABLES, None where it is not set."""
    return _variables().get(name)


def _variables() -> dict[str, str]:
    return {name.upper(): value for name, value in os.environ.items() if name.upper().startswith("TRACEBANK_")}


def greeting(role: str) -> dict[str, Any]:
    """Return who we are, and what of our environment concerns the engine."""
    return {
        "tracebank": __version__,
        "role": role,
        "namespace": client_variable("TRACEBANK_NAMESPACE"),
        "tools": client_variable("TRACEBANK_TOOLS"),
        "settings": settings_variables(),
    }


def is_too_deep(message: object) -> bool:
    """Return whether a message is nested deeper than MAX_DEPTH."""
    level = [message]
    for _ in range(MAX_DEPTH):
        level = [
            inner for outer in level if isinstance(outer, dict | list) for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def ask_to_leave(data_dir: str, timeout_s: float = 30.0, *, only: int | None = None) -> int | None:
    """Ask the engine to finish what it accepted and leave; wait until it has. Returns its process id, None if there is none.

    With `only`, the engine is asked only if it is that process. Raises: EngineError if it stays, or is not ours to end.
    """
    holder = holder_of(data_dir)
    if holder is None or only not in (None, holder.get("pid")):
        return None
    connection = connect(data_dir, "stop" if only is None else "make_way")
    if connection is not None:
        connection.close()
    elif isinstance(holder.get("pid"), int) and holder_of(data_dir) == holder:
        # It serves its own client only, or does not listen yet.
        _terminate(data_dir, holder)
    give_up_at = time.monotonic() + timeout_s
    while (still := holder_of(data_dir)) is not None and still.get("pid") == holder.get("pid"):
        if time.monotonic() > give_up_at:
            raise EngineError(f"process {holder.get('pid')} has not ended within {timeout_s:.0f} s; end it with your system's tools")
        time.sleep(RETRY_S)
    return holder.get("pid")


def _terminate(data_dir: str, holder: dict[str, Any]) -> None:
    import signal

    holds = f"process {holder['pid']}, which holds {data_dir}"
    here = pid_space()
    # Older versions did not write it down.
    if (space := holder.get("pid_space", here)) != here:
        raise EngineError(f"{holds}, runs elsewhere ({space}, and this is {here}): end it there")
    try:
        os.kill(holder["pid"], signal.SIGTERM)
    except ProcessLookupError:
        pass
    except PermissionError as error:
        raise EngineError(f"{holds}, may not be ended by you: ask its owner") from error


def socket_path(data_dir: str) -> str | None:
    """Return where the engine's Unix socket is, or None where TCP is to be used.

    A path over the system's limit is replaced by a short one in a directory that only the user can enter. Raises: EngineError.
    """
    if not hasattr(socket, "AF_UNIX") or os.environ.get(TRANSPORT_VARIABLE) == "tcp":
        return None
    path = os.path.join(data_dir, "engine.sock")
    if len(os.fsencode(path)) <= 100:
        return path
    import hashlib
    import tempfile

    home = os.environ.get("XDG_RUNTIME_DIR", "")
    try:
        if not os.path.isdir(home):  # in containers and scheduled jobs it is named, perhaps, and nobody has made it
            home = os.path.join(tempfile.gettempdir(), f"tracebank-{os.getuid()}")
            os.makedirs(home, mode=0o700, exist_ok=True)
        about = os.stat(home)
    except OSError as error:
        raise EngineError(f"there is no place for a socket beside {data_dir}: {error}; choose a shorter data directory") from error
    if about.st_uid != os.getuid() or about.st_mode & 0o077:
        raise EngineError(f"{home} must belong to you alone: remove it, or choose a shorter data directory")
    return os.path.join(home, hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:24] + ".sock")


def _dial(data_dir: str) -> tuple[socket.socket | None, str]:
    sock = None
    try:
        with open(os.path.join(data_dir, ADDRESS_NAME), encoding="utf-8") as file:
            address = json.load(file)
        token = address.get("token", "")
        if "unix" in address:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.connect(address["unix"])
        elif holder_of(data_dir) is not None:
            # Where nobody holds the directory the port is a stranger's by now: he must not see the token.
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect(("127.0.0.1", address["port"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        # There is no address, nobody is there, or it is garbage.
        if sock is not None:
            sock.close()
        return None, ""
    return sock, token


def _older(version: str) -> bool:
    return _parts(version) < _parts(__version__)


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in version.split("+")[0].split(".")[:3])


def _start_one(data_dir: str) -> str:
    """Start the engine, unless somebody else just does; return when it listens.

    Returns what is known where it died without a word, else "". Raises: EngineError, DataDirError.
    """
    try:
        os.makedirs(data_dir, mode=0o700, exist_ok=True)
        lock = FileLock(os.path.join(data_dir, START_LOCK_NAME))
    except OSError as error:
        raise DataDirError(f"{data_dir} cannot be written: {error.strerror}; set TRACEBANK_DATA_DIR to a directory that can be") from error
    try:
        lock.wait()
        return _spawn(data_dir) if holder_of(data_dir) is None else ""
    except OSError as error:
        raise EngineError(f"the engine of {data_dir} cannot be started: {error}") from error
    finally:
        lock.close()


def _spawn(data_dir: str) -> str:
    import subprocess

    environment = {name: value for name, value in os.environ.items() if name.upper() not in CLIENT_VARIABLES}
    environment["TRACEBANK_DATA_DIR"] = data_dir
    errors = os.open(os.path.join(data_dir, STDERR_NAME), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        # Its own session: a signal to the client's process group, or the end of its terminal, is not meant for it.
        options: dict[str, Any] = {"creationflags": 0x00000208} if sys.platform == "win32" else {"start_new_session": True}
        # -P: it works in the data directory and imports nothing from there.
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "tracebank.daemon"],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, cwd=data_dir, **options,
        )  # fmt: skip
    finally:
        os.close(errors)
    told: list[bytes] = []
    heard = threading.Event()

    def attend() -> None:
        assert child.stdout is not None
        with child.stdout as stdout:
            told.append(stdout.readline())
        heard.set()
        # It outlives us or not; while we are there, somebody must take note of its end, or a zombie stays.
        child.wait()

    threading.Thread(target=attend, name="engine-exit", daemon=True).start()
    if not heard.wait(START_TIMEOUT_S):
        if holder_of(data_dir) is None:
            child.kill()
        raise EngineError(f"the engine has not come up within {START_TIMEOUT_S:.0f} s: {log_tail(data_dir)}")
    if told[0].strip() == b"ready":
        return ""
    code = child.wait()
    if holder_of(data_dir) is not None:
        return ""  # another one was quicker
    if told[0].strip():
        raise EngineError(told[0].decode("utf-8", "replace").strip())
    return f"the engine ended with status {code} while starting: {log_tail(data_dir)}"


def log_tail(data_dir: str) -> str:
    """Return the end of the engine's log and of what it wrote to standard error."""
    tails = []
    for name in (STDERR_NAME, LOG_NAME):
        try:
            with open(os.path.join(data_dir, name), "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_TAIL_BYTES))
                tails.append(file.read().decode("utf-8", "replace").strip())
        except OSError:
            continue
    return "\n".join(tail for tail in tails if tail) or "its log is empty"
