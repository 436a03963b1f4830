"""Asking again: exponential backoff with full jitter, never sooner than the provider asked for (by tenacity).

Full jitter: a pause is uniform in 0 to min(cap, first * 2^(n-1)), so that clients which failed together do not come
back together. https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, stop_any, stop_before_delay

from tracebank.errors import LlmCallError
from tracebank.llm.base import Sleep


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How often a provider is asked, and how long the pauses in between may be."""

    attempts: int = 4
    first_s: float = 0.5
    most_s: float = 30.0


def attempts(patience: Patience, *, repeatable: bool, sleep: Sleep, rng: random.Random, within_s: float = math.inf) -> AsyncRetrying:
    """Return the attempts to loop over, none of which begins after `within_s`. The last error is raised as it is."""

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked_s = error.retry_after_s if isinstance(error, LlmCallError) else None
        return pause_s(patience, state.attempt_number, asked_s, rng)

    return AsyncRetrying(
        sleep=sleep,
        stop=stop_any(stop_after_attempt(patience.attempts), stop_before_delay(within_s)),
        wait=wait,
        retry=retry_if_exception(lambda error: _again(error, patience, repeatable=repeatable)),
        reraise=True,
    )


def pause_s(patience: Patience, failed: int, asked_s: float | None, rng: random.Random) -> float:
    """Return the pause after so many failed attempts; what the provider asked for is the least."""
    if asked_s is not None:
        # A little later than asked, each a little differently.
        return min(patience.most_s, asked_s + rng.uniform(0, patience.first_s))
    return rng.uniform(0, min(patience.most_s, patience.first_s * 2 ** (failed - 1)))


def is_too_long(asked_s: float | None, patience: Patience) -> bool:
    """Return whether a provider asks for more patience than there is."""
    return asked_s is not None and asked_s > patience.most_s


def _again(error: BaseException, patience: Patience, *, repeatable: bool) -> bool:
    if not isinstance(error, LlmCallError) or not error.again or is_too_long(error.retry_after_s, patience):
        return False
    return repeatable or not error.processed
