"""Versions of namespaces: a new one with every write that may change an answer, and with no other."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from samples import NOW_MS, put, trace

from tracebank.store import Store, feedback, lesson_groups, outbox, patterns, traces
from tracebank.store.feedback import Evidence
from tracebank.store.patterns import PatternKey

pytestmark = pytest.mark.anyio

Write = Callable[[sqlite3.Connection], Any]


async def two_spaces(store: Store) -> tuple[int, int]:
    """Store a trace in each of two namespaces and return their numbers."""
    await put(store, trace("one", namespace="one"), trace("two", namespace="two"))
    spaces = await store.read(traces.namespace_ids)
    return spaces["one"], spaces["two"]


WRITES: dict[str, Write] = {
    "a trace is deleted": lambda db: traces.delete(db, [1]),
    "an index has caught up": lambda db: outbox.clear(db, [e.seq for e in outbox.due(db, "words", limit=9) if e.row == 1]),
    "a memory was helpful": lambda db: feedback.add(db, [1], Evidence(at_ms=NOW_MS, helpful=True, weight=1.0)),
    "lessons are grouped": lambda db: lesson_groups.replace(db, 1, [("equal", [(1, 0), (1, 1)])], among=[(1, 0), (1, 1)], now_ms=NOW_MS),
    "a pattern is seen": lambda db: patterns.add(db, 1, [PatternKey(kind="decision", context="c", choice="x")], trace=1, credit=None),
}


@pytest.mark.parametrize("name", WRITES)
async def test_a_write_changes_the_version_of_its_namespace_alone(store: Store, name: str) -> None:
    """Whoever writes: the store sees to it. Who was told of the write sees the new version."""
    one, two = await two_spaces(store)
    before = store.versions.of([one, two])
    await store.write(WRITES[name])
    after = store.versions.of([one, two])
    assert after[0] > before[0]
    assert after[1] == before[1]
    assert store.versions.latest == after[0]


async def test_what_changes_no_answer_changes_no_version(store: Store) -> None:
    """The same trace again, an entry for a model that does not answer yet, a read."""
    one, _ = await two_spaces(store)
    before = store.versions.of([one])
    await put(store, trace("one", namespace="one"))
    await store.write(lambda db: outbox.fill(db, "vectors_next"))
    await store.write(lambda db: outbox.clear(db, [e.seq for e in outbox.due(db, "vectors_next", limit=9)]))
    assert store.versions.of([one]) == before


async def test_a_write_that_is_undone_leaves_the_version(store: Store) -> None:
    """Its savepoint takes the trigger's work back, too."""
    one, _ = await two_spaces(store)
    before = store.versions.of([one])

    def fail(db: sqlite3.Connection) -> None:
        traces.delete(db, [1])
        raise ValueError("never mind")

    with pytest.raises(ValueError, match="never mind"):
        await store.write(fail)
    assert store.versions.of([one]) == before


async def test_versions_outlive_the_store_and_are_not_given_out_twice(tmp_path: Path) -> None:
    """Not even by a store that was put back from a copy: a version is no lower than the time."""
    store = Store.open(tmp_path / "store.sqlite3")
    began_ms = time.time() * 1000
    spaces = await two_spaces(store)
    before = store.versions.of(spaces)
    assert min(before) >= began_ms - 1000
    assert len(set(before)) == 2
    store.close()
    reopened = Store.open(tmp_path / "store.sqlite3")
    assert reopened.versions.of(spaces) == before
    assert reopened.versions.latest == max(before)
    assert reopened.versions.of([99]) == (0,)
    reopened.close()
