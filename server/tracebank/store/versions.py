"""Which version of each namespace the store has. Triggers give out a new one with every write that may change an answer.

`Versions` is what readers see, without asking the store: the writer brings it up to date after each commit, before
anybody hears of it. So who was told of a write never meets an answer from before it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable


class Versions:
    """The versions as of the last commit. One thread writes; any may read."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._of: dict[int, int] = {}
        self.latest = 0
        # Called in the thread that writes whenever there are new ones. It must not raise.
        self.on_change: Callable[[], None] | None = None
        self.update(db)

    def update(self, db: sqlite3.Connection) -> None:
        """Take over what has changed since the last update."""
        before = self.latest
        for space, version in db.execute("SELECT namespace_id, version FROM versions WHERE version > ? ORDER BY version", (before,)):
            self._of[space] = self.latest = version
        # Another thread may take it away at any time.
        on_change = self.on_change
        if self.latest != before and on_change is not None:
            on_change()

    def of(self, spaces: Iterable[int]) -> tuple[int, ...]:
        """Return the versions of these namespaces by number; 0 where nothing was ever written."""
        return tuple([self._of.get(space, 0) for space in spaces])
