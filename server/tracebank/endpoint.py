"""Where the engine listens: a Unix socket for its owner alone, or loopback TCP with a token; and the file that says where."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from tracebank import link
from tracebank.errors import EngineError

Accept = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.contextmanager
def bound(data_dir: str) -> Iterator[tuple[socket.socket, str]]:
    """Listen for clients; yields the socket and the token they must know. The address is written when all is ready.

    Raises: EngineError where there can be no socket.
    """
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
        try:
            sock.bind(path)
        except OSError as error:
            sock.close()
            raise EngineError(f"{path} cannot be a socket: {error}; choose another data directory, with a shorter path") from error
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


async def listen(sock: socket.socket, accept: Accept) -> asyncio.Server:
    """Begin to accept connections."""
    if sock.family == socket.AF_INET:
        return await asyncio.start_server(accept, sock=sock)
    return await asyncio.start_unix_server(accept, sock=sock)
