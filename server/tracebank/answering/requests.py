"""What is asked: a request that was checked, its dates read as of today. Reading one twice gives the same object."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from tracebank.caching import LruCache
from tracebank.records import DAY_MS, Limits, Query
from tracebank.retrieval.cursor import Place, place_of
from tracebank.retrieval.dates import Period, periods_in
from tracebank.retrieval.request import parse_query
from tracebank.settings import RetrievalSettings

# Checking a request and looking for dates in it takes longer than finding its answer where that is kept.
REMEMBERED_BYTES = 2_097_152


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A query, where its page begins, and the periods that its words name: "yesterday" is another one tomorrow."""

    query: Query
    place: Place
    periods: tuple[Period, ...]
    # In Python 1 and true are equal, and as a value of metadata they are not.
    kinds: tuple[type, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", tuple(type(value) for _, value in self.query.filters.metadata))

    @property
    def subject(self) -> tuple[object, ...]:
        """What the ranking depends on: pages of any size, from any place, are read from one."""
        return self.query.texts, self.periods, self.query.namespaces, self.query.filters, self.kinds

    def covers(self, namespace: str) -> bool:
        """Whether an answer may tell of this namespace."""
        return not self.query.namespaces or namespace in self.query.namespaces

    def matches(self, pattern: str) -> bool:
        """Whether one of its questions is like a shell pattern such as "*upload*", in whatever case."""
        return any(fnmatchcase(text.lower(), pattern.lower()) for text in self.query.texts)


class Requests:
    """Reads raw arguments, and remembers what it made of the latest."""

    def __init__(self, *, limits: Limits, defaults: RetrievalSettings, now_ms: Callable[[], int]) -> None:
        self._limits, self._defaults, self._now_ms = limits, defaults, now_ms
        self._read: LruCache[tuple[str, str, int], Asked] = LruCache(
            max_bytes=REMEMBERED_BYTES, size_of=lambda key, asked: 1_000 + 4 * len(key[0]), clock=time.monotonic
        )

    def read(self, raw: Mapping[str, Any], namespace: str) -> Asked:
        """Return what is asked; `namespace` serves where the request has none. Raises: InputError."""
        now_ms = self._now_ms()
        # repr tells 1 from true, which are equal; dates are read by the day.
        key = (repr(raw), namespace, now_ms // DAY_MS)
        if (known := self._read.get(key)) is not None:
            return known
        query = parse_query(raw, limits=self._limits, defaults=self._defaults, namespace=namespace)
        asked = Asked(query=query, place=place_of(query), periods=tuple(periods_in("\n".join(query.texts), now_ms)))
        self._read.put(key, asked)
        return asked

    def clear(self) -> None:
        """Forget all of them."""
        self._read.clear()
