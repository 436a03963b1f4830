"""Consolidation in idle time: lessons and episodes that belong together are found whenever something was stored, and nobody calls."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from typing import Any

from anyio import to_thread

from tracebank.idle import Idle
from tracebank.learning.consolidation import MAX_LESSONS, consolidate
from tracebank.learning.kinds import MAX_UNSORTED, joining, new_kinds
from tracebank.store import Store, kinds, lesson_groups, traces


class Consolidator:
    """Groups the lessons of every namespace, and sorts episodes into kinds, when nobody has called for `quiet_s`.

    `indexed()` waits until what is stored has its vectors, or is known to get none.
    """

    def __init__(
        self, *, store: Store, idle: Idle, quiet_s: float, now_ms: Callable[[], int], indexed: Callable[[], Awaitable[object]]
    ) -> None:
        self._store, self._idle, self._quiet_s, self._now_ms, self._indexed = store, idle, quiet_s, now_ms, indexed
        self._news = asyncio.Event()
        # What was stored right before the last engine ended may not have been looked at.
        self._news.set()
        self.model_id: int | None = None
        self.last: dict[str, Any] = {}

    def attach(self, model_id: int) -> None:
        """Hand over the model whose vectors the store has, once it is loaded; until then only lessons of the same words are equal."""
        self.model_id = model_id
        self.news()

    def news(self) -> None:
        """There is something to look at."""
        self._news.set()

    async def consolidate_due(self) -> None:
        """Consolidate when there is something new and nobody has called for a while. Raises: StoreError; then it is new still."""
        await self._news.wait()
        await self._idle.wait(self._quiet_s)
        # Without their vectors lessons of other words, contrary ones and kinds would be overlooked, and not looked at again.
        await self._indexed()
        await self.consolidate()

    async def consolidate(self) -> dict[str, Any]:
        """Bring equal and contrary lessons together. Returns the report. Raises: StoreError; then all of it is new still."""
        self._news.clear()
        try:
            return await self._consolidate()
        except Exception:
            self._news.set()
            raise

    async def _consolidate(self) -> dict[str, Any]:
        began = time.perf_counter()
        spaces = await self._store.read(traces.namespace_ids)
        lessons = sum([await self._consolidate_one(space) for space in spaces.values()])
        groups = dict(await self._store.read(lesson_groups.counts))
        sorted_in = sum([await self._sort_in(space) for space in spaces.values()])
        took_ms = round((time.perf_counter() - began) * 1e3, 1)
        self.last = {"lessons": lessons, "groups": groups, "episodes_sorted_in": sorted_in, "took_ms": took_ms}
        return self.last

    async def _consolidate_one(self, space: int) -> int:
        model = self.model_id
        lessons = await self._store.read(lambda db: lesson_groups.newest(db, space, model=model, limit=MAX_LESSONS))
        groups = await to_thread.run_sync(consolidate, lessons)
        # Without a model only lessons of the same words are seen to belong together: of the others nothing is known anew.
        among = {lesson.key for lesson in lessons} if model is not None else ()
        await self._store.write(lambda db: lesson_groups.replace(db, space, groups, among=among, now_ms=self._now_ms()))
        return len(lessons)

    async def _sort_in(self, space: int) -> int:
        """Let episodes that are of no kind yet join one, or begin one together. Returns how many did."""
        if (model := self.model_id) is None:
            return 0
        episodes, known = await self._store.read(
            lambda db: (kinds.unsorted(db, space, model=model, limit=MAX_UNSORTED), kinds.examples(db, space, model=model))
        )
        joined = joining(episodes, known)
        begun = await to_thread.run_sync(new_kinds, [episode for episode in episodes if episode.row not in joined])
        if not joined and not begun:
            return 0

        def write(db: sqlite3.Connection) -> None:
            kinds.join(db, joined)
            for example, members in begun:
                kinds.found(db, space, example, members)

        await self._store.write(write)
        return len(joined) + sum(len(members) for _, members in begun)

    async def undo(self) -> int:
        """Take all groups back, for good: they are not made again. Returns how many there were. Raises: StoreError."""
        return await self._store.write(lambda db: lesson_groups.undo(db, now_ms=self._now_ms()))
