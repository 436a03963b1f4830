"""What a provider counts, believed only where it can be: the day's account is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_TOKENS = 1_000_000_000


def tokens(usage: Mapping[str, Any], name: str) -> int | None:
    """Return a count of tokens, or None where there is none that can be meant."""
    count = usage.get(name)
    return count if isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= MAX_TOKENS else None
