"""Answers as JSON that can be stored: it can come with half characters, NUL and NaN, and a store, or a client, takes none of them."""

from __future__ import annotations

import json
import math
import re
from typing import Any

_UNSTORABLE = re.compile("[\ud800-\udfff\x00]")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def storable(value: Any) -> Any:
    """Return a JSON value whose strings are all well-formed."""
    if isinstance(value, str):
        return _UNSTORABLE.sub(REPLACEMENT, value)
    if isinstance(value, list):
        return [storable(item) for item in value]
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    return value


def storable_json(text: str | bytes) -> Any:
    """Return the JSON value in a text. Raises: ValueError where it is none (NaN and infinity are not JSON), or nested too deeply."""
    try:
        return storable(json.loads(text, parse_constant=_finite, parse_float=_finite))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _finite(written: str) -> float:
    number = float(written)
    if not math.isfinite(number):
        raise ValueError(f"{written[:20]} is no number of JSON")
    return number
