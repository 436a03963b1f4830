"""How far a run is, told to whoever listens."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

# Hears how much is done, 0 to 1, and what comes next.
Listener = Callable[[float, str], Coroutine[Any, Any, None]]


class Progress:
    """Counts steps; what is told only grows."""

    def __init__(self, steps: int, listener: Listener | None) -> None:
        self._steps, self._done, self._listener = steps, 0, listener

    def skip(self, steps: int) -> None:
        """So many steps are not needed."""
        self._done += steps

    async def step(self, name: str) -> None:
        """Tell which step begins."""
        # Counted before it is told: another attempt goes on meanwhile.
        share = min(1.0, self._done / self._steps)
        self._done += 1
        if self._listener is not None:
            await self._listener(share, name)
