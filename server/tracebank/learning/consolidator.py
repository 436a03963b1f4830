"""Consolidation in idle time: lessons that belong together are found again whenever something was stored, and nobody calls."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

from anyio import to_thread

from tracebank.errors import TracebankError
from tracebank.learning.consolidation import MAX_LESSONS, consolidate
from tracebank.store import Store, lesson_groups, traces

log = logging.getLogger(__name__)

RETRY_S = 60.0


class Consolidator:
    """Groups the lessons of every namespace. `changed(space)` is called where answers may change by it."""

    def __init__(self, *, store: Store, changed: Callable[[int], None], idle_s: float, now_ms: Callable[[], int]) -> None:
        self._store, self._changed, self._idle_s, self._now_ms = store, changed, idle_s, now_ms
        self._news = asyncio.Event()
        self._touched = asyncio.Event()
        # The model whose vectors the store has, once it is loaded; until then only lessons of the same words are equal.
        self.model_id: int | None = None
        self.last: dict[str, Any] = {}

    def touch(self, *, news: bool) -> None:
        """Somebody has called, and, with `news`, stored something."""
        self._touched.set()
        if news:
            self._news.set()

    async def run(self) -> None:
        """Consolidate when there is something new and nobody has called for a while, until cancelled."""
        while True:
            await self._news.wait()
            await self._quiet()
            try:
                await self.consolidate()
            except TracebankError as error:
                log.warning("lessons could not be consolidated: %s", error)
                await asyncio.sleep(RETRY_S)
                self._news.set()

    async def _quiet(self) -> None:
        """Wait until nobody has called for so long."""
        with contextlib.suppress(TimeoutError):
            while True:
                self._touched.clear()
                async with asyncio.timeout(self._idle_s):
                    await self._touched.wait()

    async def consolidate(self) -> dict[str, Any]:
        """Bring equal and contrary lessons together. Returns the report. Raises: StoreError."""
        self._news.clear()
        began = time.perf_counter()
        spaces = await self._store.read(traces.namespace_ids)
        lessons = sum([await self._consolidate_one(space) for space in spaces.values()])
        groups = dict(await self._store.read(lesson_groups.counts))
        self.last = {"lessons": lessons, "groups": groups, "took_ms": round((time.perf_counter() - began) * 1e3, 1)}
        return self.last

    async def _consolidate_one(self, space: int) -> int:
        model = self.model_id
        lessons = await self._store.read(lambda db: lesson_groups.newest(db, space, model=model, limit=MAX_LESSONS))
        if len(lessons) > 1:
            groups = await to_thread.run_sync(consolidate, lessons)
            await self._store.write(lambda db: lesson_groups.replace(db, space, groups, now_ms=self._now_ms()))
            self._changed(space)
        return len(lessons)

    async def undo(self) -> int:
        """Take all groups back, for good: they are not made again. Returns how many there were. Raises: StoreError."""
        undone = await self._store.write(lambda db: lesson_groups.undo(db, now_ms=self._now_ms()))
        for space in (await self._store.read(traces.namespace_ids)).values():
            self._changed(space)
        return undone
