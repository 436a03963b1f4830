"""Counters and latencies of one engine. Thread-safe; percentiles are those of the last values of each operation."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager

WINDOW = 2_048


def percentile(ordered: list[float], fraction: float) -> float:
    """Return the nearest-rank percentile of values in ascending order (not empty)."""
    return ordered[max(0, math.ceil(len(ordered) * fraction) - 1)]


class Metrics:
    """What happened, how often, and how long it took."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=WINDOW))
        self._counts: Counter[str] = Counter()
        self._max_ms: defaultdict[str, float] = defaultdict(float)

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a counter."""
        with self._lock:
            self._counts[name] += amount

    def observe(self, operation: str, elapsed_ms: float) -> None:
        """Record one duration."""
        with self._lock:
            self._recent[operation].append(elapsed_ms)
            self._max_ms[operation] = max(self._max_ms[operation], elapsed_ms)
            self._counts[operation] += 1

    @contextmanager
    def timed(self, operation: str) -> Iterator[None]:
        """Record how long the body took; a body that raises is counted as `<operation>_failed` instead."""
        started = time.perf_counter()
        try:
            yield
        except BaseException:
            self.count(f"{operation}_failed")
            raise
        self.observe(operation, (time.perf_counter() - started) * 1e3)

    @property
    def total(self) -> int:
        """How many things have happened, whatever they were."""
        with self._lock:
            return sum(self._counts.values())

    def latencies(self) -> dict[str, dict[str, float]]:
        """Return count, p50, p95, p99 and max in milliseconds, by operation."""
        with self._lock:
            recent = {name: sorted(values) for name, values in self._recent.items()}
            counts, highest = dict(self._counts), dict(self._max_ms)
        return {
            name: {
                "count": counts[name],
                **{f"p{p}_ms": round(percentile(values, p / 100), 2) for p in (50, 95, 99)},
                "max_ms": round(highest[name], 2),
            }
            for name, values in sorted(recent.items())
        }

    def counters(self) -> dict[str, int]:
        """Return the counters that are not latencies."""
        with self._lock:
            return {name: value for name, value in sorted(self._counts.items()) if name not in self._recent}
