"""The LRU cache with an age limit."""

from __future__ import annotations

from tracebank.caching import LruCache


class Clock:
    """A clock that stands until it is set."""

    now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def test_the_least_recently_used_value_leaves_first() -> None:
    """A look-up counts as a use."""
    cache: LruCache[str, int] = LruCache(capacity=2, ttl_s=60, clock=Clock())
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)
    assert cache.counts.evictions == 1


def test_a_value_is_kept_for_its_time_and_no_longer() -> None:
    """To the very end of the age limit; then it is gone, and counted as expired."""
    clock = Clock()
    cache: LruCache[str, int] = LruCache(capacity=2, ttl_s=10, clock=clock)
    cache.put("a", 1)
    clock.now = 10.0
    assert cache.get("a") == 1
    clock.now = 10.1
    assert cache.get("a") is None
    assert (len(cache), cache.counts.expirations) == (0, 1)


def test_putting_a_value_again_renews_its_time_and_its_place() -> None:
    """The new value replaces the old one, as if it were the first."""
    clock = Clock()
    cache: LruCache[str, int] = LruCache(capacity=2, ttl_s=10, clock=clock)
    cache.put("a", 1)
    cache.put("b", 2)
    clock.now = 8.0
    cache.put("a", 3)
    cache.put("c", 4)
    clock.now = 16.0
    assert (cache.get("a"), cache.get("b")) == (3, None)


def test_a_cache_of_capacity_0_keeps_nothing() -> None:
    """That is how it is switched off."""
    cache: LruCache[str, int] = LruCache(capacity=0, ttl_s=10, clock=Clock())
    cache.put("a", 1)
    assert cache.get("a") is None
    assert len(cache) == 0


def test_clearing_forgets_the_values_and_keeps_the_counts() -> None:
    """The report covers the whole life of the cache."""
    cache: LruCache[str, int] = LruCache(capacity=4, ttl_s=10, clock=Clock())
    assert cache.report()["hit_rate"] == 0.0
    cache.put("a", 1)
    cache.get("a")
    cache.get("a")
    cache.get("b")
    cache.clear()
    assert cache.report() == {
        "entries": 0, "capacity": 4, "hits": 2, "misses": 1, "hit_rate": 0.6667, "evictions": 0, "expirations": 0, "invalidations": 0,
    }  # fmt: skip


def test_exactly_the_values_of_matching_keys_are_dropped() -> None:
    """And counted as invalidated, not as evicted."""
    cache: LruCache[str, int] = LruCache(capacity=4, clock=Clock())
    for number, key in enumerate(["one/a", "one/b", "two/a"]):
        cache.put(key, number)
    assert cache.drop(lambda key: key.startswith("one/")) == 2
    assert (cache.get("one/a"), cache.get("two/a")) == (None, 2)
    assert (cache.counts.invalidations, cache.counts.evictions) == (2, 0)


def test_a_value_that_is_not_valid_any_more_is_a_miss_and_leaves() -> None:
    """Whoever asks for it says what is valid."""
    cache: LruCache[str, int] = LruCache(clock=Clock())
    cache.put("a", 1)
    assert cache.get("a", lambda value: value == 1) == 1
    assert cache.get("a", lambda value: value == 2) is None
    assert (len(cache), cache.counts.invalidations, cache.counts.misses) == (0, 1, 1)


def test_a_value_may_be_older_than_its_stay() -> None:
    """Its age counts from when it was made, and a bound on bytes from all that are kept."""
    clock = Clock()
    clock.now = 100.0
    cache: LruCache[str, int] = LruCache(ttl_s=10, max_bytes=5, size_of=lambda key, value: value, clock=clock)
    cache.put("old", 2, kept_at=95.0)
    cache.put("new", 2)
    clock.now = 106.0
    assert (cache.get("old"), cache.get("new")) == (None, 2)
    assert cache.report()["bytes"] == 2
