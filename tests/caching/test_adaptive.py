"""A cache that learns from its hits how many bytes it is worth."""

from __future__ import annotations

from collections.abc import Iterable

from tracebank.caching import AdaptiveSize, LruCache
from tracebank.caching.adaptive import PERIOD


def cache_of(*, least_bytes: float = 10, most_bytes: float = 100) -> LruCache[str, int]:
    """Return a cache whose values say how many bytes they have."""
    return LruCache(max_bytes=most_bytes, least_bytes=least_bytes, size_of=lambda key, value: value, clock=lambda: 0.0)


def ask(cache: LruCache[str, int], keys: Iterable[str], size_bytes: int = 1) -> None:
    """Look each up, and keep it where it is missing."""
    for key in keys:
        if cache.get(key) is None:
            cache.put(key, size_bytes)


def test_it_grows_while_what_was_let_go_is_asked_again() -> None:
    """Sixty keys in turn, where fifty fit at first: in the end all of them are hits."""
    cache = cache_of()
    assert cache.limit_bytes == 50
    keys = [f"{i}" for i in range(60)]
    for _ in range(4):
        ask(cache, keys)
    before = cache.counts.hits
    ask(cache, keys)
    assert cache.counts.hits - before == 60
    assert 60 <= cache.limit_bytes <= 100
    assert cache.report()["ghost_hits"] > 0


def test_it_never_grows_above_its_bound() -> None:
    """However many come back."""
    cache = cache_of()
    for _ in range(10):
        ask(cache, [f"{i}" for i in range(150)])
    assert cache.limit_bytes <= 100
    assert len(cache) <= 100


def test_it_shrinks_while_what_was_used_longest_ago_gives_no_hit() -> None:
    """Four keys again and again, among others that never come back: what is above the least is given back in the end."""
    cache = cache_of()
    for i in range(40 * PERIOD):
        ask(cache, [f"hot{i % 4}", f"cold{i}"])
    assert cache.limit_bytes == 10
    before = cache.counts.hits
    ask(cache, [f"hot{i}" for i in range(4)])
    assert cache.counts.hits - before == 4


def test_a_hit_in_the_tail_keeps_the_size() -> None:
    """A cache smaller by an eighth would have missed it."""
    size = AdaptiveSize(least_bytes=10, most_bytes=100)
    for _ in range(3):
        size.hit(in_tail=True)
        for _ in range(PERIOD - 1):
            size.hit(in_tail=False)
    assert size.bytes == 50
    for _ in range(PERIOD):
        size.hit(in_tail=False)
    assert size.bytes == 50 * 7 / 8


def test_the_order_of_use_holds_across_the_tail() -> None:
    """What was used longest ago leaves first, and a hit brings it back to the front."""
    cache = cache_of(least_bytes=8, most_bytes=16)  # eight at first, one of them in the tail
    ask(cache, [f"{i}" for i in range(8)])
    assert cache.get("0") == 1
    ask(cache, ["new"])
    assert (cache.get("1"), cache.get("0")) == (None, 1)


def test_a_value_larger_than_the_cache_drives_nobody_out() -> None:
    """It is not kept; but asked for again it makes the cache grow, as anything that found no room."""
    cache = cache_of()
    ask(cache, ["a", "b"])
    cache.put("large", 60)
    assert (cache.get("large"), cache.get("a"), cache.get("b")) == (None, 1, 1)
    cache.put("large", 60)
    assert cache.get("large") == 60
