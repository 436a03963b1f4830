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
    return TOKEN_VARIABLE if TOKEN_VARIABLE in os.environ else f"the file {Path(data_dir) / TOKEN_NAME}"


def http_token(data_dir: str) -> str:
    """Return the token from the environment, else from its file, made where it is new. Raises: EngineError."""
    if token := os.environ.get(TOKEN_VARIABLE):
        return token
    file = Path(data_dir) / TOKEN_NAME
    try:
        Path(data_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError), os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new:
            new.write(secrets.token_urlsafe(32))
        return file.read_text(encoding="ascii").strip()
    except OSError as error:
        raise EngineError(f"{file} cannot be written: {error.strerror}; set TRACEBANK_HTTP_TOKEN") from error
