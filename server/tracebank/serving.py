"""`tracebank serve`: HTTP by the engine, by the next one where it ends, at one address and with one token."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from tracebank.errors import EngineEndedError, EngineError
from tracebank.locking import FileLock
from tracebank.remote import engine

TOKEN_NAME = "http.token"  # noqa: S105 - a file name
TOKEN_VARIABLE = "TRACEBANK_HTTP_TOKEN"  # noqa: S105 - its name
# An engine that ends more often than this is not started again.
MAX_DEATHS, DEATHS_WITHIN_S = 5, 60.0


async def serve_on(host: str, port: int, token: str | None, told: Callable[[str], None], noted: Callable[[str], None]) -> None:
    """Serve until the engine is stopped on purpose. `told` hears the URL, `noted` what a person should know.

    Raises: EngineEndedError where the engine dies again and again; SettingsError's text as an EngineError.
    """
    deaths: list[float] = []
    while True:
        try:
            async with engine() as call:
                async for event in call("serve", host=host, port=port, token=token):
                    # The next engine serves at the address that clients know.
                    port = urlsplit(event["url"]).port or port
                    told(event["url"])
            break
        except EngineEndedError:
            deaths = [at for at in deaths if time.monotonic() - at < DEATHS_WITHIN_S] + [time.monotonic()]
            if len(deaths) > MAX_DEATHS:
                raise
            noted("the engine has ended; the next one is being started")


def token_source(data_dir: str) -> str:
    """Return where a person finds the token."""
    return TOKEN_VARIABLE if _token_of_environment() else f"the file {Path(data_dir) / TOKEN_NAME}"


def http_token(data_dir: str) -> str:
    """Return the token from the environment, else from its file, made where that is new or empty.

    Raises: EngineError, DataDirError.
    """
    if token := _token_of_environment():
        return token
    file = Path(data_dir) / TOKEN_NAME
    try:
        Path(data_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
        return _token_in(file) or _new_token(file)
    except OSError as error:
        raise EngineError(f"{file} cannot be written: {error.strerror}; set {TOKEN_VARIABLE}") from error


def _token_of_environment() -> str:
    return os.environ.get(TOKEN_VARIABLE, "").strip()


def _token_in(file: Path) -> str:
    with suppress(FileNotFoundError):
        # What is no text is no token either, and is refused as such.
        return file.read_text(encoding="ascii", errors="replace").strip()
    return ""


def _new_token(file: Path) -> str:
    """Write a token. Of two who do so at once the second one finds the first one's; a kill leaves a file that counts as none."""
    lock = FileLock(file)
    try:
        lock.wait()
        if token := _token_in(file):
            return token
        # An empty file may be somebody's who let everybody read it.
        file.chmod(0o600)
        lock.write(token := secrets.token_urlsafe(32))
        return token
    finally:
        lock.close()
