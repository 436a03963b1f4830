"""Two things at a time, where handing one to another thread costs less than waiting for it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

First = TypeVar("First")
Second = TypeVar("Second")


class Beside:
    """Threads for what is done beside something else; none begins before it is needed. Any thread may ask."""

    def __init__(self, threads: int, *, name: str) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)

    def both(self, first: Callable[[], First], second: Callable[[], Second], *, worth: bool) -> tuple[First, Second]:
        """Return what both return: side by side if it is `worth` that, else one after the other. Raises: what they raise."""
        if not worth:
            return first(), second()
        later = self._threads.submit(second)
        return first(), later.result()

    def close(self) -> None:
        """End the threads. Nobody may ask any more."""
        self._threads.shutdown()
