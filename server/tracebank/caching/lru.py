"""An in-process LRU cache bounded by number, bytes and age, counted. Not thread-safe: it belongs to the event loop."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from tracebank.caching.adaptive import PART, AdaptiveSize

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(slots=True, kw_only=True)
class CacheCounts:
    """What a cache has done since it was made."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    expirations: int = 0
    invalidations: int = 0

    @property
    def hit_rate(self) -> float:
        """Hits per look-up; 0 before the first."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else 0.0


@dataclass(slots=True)
class _Entry(Generic[Value]):
    value: Value
    kept_at: float
    size_bytes: int


class LruCache(Generic[Key, Value]):
    """The most recently used values: at most `capacity`, of at most `max_bytes` by `size_of`, none older than `ttl_s`.

    A bound of 0 keeps nothing. With `least_bytes` the bytes adapt between that and `max_bytes` (`AdaptiveSize`). What
    changes a value stands in its key, or in the value, to be looked at with `valid`.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        capacity: float = math.inf,
        max_bytes: float = math.inf,
        least_bytes: float | None = None,
        ttl_s: float = math.inf,
        size_of: Callable[[Key, Value], int] = lambda key, value: 0,
    ) -> None:
        self._capacity, self._max_bytes, self._ttl_s, self._clock, self._size_of = capacity, max_bytes, ttl_s, clock, size_of
        self._adaptive = None if least_bytes is None else AdaptiveSize(least_bytes=least_bytes, most_bytes=max_bytes)
        # One order of use in two parts, each least recently used first: what is in the tail was used before all else.
        self._recent: OrderedDict[Key, _Entry[Value]] = OrderedDict()
        self._tail: OrderedDict[Key, _Entry[Value]] = OrderedDict()
        self._bytes = self._recent_bytes = 0
        self.counts = CacheCounts()

    def __len__(self) -> int:
        return len(self._recent) + len(self._tail)

    def __iter__(self) -> Iterator[tuple[Key, Value, float]]:
        """Yield key, value and the time it was kept at, the least recently used first. Not to be changed meanwhile."""
        for part in (self._tail, self._recent):
            yield from ((key, entry.value, entry.kept_at) for key, entry in part.items())

    def get(self, key: Key, valid: Callable[[Value], bool] | None = None) -> Value | None:
        """Return the value, or None where it is absent, too old, or not `valid` any more; then it is dropped."""
        entry = self._recent.get(key)
        in_tail = entry is None and (entry := self._tail.get(key)) is not None
        if entry is not None and self._clock() - entry.kept_at > self._ttl_s:
            self._drop(key)
            self.counts.expirations += 1
            entry = None
        elif entry is not None and valid is not None and not valid(entry.value):
            self._drop(key)
            self.counts.invalidations += 1
            entry = None
        if entry is None:
            self._missed(key)
            return None
        self.counts.hits += 1
        if self._adaptive is not None:
            self._adaptive.hit(in_tail=in_tail)
        if in_tail:
            self._to_recent(key, self._tail.pop(key))
            self._rebalance()
        else:
            self._recent.move_to_end(key)
        return entry.value

    def peek(self, key: Key) -> Value | None:
        """Return the value where it is kept, and is not too old. It is no use of it, and not counted."""
        entry = self._recent.get(key) or self._tail.get(key)
        return None if entry is None or self._clock() - entry.kept_at > self._ttl_s else entry.value

    def put(self, key: Key, value: Value, *, kept_at: float | None = None) -> None:
        """Keep the value, and let the least recently used go if there are too many, or too large ones.

        `kept_at`: by the cache's clock, where it is not new.
        """
        if key in self._recent or key in self._tail:
            self._drop(key)
        entry = _Entry(value, self._clock() if kept_at is None else kept_at, self._size_of(key, value))
        if entry.size_bytes > self.limit_bytes or self._capacity < 1:
            # It would only drive all others out before it goes itself.
            self._evicted(key, entry.size_bytes)
            return
        self._bytes += entry.size_bytes
        self._to_recent(key, entry)
        self._rebalance()

    def drop(self, matches: Callable[[Key], bool]) -> int:
        """Forget exactly the values of these keys. Returns how many."""
        keys = [key for key, _, _ in self if matches(key)]
        for key in keys:
            self._drop(key)
        self.counts.invalidations += len(keys)
        return len(keys)

    def clear(self) -> None:
        """Forget all values; the counts stay."""
        self._recent.clear()
        self._tail.clear()
        self._bytes = self._recent_bytes = 0

    @property
    def limit_bytes(self) -> float:
        """How many bytes it may take now."""
        return self._max_bytes if self._adaptive is None else self._adaptive.bytes

    def _missed(self, key: Key) -> None:
        self.counts.misses += 1
        if self._adaptive is not None:
            self._adaptive.missed(key)

    def _to_recent(self, key: Key, entry: _Entry[Value]) -> None:
        self._recent[key] = entry
        self._recent_bytes += entry.size_bytes

    def _rebalance(self) -> None:
        """Let go what finds no room, and, where that matters, keep the tail a part of the whole."""
        while len(self) and (len(self) > self._capacity or self._bytes > self.limit_bytes):
            key = next(iter(self._tail or self._recent))
            self._evicted(key, self._drop(key))
        while self._adaptive is not None and self._recent_bytes > self.limit_bytes * (1 - 1 / PART):
            key, entry = self._recent.popitem(last=False)
            self._recent_bytes -= entry.size_bytes
            self._tail[key] = entry

    def _evicted(self, key: Key, size_bytes: int) -> None:
        self.counts.evictions += 1
        if self._adaptive is not None:
            self._adaptive.evicted(key, size_bytes)

    def _drop(self, key: Key) -> int:
        entry = self._tail.pop(key, None)
        if entry is None:
            entry = self._recent.pop(key)
            self._recent_bytes -= entry.size_bytes
        self._bytes -= entry.size_bytes
        return entry.size_bytes

    def report(self) -> dict[str, float]:
        """Return the figures for `stats`."""
        counts, adaptive = self.counts, self._adaptive
        return {
            "entries": len(self),
            **({} if math.isinf(self._capacity) else {"capacity": self._capacity}),
            **({} if math.isinf(self._max_bytes) else {"bytes": self._bytes, "max_bytes": self._max_bytes}),
            **({} if adaptive is None else {"limit_bytes": round(adaptive.bytes), "ghost_hits": adaptive.ghost_hits}),
            "hits": counts.hits,
            "misses": counts.misses,
            "hit_rate": round(counts.hit_rate, 4),
            "evictions": counts.evictions,
            "expirations": counts.expirations,
            "invalidations": counts.invalidations,
        }
