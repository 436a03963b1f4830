"""Answers that are kept (L1). One is served as long as nothing that it was made of has changed.

A kept answer says which versions of its namespaces it is of, which model's meaning took part, and why it lacks something,
if so. It is looked up by all that was asked, and served where these are still the present ones: so a write makes exactly
those answers unusable that it may change, whoever wrote. What several ask at once is found once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from tracebank.answering.finder import Finder
from tracebank.answering.pages import Retrieved
from tracebank.answering.requests import Asked
from tracebank.caching import Flights, LruCache
from tracebank.precedence import Precedence
from tracebank.settings import CacheSettings
from tracebank.store.versions import Versions

# What a memory takes beside its text, in the page and in what is made of that.
RESULT_BYTES = 2_000


@dataclass(slots=True)
class Kept:
    """An answer with what it is of; `prepared`: nobody has asked for it yet."""

    versions: tuple[int, ...]
    model: str
    lacking: str
    answer: Retrieved
    prepared: bool = False


class _Present(NamedTuple):
    """What kept answers must be of to be served now."""

    versions: tuple[int, ...]
    models: tuple[str, ...]
    lacking: str


class Answers:
    """The cache in front of a `Finder`. It belongs to one event loop."""

    def __init__(
        self,
        *,
        finder: Finder,
        versions: Versions,
        spaces: Callable[[], Mapping[str, int]],
        models: Callable[[], tuple[str, ...]],
        settings: CacheSettings,
        precedence: Precedence,
    ) -> None:
        self._precedence = precedence
        self._finder, self._versions, self._spaces, self._models = finder, versions, spaces, models
        self.kept: LruCache[Asked, Kept] = LruCache(
            capacity=settings.results, max_bytes=settings.results_bytes, least_bytes=settings.results_bytes / 16,
            ttl_s=settings.results_ttl_s, size_of=_bytes, clock=time.monotonic,
        )  # fmt: skip
        self._flights: Flights[tuple[object, ...], Retrieved] = Flights()
        # Answers that were there before somebody asked for them.
        self.prepared_used = 0

    async def answer(self, asked: Asked, *, complete: bool) -> Retrieved:
        """Return the answer, from the cache where it is kept. `complete`: all that the asker knows of is indexed.

        Raises: StoreError.
        """
        present = self._present(asked)
        kept = self.kept.get(asked, lambda kept: _valid(kept, present))
        if kept is not None:
            self.prepared_used += kept.prepared
            kept.prepared = False
            return kept.answer
        with self._precedence.answering():
            return await self._flights.fetch(
                (asked, present, complete), lambda: self._find(asked, present.versions, complete=complete, prepared=False)
            )

    async def _find(self, asked: Asked, versions: tuple[int, ...], *, complete: bool, prepared: bool) -> Retrieved:
        found = await self._finder.find(asked, versions, complete=complete)
        if found.lasting:
            self.kept.put(asked, Kept(versions, found.model, found.lacking, found.answer, prepared))
        return found.answer

    # -- ahead of being asked, and behind a restart -------------------------------------------------------------

    def has(self, asked: Asked) -> bool:
        """Whether the answer is kept, and valid. It is no look-up: nothing is counted."""
        kept = self.kept.peek(asked)
        return kept is not None and _valid(kept, self._present(asked))

    async def prepare(self, asked: Asked) -> None:
        """Find an answer before somebody asks; who asks meanwhile shares it. Everything stored is indexed. Raises: StoreError."""
        present = self._present(asked)
        await self._flights.fetch((asked, present, True), lambda: self._find(asked, present.versions, complete=True, prepared=True))

    def current(self) -> Iterator[tuple[Asked, Kept, float]]:
        """Yield what is kept and valid, with when it was made (monotonic seconds), the latest used first."""
        for asked, kept, made_at in list(self.kept)[::-1]:
            if _valid(kept, self._present(asked)):
                yield asked, kept, made_at

    def restore(self, kept: Iterable[tuple[Asked, Kept, float]]) -> None:
        """Take back what `current` gave, the latest used last; what is not valid any more is left out.

        Their scores are those of then: the index's may differ by .01, once it has merged away what was deleted before.
        """
        for asked, one, made_at in kept:
            if one.versions == self.versions_of(asked):
                self.kept.put(asked, one, kept_at=made_at)

    def forget(self, matches: Callable[[Asked], bool]) -> int:
        """Forget the answers to these requests, and all rankings. Returns how many answers."""
        self._finder.rankings.clear()
        return self.kept.drop(matches)

    def _present(self, asked: Asked) -> _Present:
        return _Present(self.versions_of(asked), self._models(), self._finder.lacking)

    def versions_of(self, asked: Asked) -> tuple[int, ...]:
        """Return the versions of all that a request searches, as they are now."""
        if not asked.query.namespaces:
            return (self._versions.latest,)
        spaces = self._spaces()
        return self._versions.of([spaces.get(name, 0) for name in asked.query.namespaces])

    def report(self) -> dict[str, dict[str, float]]:
        """Return the figures for `stats`."""
        return {"results": {**self.kept.report(), "shared": self._flights.shared}, "rankings": self._finder.rankings.report()}


def _valid(kept: Kept, present: _Present) -> bool:
    return kept.versions == present.versions and kept.model in present.models and kept.lacking in ("", present.lacking)


def _bytes(asked: Asked, kept: Kept) -> int:
    # The text is held twice: as a whole and in the results.
    texts = sum(len(text) for text in asked.query.texts)
    return 2 * texts + 2 * len(kept.answer.page.text.encode("utf-8", "replace")) + RESULT_BYTES * (1 + len(kept.answer.page.results))
