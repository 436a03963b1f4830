"""An in-process LRU cache with an age limit, counted. Not thread-safe: it belongs to the event loop."""

from __future__ import annotations

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
    """The `capacity` most recently used values, none older than `ttl_s`. Capacity 0 keeps nothing.

    A key must hold everything that changes the value; a generation in the key is how a write invalidates.
    """

    def __init__(self, *, capacity: int, ttl_s: float, clock: Callable[[], float]) -> None:
        self._capacity, self._ttl_s, self._clock = capacity, ttl_s, clock
        self._items: OrderedDict[Key, tuple[float, Value]] = OrderedDict()
        self.counts = CacheCounts()

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: Key) -> Value | None:
        """Return the value, or None where it is absent or too old."""
        entry = self._items.get(key)
        if entry is not None and self._clock() - entry[0] > self._ttl_s:
            del self._items[key]
            self.counts.expirations += 1
            entry = None
        if entry is None:
            self.counts.misses += 1
            return None
        self._items.move_to_end(key)
        self.counts.hits += 1
        return entry[1]

    def put(self, key: Key, value: Value) -> None:
        """Keep the value, and let the least recently used go if there are too many."""
        self._items[key] = (self._clock(), value)
        self._items.move_to_end(key)
        while len(self._items) > self._capacity:
            self._items.popitem(last=False)
            self.counts.evictions += 1

    def clear(self) -> None:
        """Forget all values; the counts stay."""
        self._items.clear()

    def report(self) -> dict[str, float]:
        """Return the figures for `stats`."""
        counts = self.counts
        return {
            "entries": len(self),
            "capacity": self._capacity,
            "hits": counts.hits,
            "misses": counts.misses,
            "hit_rate": round(counts.hit_rate, 4),
            "evictions": counts.evictions,
            "expirations": counts.expirations,
        }
