"""What can go wrong between us and a provider, as errors of our own. Keys never get into a message."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from tracebank.errors import LlmCallError, LlmRejectedError, LlmTooLateError, LlmUnavailableError
from tracebank.llm.storable import storable_json

SHOWN_CHARS = 300
# Whoever asks to be left alone for longer is tried again after a day: a number can be any number.
LONGEST_PAUSE_S = 86_400.0
# Refused before any work was done: asking again does nothing twice. 529 is Anthropic's "overloaded".
_UNPROCESSED = frozenset({425, 429, 503, 529})
_TRANSIENT = frozenset({408, 409, 500, 502, 504}) | _UNPROCESSED
# A gateway's, which gave up on whoever may have done the work; from 520 on they are Cloudflare's.
_GATEWAY = frozenset({408, 502, 504, *range(520, 600)}) - _UNPROCESSED
_BY_STATUS = {
    401: "it does not accept the key",
    403: "the key may not do this",
    404: "there is no such address or model",
    429: "too many requests",
}
# It comes with status 429, and waiting does not bring money.
_NO_QUOTA = "insufficient_quota"


def of_status(provider: str, status: int, headers: Mapping[str, str], body: bytes, *, key: str, now: datetime) -> LlmCallError:
    """Return the error for an answer whose status is one."""
    said = _said(body)
    problem = f"{_BY_STATUS.get(status, 'it failed' if status >= 500 else 'it rejects the request')} (status {status})"
    if said:
        problem += f": {without(key, said)[:SHOWN_CHARS]}"
    if (status not in _TRANSIENT and status < 500) or _NO_QUOTA in said:
        return LlmRejectedError(provider, problem, status=status, processed=False)
    return LlmUnavailableError(
        provider, problem, status=status, processed=status not in _UNPROCESSED, again=True, retry_after_s=retry_after_s(headers, now=now)
    )


def of_network(provider: str, error: Exception) -> LlmUnavailableError:
    """Return the error for a request that got no whole answer."""
    if isinstance(error, httpx.PoolTimeout):
        return LlmTooLateError(provider, "all connections to it are in use (PoolTimeout)", processed=False, again=True)
    never_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
    # Of a reset connection the library says nothing but its kind.
    said = str(error) or "the connection broke"
    return LlmUnavailableError(provider, f"{said[:SHOWN_CHARS]} ({type(error).__name__})", processed=not never_sent, again=True)


def is_charged(error: LlmCallError) -> bool:
    """Return whether the provider may charge for a call that ended so: where no answer came whole, or a gateway's, the work may be done."""
    return error.processed and (error.status is None or error.status in _GATEWAY)


def retry_after_s(headers: Mapping[str, str], *, now: datetime) -> float | None:
    """Return how long the provider asks to be left alone, a day at most: in seconds, or until a date (RFC 9110, 10.2.3)."""
    value = headers.get("retry-after", "").strip()
    if value.isdecimal():
        return min(float(value), LONGEST_PAUSE_S)
    try:
        until = parsedate_to_datetime(value)
        # A date without a zone is in UTC, as all dates of HTTP are.
        asked_s = (until.replace(tzinfo=until.tzinfo or UTC) - now).total_seconds()
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, asked_s), LONGEST_PAUSE_S)


def _said(body: bytes) -> str:
    """Return the message in a body that tells of an error, as the providers write it, else its beginning."""
    text = body.decode("utf-8", "replace")
    try:
        error: Any = storable_json(text)
    except ValueError:
        return " ".join(text.split())
    error = error.get("error", error) if isinstance(error, dict) else error
    if isinstance(error, dict):
        return " ".join(str(error[name]) for name in ("message", "code") if error.get(name))
    return str(error)


def without(key: str, text: str) -> str:
    """Return the text without the key: some providers repeat what they were sent."""
    return text.replace(key, "[key]") if key else text
