"""An in-process LRU cache bounded by number, bytes and age, counted. Not thread-safe: it belongs to the event loop."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(slots=True, kw_only=True)
class CacheCounts:
    """What a cache has done since it was made."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    expirations: int = 0

    @property
    def hit_rate(self) -> float:
        """Hits per look-up; 0 before the first."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else 0.0


class LruCache(Generic[Key, Value]):
    """The most recently used values: at most `capacity`, of at most `max_bytes` by `size_of`, none older than `ttl_s`.

    A bound of 0 keeps nothing. A key must hold everything that changes the value; a generation in the key is how a
    write invalidates.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        capacity: float = math.inf,
        max_bytes: float = math.inf,
        ttl_s: float = math.inf,
        size_of: Callable[[Key, Value], int] = lambda key, value: 0,
    ) -> None:
        self._capacity, self._max_bytes, self._ttl_s, self._clock, self._size_of = capacity, max_bytes, ttl_s, clock, size_of
        self._items: OrderedDict[Key, tuple[float, Value]] = OrderedDict()
        self._bytes = 0
        self.counts = CacheCounts()

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: Key) -> Value | None:
        """Return the value, or None where it is absent or too old."""
        entry = self._items.get(key)
        if entry is not None and self._clock() - entry[0] > self._ttl_s:
            self._drop(key)
            self.counts.expirations += 1
            entry = None
        if entry is None:
            self.counts.misses += 1
            return None
        self._items.move_to_end(key)
        self.counts.hits += 1
        return entry[1]

    def put(self, key: Key, value: Value) -> None:
        """Keep the value, and let the least recently used go if there are too many, or too large ones."""
        if key in self._items:
            self._drop(key)
        self._items[key] = (self._clock(), value)
        self._bytes += self._size_of(key, value)
        while self._items and (len(self._items) > self._capacity or self._bytes > self._max_bytes):
            self._drop(next(iter(self._items)))
            self.counts.evictions += 1

    def clear(self) -> None:
        """Forget all values; the counts stay."""
        self._items.clear()
        self._bytes = 0

    def _drop(self, key: Key) -> None:
        _, value = self._items.pop(key)
        self._bytes -= self._size_of(key, value)

    def report(self) -> dict[str, float]:
        """Return the figures for `stats`."""
        counts = self.counts
        return {
            "entries": len(self),
            **({} if math.isinf(self._capacity) else {"capacity": self._capacity}),
            **({} if math.isinf(self._max_bytes) else {"bytes": self._bytes, "max_bytes": self._max_bytes}),
            "hits": counts.hits,
            "misses": counts.misses,
            "hit_rate": round(counts.hit_rate, 4),
            "evictions": counts.evictions,
            "expirations": counts.expirations,
        }
