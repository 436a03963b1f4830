"""Waiting, with a bound, until what was written can be found: everybody's by words, one's own by meaning, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from tracebank.indexer import Indexer


class Waiting(Protocol):
    """Who wrote something, with its last entry in the outbox, until that can be found; None: nothing."""

    last_seq: int | None


class Freshness:
    """Knows up to where the outbox is done. `deep` tells whether meaning takes part."""

    def __init__(self, *, indexer: Indexer, deep: Callable[[], bool], timeout_s: float) -> None:
        self._indexer, self._deep, self._timeout_s = indexer, deep, timeout_s
        # The last entry that somebody waits for, and up to where words are known to be searchable.
        self._last_seq = self._searchable_seq = 0

    def found(self, seq: int) -> None:
        """Let searches wait for what was in the outbox at the start: an engine that was killed had acknowledged it."""
        self._last_seq = max(seq, self._last_seq)

    def wrote(self, who: Waiting, seq: int | None) -> None:
        """Let searches wait for an entry of the outbox."""
        if seq is not None:
            # Another write may have come in between: never back.
            who.last_seq = max(seq, who.last_seq or 0)
            self._last_seq = max(seq, self._last_seq)

    async def settle(self, who: Waiting) -> bool:
        """Wait until everybody's writes are found by words and one's own by meaning. Returns whether they are."""
        if self._searchable_seq < (latest := self._last_seq):
            if not await self._indexer.wait(("words",), up_to=latest, timeout_s=self._timeout_s):
                return False
            self._searchable_seq = latest
        if (own := who.last_seq) is not None and self._deep():
            if not await self._indexer.wait(("vectors",), up_to=own, timeout_s=self._timeout_s):
                return False
            if who.last_seq == own:
                who.last_seq = None
        return True
