"""What is forgotten is gone from the file, too."""

from __future__ import annotations

import asyncio
import sqlite3
import threading

import pytest
from samples import WAIT_S, put, trace

from tracebank.records import Lesson
from tracebank.store import Store, traces

pytestmark = pytest.mark.anyio

SECRET = "xyzzy-plugh-4711"


def in_files(store: Store) -> list[str]:
    """Return the names of the store's files that hold the secret."""
    return sorted(path.name for path in store.path.parent.glob("store.sqlite3*") if SECRET.encode() in path.read_bytes())


@pytest.mark.parametrize("where", ["task", "content", "long content", "lessons", "tags", "metadata", "parent_id", "trace_id"])
async def test_forgotten_text_is_neither_in_the_file_nor_in_its_log(store: Store, where: str) -> None:
    """Whatever field it was in, once the store has shrunk."""
    fields = {
        "task": {"task": SECRET}, "content": {"content": SECRET}, "long content": {"content": f"{SECRET} word " * 9_000},
        "lessons": {"lessons": (Lesson(content=SECRET),)}, "tags": {"tags": (SECRET,)}, "metadata": {"metadata": {"key": SECRET}},
        "parent_id": {"parent_id": SECRET}, "trace_id": {"trace_id": SECRET},
    }[where]  # fmt: skip
    await put(store, *(trace(f"{i}") for i in range(50)))
    (added,) = await put(store, trace(**{"trace_id": "secret", **fields}))
    await store.shrink()
    assert in_files(store) == ["store.sqlite3"]
    await store.write(lambda db: traces.delete(db, [added.row]))
    await store.shrink()
    assert in_files(store) == []
    assert store.path.with_name("store.sqlite3-wal").stat().st_size == 0


async def test_what_an_update_replaces_is_forgotten_as_well(store: Store) -> None:
    """The caller has taken it back."""
    await put(store, trace(content=f"{SECRET} word " * 9_000))
    await put(store, trace(content="nothing to hide"))
    await store.shrink()
    assert in_files(store) == []


async def test_a_log_that_cannot_be_emptied_because_somebody_reads_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It still holds what was forgotten; when the reader has gone it can be emptied."""
    monkeypatch.setattr("tracebank.store.opening._BUSY_TIMEOUT_S", 0.05)
    await put(store, trace(content=SECRET))
    reading, read = threading.Event(), threading.Event()

    def look(db: sqlite3.Connection) -> None:
        db.execute("SELECT count(*) FROM traces").fetchone()
        reading.set()
        read.wait(WAIT_S)

    reader = asyncio.create_task(store.read(look))
    assert await asyncio.to_thread(reading.wait, WAIT_S)
    await store.write(lambda db: traces.delete(db, [row for (row,) in db.execute("SELECT id FROM traces")]))
    assert not await store.shrink()
    assert in_files(store)
    read.set()
    await reader
    assert await store.shrink()
    assert in_files(store) == []


async def test_shrinking_while_others_write_and_read_harms_nobody(store: Store) -> None:
    """It waits its turn."""

    async def write(i: int) -> None:
        await put(store, trace(f"{i}", content="word " * 2_000))
        await store.read(traces.namespaces)

    await asyncio.gather(*(write(i) for i in range(40)), store.shrink(), store.shrink())
    assert await store.read(traces.namespaces) == {"default": 40}
