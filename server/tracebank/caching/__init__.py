"""Keeping what was computed: bounded, counted, and what several ask for at once computed once."""

from tracebank.caching.adaptive import AdaptiveSize
from tracebank.caching.flights import Flights
from tracebank.caching.lru import CacheCounts, LruCache
from tracebank.caching.snapshot import Snapshot

__all__ = ["AdaptiveSize", "CacheCounts", "Flights", "LruCache", "Snapshot"]
