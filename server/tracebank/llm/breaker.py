"""A circuit breaker: a provider that fails again and again is left alone for a while, then tried with one call.

Nygard, "Release It!", 2007. The libraries for it know threads, or are no longer kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tracebank.errors import LlmCallError, LlmTooLateError, LlmUnavailableError
from tracebank.llm.base import BreakerState

TOO_MANY_REQUESTS = 429


class Breaker:
    """Closed: calls go through. Open: none does. Half open: one does, and decides.

    With `in_haste` it is for those who wait for seconds only, and to be too late for them is a failure, too; whoever waits longer
    is not to be refused for it.
    """

    def __init__(self, provider: str, *, failures: int, pause_s: float, clock: Callable[[], float], in_haste: bool = False) -> None:
        self._provider, self._limit, self._pause_s, self._clock = provider, failures, pause_s, clock
        self._in_haste = in_haste
        self._failures = 0
        self._open_until: float | None = None
        self._probing = False
        self._last = ""
        self.openings = 0

    @property
    def state(self) -> BreakerState:
        """Return whether calls go through."""
        if self._open_until is None:
            return "closed"
        return "open" if self._clock() < self._open_until else "half_open"

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Let one call through, and learn from how it ends. Raises: LlmUnavailableError where none may go through."""
        probe = self._enter()
        try:
            yield
        except LlmUnavailableError as error:
            if self._in_haste or not isinstance(error, LlmTooLateError):
                self._failed(error, probe=probe)
            raise
        except LlmCallError:
            # It answered, if not as we like.
            self._answered(probe=probe)
            raise
        else:
            self._answered(probe=probe)
        finally:
            # Whatever else ends a probe (a cap, a cancellation) says nothing, but lets the next one try.
            if probe:
                self._probing = False

    def hold(self, pause_s: float) -> None:
        """Leave the provider alone for so long, because it asked for it."""
        self._open(pause_s)

    def _enter(self) -> bool:
        state = self.state
        if state == "open" or (state == "half_open" and self._probing):
            wait_s = max(0.0, (self._open_until or 0.0) - self._clock())
            # Whoever hears only of the pause would not know what to mend.
            cause = f"; it last failed so: {self._last}" if self._last else ""
            raise LlmUnavailableError(
                self._provider, f"it is left alone after failures, for another {wait_s:.0f} s{cause}", processed=False
            )
        self._probing = state == "half_open"
        return self._probing

    def _failed(self, error: LlmUnavailableError, *, probe: bool) -> None:
        self._last = error.problem
        # A limit on our rate is no failure of the provider's: its answer says how long to wait.
        if error.status == TOO_MANY_REQUESTS and not probe:
            return
        self._failures += 1
        if probe or self._failures >= self._limit:
            self._open(self._pause_s)

    def _open(self, pause_s: float) -> None:
        self.openings += self._open_until is None
        self._open_until = max(self._open_until or 0.0, self._clock() + pause_s)

    def _answered(self, *, probe: bool) -> None:
        # A call that began before the breaker opened does not close it: only the probe does.
        if probe or self._open_until is None:
            self._failures, self._open_until = 0, None
