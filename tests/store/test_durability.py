"""What is acknowledged is on disk, and every writer hears how its write ended."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from samples import NOW_MS, WAIT_S, cut, everything, put, trace

from tracebank.errors import StoreError, StoreFullError, StoreLockedError
from tracebank.store import Store, outbox, traces
from tracebank.store.outbox import SINKS
from tracebank.store.store import READERS
from tracebank.store.writer import MAX_BATCH

pytestmark = pytest.mark.anyio

WRITER = """
import asyncio, sys
from pathlib import Path
from tracebank.chunking import chunks_of, word_spans
from tracebank.records import Trace
from tracebank.store import Store, outbox, traces

async def client(store, number):
    for i in range(100_000):
        trace = Trace(trace_id=f"{number}-{i}", namespace=f"n{number % 2}", task=f"task {number} {i}", content="word " * (i % 400))
        chunks = chunks_of(trace, word_spans, tokens=112, overlap_tokens=28)
        await store.write(lambda db: traces.upsert(db, trace, chunks, now_ms=1, priority=outbox.INTERACTIVE))
        print(trace.trace_id, flush=True)

async def main():
    store = Store.open(Path(sys.argv[1]))
    await asyncio.gather(*(client(store, number) for number in range(8)))

asyncio.run(main())
"""


@asynccontextmanager
async def writer_busy(store: Store) -> AsyncIterator[None]:
    """Keep the writer's thread in a write, so that what the body submits waits together."""
    begun, end = threading.Event(), threading.Event()

    def block(_: sqlite3.Connection) -> None:
        begun.set()
        assert end.wait(WAIT_S)

    blocked = asyncio.create_task(store.write(block))
    assert await asyncio.to_thread(begun.wait, WAIT_S)
    yield
    await asyncio.sleep(0)  # every task of the body has reached the writer's queue
    end.set()
    await blocked


def write_and_kill(path: Path, acknowledged: int) -> list[str]:
    """Run the writing process and kill it after so many ids; return all that it printed."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = [process.stdout.readline().strip() for _ in range(acknowledged)]
        process.kill()
        return printed + process.stdout.read().split()


async def write_together(store: Store, count: int, failing: frozenset[int] = frozenset()) -> list[object]:
    """Make `count` writes wait together; return what each gave or raised."""

    def write(db: sqlite3.Connection, i: int) -> str:
        value = trace(f"{i}", content="")
        traces.upsert(db, value, cut(value), now_ms=NOW_MS, priority=outbox.INTERACTIVE)
        if i in failing:
            raise LookupError(f"no {i}")
        return value.trace_id

    async with writer_busy(store):
        writes = [asyncio.create_task(store.write(lambda db, i=i: write(db, i))) for i in range(count)]
    return await asyncio.gather(*writes, return_exceptions=True)


@pytest.mark.parametrize("acknowledged", [1, 40, 400])
async def test_a_kill_loses_nothing_that_was_acknowledged(tmp_path: Path, acknowledged: int) -> None:
    """A process that writes for eight clients is killed; each id that it printed is there, whole and queued."""
    path = tmp_path / "store.sqlite3"
    printed = await asyncio.to_thread(write_and_kill, path, acknowledged)
    store = Store.open(path)
    found = {stored.trace.trace_id: stored for stored in await everything(store)}
    assert set(printed) <= set(found)
    assert len(set(printed)) >= acknowledged
    for sink in SINKS:
        queued = {entry.row for entry in await store.read(lambda db, sink=sink: outbox.due(db, sink, limit=10**6))}
        assert queued == {stored.row for stored in found.values()}
    for stored in found.values():
        assert stored.trace.content == "word " * (int(stored.trace.trace_id.split("-")[1]) % 400)
        expected = len(cut(stored.trace))
        chunks = await store.read(lambda db, row=stored.row: db.execute("SELECT count(*) FROM chunks WHERE trace = ?", (row,)).fetchone())
        assert chunks == (expected,)
    assert await store.read(lambda db: db.execute("PRAGMA integrity_check").fetchone()) == ("ok",)
    store.close()


async def test_writes_that_wait_together_share_a_commit(store: Store) -> None:
    """One flush to disk for all of them, within a bound."""
    count = MAX_BATCH + 20
    before = (await store.read(store.figures))["commits"]
    results = await write_together(store, count)
    assert results == [f"{i}" for i in range(count)]
    commits = (await store.read(store.figures))["commits"]
    assert commits == before + 3  # type: ignore[operator]  # the one in the way, a full batch, the rest
    assert len(await everything(store)) == count


async def test_a_write_that_fails_leaves_the_others_of_its_commit(store: Store) -> None:
    """It is undone alone and its caller alone hears the error."""
    results = await write_together(store, 5, failing=frozenset({1, 3}))
    assert [str(result) for result in results] == ["0", "no 1", "2", "no 3", "4"]
    assert [type(result) for result in results] == [str, LookupError, str, LookupError, str]
    assert [stored.trace.trace_id for stored in await everything(store)] == ["0", "2", "4"]


async def test_an_error_of_sqlite_is_the_stores_own(store: Store) -> None:
    """Callers know one kind of error; the next write is served."""
    with pytest.raises(StoreError, match="UNIQUE constraint failed") as caught:
        await store.write(lambda db: db.executemany("INSERT INTO models (name) VALUES (?)", [("m",), ("m",)]))
    assert isinstance(caught.value.__cause__, sqlite3.IntegrityError)
    assert await store.read(lambda db: db.execute("SELECT count(*) FROM models").fetchone()) == (0,)
    assert (await put(store, trace()))[0].status == "created"


async def test_a_write_sees_those_before_it_and_a_read_all_that_returned(store: Store) -> None:
    """Read your own writes."""
    for i in range(20):
        await put(store, trace(f"{i}"))
        assert len(await everything(store)) == i + 1


async def test_a_cancelled_caller_does_not_undo_or_stop_a_write(store: Store) -> None:
    """What has begun is finished; the writer goes on."""
    begun, end = threading.Event(), threading.Event()

    def write(db: sqlite3.Connection) -> None:
        begun.set()
        assert end.wait(WAIT_S)
        traces.upsert(db, trace("begun"), [], now_ms=NOW_MS, priority=0)

    running = asyncio.create_task(store.write(write))
    assert await asyncio.to_thread(begun.wait, WAIT_S)
    waiting = asyncio.create_task(put(store, trace("waiting")))
    await asyncio.sleep(0)
    waiting.cancel()
    running.cancel()
    await asyncio.gather(running, waiting, return_exceptions=True)
    end.set()
    await put(store, trace("next"))
    assert [stored.trace.trace_id for stored in await everything(store)] == ["begun", "next"]


async def test_closing_finishes_what_was_submitted_and_refuses_the_rest(tmp_path: Path) -> None:
    """Nobody waits for ever for a store that is closed."""
    store = Store.open(tmp_path / "store.sqlite3")
    writes = [asyncio.create_task(put(store, trace(f"{i}"))) for i in range(5)]
    await asyncio.sleep(0)
    await asyncio.to_thread(store.close)
    assert [added[0].status for added in await asyncio.gather(*writes)] == ["created"] * 5
    with pytest.raises(StoreError, match="is closed"):
        await put(store, trace("late"))
    with pytest.raises(StoreError, match="closed"):
        await everything(store)
    store.close()
    reopened = Store.open(tmp_path / "store.sqlite3")
    assert len(await everything(reopened)) == 5
    reopened.close()


async def test_a_full_disk_fails_the_write_and_harms_nothing(small_disk: Path) -> None:
    """Earlier traces are whole; when there is room again, adding works again, without a restart."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 2_000_000)
    store = Store.open(small_disk / "store.sqlite3")
    kept: list[str] = []

    async def add_for_ever() -> None:
        while True:
            await put(store, trace(f"{len(kept)}", content=f"{len(kept)} " * 20_000))
            kept.append(f"{len(kept)}")

    with pytest.raises(StoreFullError, match=r"no space left for .*store\.sqlite3: nothing of this call was stored; free some space"):
        await add_for_ever()
    assert kept
    assert [stored.trace.trace_id for stored in await everything(store)] == kept
    ballast.unlink()
    assert (await put(store, trace("after")))[0].status == "created"
    store.close()
    reopened = Store.open(small_disk / "store.sqlite3")
    assert [stored.trace.trace_id for stored in await everything(reopened)] == [*kept, "after"]
    assert await reopened.read(lambda db: db.execute("PRAGMA integrity_check").fetchone()) == ("ok",)
    reopened.close()


async def test_a_store_on_a_full_disk_that_cannot_be_opened_says_so(small_disk: Path, ballast: Callable[[], None]) -> None:
    """What is there is well: to choose another directory would be the wrong advice."""
    path = small_disk / "store.sqlite3"
    Store.open(path).close()
    ballast()
    with pytest.raises(StoreFullError, match="no space left for "):
        Store.open(path)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a bound on the size of files")
async def test_a_disk_that_fails_is_not_called_full(store: Store) -> None:
    """To free some space would help nobody."""
    import resource

    bounds = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (store.path.stat().st_size + 100_000, bounds[1]))
    try:
        with pytest.raises(StoreError, match=r"cannot be read or written: disk I/O error \(SQLITE_IOERR_WRITE\)") as caught:
            await put(store, trace("large", content="x" * 800_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, bounds)
    assert not isinstance(caught.value, StoreFullError)
    assert (await put(store, trace("after")))[0].status == "created"


async def test_a_store_that_another_program_has_locked_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That passes by itself, unlike what else may be wrong with a store."""
    monkeypatch.setattr("tracebank.store.opening._BUSY_TIMEOUT_S", 0.0)
    store = Store.open(tmp_path / "store.sqlite3")
    with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreLockedError, match="another program has it open"):
            await put(store, trace("1"))
    assert (await put(store, trace("1")))[0].status == "created"
    store.close()


async def test_on_a_full_disk_small_writes_are_not_taken_down_by_a_large_one(small_disk: Path) -> None:
    """Each stands for itself where the shared commit fails."""
    store = Store.open(small_disk / "store.sqlite3")
    values = [trace("small"), trace("large", content="x" * 6_000_000), trace("small too")]
    async with writer_busy(store):
        writes = [
            asyncio.create_task(store.write(lambda db, value=value: traces.upsert(db, value, [], now_ms=NOW_MS, priority=0)))
            for value in values
        ]
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert isinstance(results[1], StoreFullError)
    assert [stored.trace.trace_id for stored in await everything(store)] == ["small", "small too"]
    store.close()


async def test_a_store_at_rest_keeps_all_its_readers(tmp_path: Path) -> None:
    """One that is in use is let alone, and as many can read at a time as before."""
    store = Store.open(tmp_path / "store.sqlite3")
    await put(store, trace())
    together = threading.Barrier(READERS)

    def with_the_others(db: sqlite3.Connection) -> int:
        together.wait(WAIT_S)
        return int(db.execute("SELECT count(*) FROM traces").fetchone()[0])

    await store.read(lambda _: store.rest())
    store.rest()
    assert await asyncio.gather(*(store.read(with_the_others) for _ in range(READERS))) == [1] * READERS
    store.close()
    store.rest()
