"""From the outbox into both indexes: everything once, whatever happens on the way."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from samples import WAIT_S, TinyModel, by_chunk, everything, keys_of, model_of, put, spoil, trace

from tracebank import indexer as module
from tracebank import precedence as precedence_module
from tracebank.embedding import EmbeddingService
from tracebank.errors import DataDirError, IndexFaultError
from tracebank.index import ChromaVectorIndex, TantivyWordIndex
from tracebank.index.base import FORMAT_FILE
from tracebank.indexer import MAX_REBUILDS, Indexer
from tracebank.meaning import Meaning
from tracebank.metrics import Metrics
from tracebank.precedence import Precedence
from tracebank.records import Filters, Trace
from tracebank.settings import IndexSettings
from tracebank.store import Store, outbox, traces, vectors
from tracebank.store.outbox import BULK, SINKS, Sink

pytestmark = pytest.mark.anyio

# Every chunk of these tests has this word, so that a question finds them all.
NOTE = "note"


def note(trace_id: str, content: str = "", **fields: Any) -> Trace:
    """Return a trace whose every chunk has the word."""
    return trace(trace_id, task=f"note {trace_id}", content=content, lessons=(), **fields)


def long(words: int) -> str:
    """Return a text of many chunks, all different."""
    return " ".join(f"note w{i}" for i in range(words))


@dataclass
class Rig:
    """An indexer at work, with all that it works on."""

    store: Store
    words: Any
    vectors: Any
    model: TinyModel
    indexer: Indexer
    meaning: Meaning
    running: asyncio.Task[None] | None = None

    async def done(self) -> None:
        """Wait until both indexes have all that was stored."""
        assert await self.indexer.wait(SINKS, up_to=None, timeout_s=WAIT_S)

    def found(self, sink: Sink, namespace: int = 1) -> set[tuple[int, int]]:
        """Return every chunk that an index holds of a namespace."""
        if sink == "words":
            return set(by_chunk(self.words.query(namespace, NOTE, 10_000, Filters()).chunks))
        # What is there, not what an approximate search finds of it.
        ids = self.vectors._opened(self.vectors.pair(namespace).serving).collection.get(include=[])["ids"]
        keys = [bytes.fromhex(id_) for id_ in ids]
        return set(keys_of(self.store.read_now(lambda db: vectors.holders(db, namespace, keys, limit=10_000))))

    async def expected(self, namespace: int = 1) -> set[tuple[int, int]]:
        """Return every chunk that the store has of a namespace."""
        sql = "SELECT c.trace, c.ordinal FROM chunks c JOIN traces t ON t.id = c.trace WHERE t.namespace_id = ?"
        return set(await self.store.read(lambda db: db.execute(sql, (namespace,)).fetchall()))

    async def check(self) -> None:
        """Assert that the outbox is empty and both indexes hold every chunk of the store once."""
        assert await self.store.read(lambda db: db.execute("SELECT * FROM outbox").fetchall()) == []
        for namespace in (await self.store.read(traces.namespace_ids)).values():
            expected = await self.expected(namespace)
            for sink, index in (("words", self.words), ("vectors", self.vectors)):
                assert self.found("words" if sink == "words" else "vectors", namespace) == expected, sink
                assert index.count(namespace) == (len(expected) if sink == "words" else await self.texts(namespace)), sink

    async def texts(self, namespace: int = 1) -> int:
        """Return how many distinct texts the chunks of a namespace have."""
        sql = "SELECT count(DISTINCT c.text_hash) FROM chunks c JOIN traces t ON t.id = c.trace WHERE t.namespace_id = ?"
        return int((await self.store.read(lambda db: db.execute(sql, (namespace,)).fetchone()))[0])


class Faulty:
    """An index with a say in what its `apply` does."""

    def __init__(self, index: Any, apply: Callable[[Callable[[], None], Sequence[Any]], None]) -> None:
        self._index, self._apply = index, apply

    def __getattr__(self, name: str) -> Any:
        """Everything else is the index's."""
        return getattr(self._index, name)

    def apply(self, namespace: int, upserts: Sequence[Any], removals: Sequence[Any]) -> None:
        """Write, if it is let."""
        self._apply(lambda: self._index.apply(namespace, upserts, removals), upserts)


Wrap = Callable[[Any], Any]


def as_it_is(index: Any) -> Any:
    """Return the index itself."""
    return index


@asynccontextmanager
async def rig(
    directory: Path, *, words: Wrap = as_it_is, vectors_: Wrap = as_it_is, attached: bool = True, batch_chunks: int = 128
) -> AsyncIterator[Rig]:
    """Open everything of a directory and let the indexer run; `words` and `vectors_` wrap the indexes."""
    model, metrics = TinyModel(), Metrics()
    store = Store.open(directory / "store.sqlite3")
    word_index = words(TantivyWordIndex(directory / "words"))
    vector_index = vectors_(ChromaVectorIndex(directory / "vectors", model="tiny"))
    embedding = EmbeddingService(lambda: model, name="tiny", batch_tokens=2_048, cache_bytes=100_000, metrics=metrics, clock=time.monotonic)
    embedding.start()
    await embedding.loaded()
    indexer = Indexer(
        store=store, words=word_index, settings=IndexSettings(linger_ms=0, batch_chunks=batch_chunks),
        metrics=metrics, precedence=Precedence(),
    )  # fmt: skip
    model_id = await model_of(store, "tiny")
    for sink, index in (("words", word_index), ("vectors", vector_index)):
        if index.fresh:
            await store.write(lambda db, sink=sink: outbox.fill(db, sink))
            index.mark_filled()
    meaning = Meaning(vector_index, embedding, model_id)
    made = Rig(store, word_index, vector_index, model, indexer, meaning)
    if attached:
        indexer.attach(meaning)
    made.running = asyncio.create_task(indexer.run())
    try:
        yield made
    finally:
        model.gate.set()
        made.running.cancel()
        await asyncio.gather(made.running, return_exceptions=True)
        await embedding.close()
        for closable in (word_index, vector_index, store):
            closable.close()


async def test_what_is_stored_gets_into_both_indexes(tmp_path: Path) -> None:
    """Created, updated with fewer chunks, deleted, in several namespaces: the outbox is empty in the end."""
    async with rig(tmp_path) as r:
        first, second, third = await put(r.store, note("1", long(300)), note("2"), note("3", namespace="other"))
        before = r.store.versions.of([1, 2])
        r.indexer.notify()
        await r.done()
        await r.check()
        assert all(now > then for now, then in zip(r.store.versions.of([1, 2]), before, strict=True))
        await put(r.store, note("1", "note short"), note("4"))
        await r.store.write(lambda db: traces.delete(db, [second.row, third.row]))
        r.indexer.notify()
        await r.done()
        await r.check()
        assert r.found("words", 2) == r.found("vectors", 2) == set()
        assert (first.row, 0) in r.found("vectors")


async def test_what_was_stored_before_is_indexed_at_the_start(tmp_path: Path) -> None:
    """The outbox outlives the process; and a fresh index is filled from the store."""
    store = Store.open(tmp_path / "store.sqlite3")
    await put(store, *(note(f"{i}") for i in range(20)))
    store.close()
    async with rig(tmp_path) as r:
        await r.done()
        await r.check()
    shutil.rmtree(tmp_path / "words")
    shutil.rmtree(tmp_path / "vectors")
    async with rig(tmp_path) as r:
        await r.done()
        await r.check()
        assert r.model.batches == []  # the vectors are in the store


class KilledError(BaseException):
    """Stands for the end of the process: nothing of the indexer runs after it."""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("sink", SINKS)
async def test_a_kill_at_any_point_only_repeats_work(tmp_path: Path, sink: Sink, when: str) -> None:
    """Before an index has written or before the outbox is cleared: the next start finds everything once."""

    def die(write: Callable[[], None], _: Sequence[Any]) -> None:
        if when == "after":
            write()
        raise KilledError

    async with rig(tmp_path) as r:
        _, gone = await put(r.store, note("updated", long(300)), note("gone", long(300)))
        r.indexer.notify()
        await r.done()
    wrapped: dict[str, Wrap] = {"words" if sink == "words" else "vectors_": lambda index: Faulty(index, die)}
    async with rig(tmp_path, **wrapped) as r:  # type: ignore[arg-type]
        await put(r.store, note("updated", "note"), note("new", "note"))
        await r.store.write(lambda db: traces.delete(db, [gone.row]))
        r.indexer.notify()
        assert r.running is not None
        with pytest.raises(BaseExceptionGroup) as caught:
            await r.running
        assert caught.group_contains(KilledError)
        assert await r.store.read(lambda db: outbox.waiting(db, sink)) == 3
    async with rig(tmp_path) as r:
        await r.done()
        await r.check()
        assert {stored.trace.trace_id for stored in await everything(r.store)} == {"updated", "new"}


async def test_a_trace_that_cannot_be_embedded_is_set_aside_and_blocks_nobody(tmp_path: Path) -> None:
    """It is told with its error, is found by words, and is taken again when that is asked for."""
    async with rig(tmp_path) as r:
        r.model.failing = "poison"
        values = [note(f"{i}", "note poison" if i == 3 else f"note {i}") for i in range(8)]
        added = await put(r.store, *values)
        r.indexer.notify()
        await r.done()
        assert await r.store.read(outbox.errors) == [("vectors", "3", "cannot embed 'poison'")]
        assert {row for row, _ in r.found("vectors")} == {a.row for a in added} - {added[3].row}
        assert {row for row, _ in r.found("words")} == {a.row for a in added}
        r.model.failing = ""
        await r.store.write(outbox.retry)
        r.indexer.notify()
        await r.done()
        await r.check()


def spoil_all(directory: Path) -> None:
    """Overwrite an index's files."""
    for path in directory.rglob("*"):
        if path.is_file() and path.name != FORMAT_FILE:
            spoil(path)


@pytest.mark.parametrize("harm", [spoil_all, shutil.rmtree], ids=["spoilt", "deleted"])
@pytest.mark.parametrize("sink", SINKS)
async def test_an_index_that_breaks_while_it_runs_is_rebuilt_from_the_store(
    tmp_path: Path, sink: Sink, harm: Callable[[Path], None]
) -> None:
    """At the next write: no trace is set aside for it, and what was embedded before is not embedded again."""
    async with rig(tmp_path) as r:
        await put(r.store, *(note(f"{i}") for i in range(10)))
        r.indexer.notify()
        await r.done()
        harm(tmp_path / sink)
        await put(r.store, note("after"))
        r.indexer.notify()
        await r.done()
        await r.check()
        assert r.indexer.rebuilds[sink] >= 1
        assert r.indexer.faults == {}
        assert [r.model.texts.count(f"note {i}") for i in range(10)] == [1] * 10
        other = SINKS[1 - SINKS.index(sink)]
        assert r.indexer.rebuilds[other] == 0


async def test_many_searches_that_fail_make_one_rebuild(tmp_path: Path) -> None:
    """Each of them reports the broken index."""
    async with rig(tmp_path) as r:
        await put(r.store, *(note(f"{i}") for i in range(10)))
        r.indexer.notify()
        await r.done()
        await asyncio.gather(*(r.indexer.repair("vectors", IndexFaultError("broken")) for _ in range(9)))
        await r.done()
        await r.check()
        assert r.indexer.rebuilds == {"words": 0, "vectors": 1, "vectors_next": 0}
        await r.indexer.repair("vectors", IndexFaultError("broken again"))
        await r.done()
        await r.check()
        assert r.indexer.rebuilds["vectors"] == 2


async def test_an_index_that_cannot_be_repaired_is_given_up_until_somebody_asks(tmp_path: Path) -> None:
    """Nobody waits for it, the other one works, and a rebuild on request puts it to use again."""
    healthy = False

    def fail(write: Callable[[], None], _: Sequence[Any]) -> None:
        if not healthy:
            raise IndexFaultError("hopeless")
        write()

    async with rig(tmp_path, vectors_=lambda index: Faulty(index, fail)) as r:
        values = [note(f"{i}") for i in range(MAX_REBUILDS + 3)]
        for value in values:
            await put(r.store, value)
            r.indexer.notify()
            await r.done()
        assert r.indexer.faults == {"vectors": "hopeless"}
        assert r.found("words") == await r.expected()
        healthy = True
        await r.store.write(outbox.retry)
        await r.indexer.rebuild("vectors")
        await r.done()
        await r.check()
        assert r.indexer.faults == {}


async def test_a_trace_that_breaks_even_a_new_index_is_set_aside(tmp_path: Path) -> None:
    """The index is blamed once, then the trace; the others get in."""
    rows: set[int] = set()

    def choke(write: Callable[[], None], upserts: Sequence[Any]) -> None:
        if any(upsert.text == "note 2" for upsert in upserts):
            raise IndexFaultError("indigestible")
        write()

    async with rig(tmp_path, vectors_=lambda index: Faulty(index, choke)) as r:
        added = await put(r.store, *(note(f"{i}") for i in range(6)))
        rows.add(added[2].row)
        r.indexer.notify()
        await r.done()
        assert await r.store.read(outbox.errors) == [("vectors", "2", "indigestible")]
        assert r.found("vectors") == await r.expected() - {(added[2].row, 0)}
        assert r.indexer.rebuilds["vectors"] == 1


async def test_on_a_full_disk_the_index_waits_and_blames_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No trace is set aside and no rebuild begun, which would take space, too; when there is room again it goes on."""
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    monkeypatch.setattr(module, "FREE_BYTES_WANTED", 2**60)
    failures = 0

    def full(write: Callable[[], None], _: Sequence[Any]) -> None:
        nonlocal failures
        failures += 1
        if failures > 3:
            monkeypatch.setattr(module, "FREE_BYTES_WANTED", 0)
            write()
        else:
            raise IndexFaultError("no room")

    async with rig(tmp_path, words=lambda index: Faulty(index, full)) as r:
        await put(r.store, note("1"), note("2"))
        r.indexer.notify()
        await r.done()
        await r.check()
        assert r.indexer.rebuilds["words"] == 0


async def test_a_rebuild_that_is_cut_short_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that was emptied and not filled is never taken for whole."""
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    async with rig(tmp_path) as r:
        await put(r.store, *(note(f"{i}") for i in range(5)))
        r.indexer.notify()
        await r.done()
        write = r.store.write
        failures = iter([True])

        async def full_once(action: Callable[..., Any]) -> Any:
            if next(failures, False):
                raise DataDirError("no room")
            return await write(action)

        monkeypatch.setattr(r.store, "write", full_once)
        with pytest.raises(DataDirError):
            await r.indexer.rebuild("words")
        assert r.words.fresh
        await put(r.store, note("6"))
        r.indexer.notify()
        await r.done()
        await r.check()


async def test_what_somebody_waits_for_is_indexed_before_bulk(tmp_path: Path) -> None:
    """And waiting for it ends before the bulk is through."""
    async with rig(tmp_path, batch_chunks=1, attached=False) as r:
        await put(r.store, *(note(f"bulk{i}") for i in range(9)), priority=BULK)
        (mine,) = await put(r.store, note("mine"))
        r.model.gate.clear()
        r.indexer.attach(r.meaning)
        assert await asyncio.to_thread(r.model.entered.acquire, True, WAIT_S)
        assert r.model.batches == [["note mine"]]
        assert not await r.indexer.wait(SINKS, up_to=mine.seq, timeout_s=0)
        r.model.gate.set()
        assert await r.indexer.wait(SINKS, up_to=mine.seq, timeout_s=WAIT_S)
        assert (mine.row, 0) in r.found("vectors")
        await r.done()
        await r.check()
        assert r.model.texts == ["note mine", *(f"note bulk{i}" for i in range(9))]


async def test_the_same_text_is_embedded_once_wherever_it_is(tmp_path: Path) -> None:
    """In one batch, in another trace, under another namespace, after a restart."""
    async with rig(tmp_path) as r:
        await put(r.store, note("1", "note a"), note("2", "note a"))
        r.indexer.notify()
        await r.done()
        await put(r.store, *(note(f"{i}", "note a", namespace="again") for i in (1, 2)))
        r.indexer.notify()
        await r.done()
        assert sorted(r.model.texts) == ["note 1", "note 2", "note a"]
    async with rig(tmp_path) as r:
        await put(r.store, *(note(f"{i}", "note a", namespace="third") for i in (1, 2)))
        r.indexer.notify()
        await r.done()
        await r.check()
        assert r.model.texts == []


async def test_what_needs_no_embedding_is_written_in_larger_batches(tmp_path: Path) -> None:
    """A batch is bounded by what the model has to do for it; words and known texts cost little."""
    sizes: dict[str, list[int]] = {"words": [], "vectors": []}

    def recording(sink: str) -> Wrap:
        def apply(write: Callable[[], None], upserts: Sequence[Any]) -> None:
            sizes[sink].append(len(upserts))
            write()

        return lambda index: Faulty(index, apply)

    async with rig(tmp_path, words=recording("words"), vectors_=recording("vectors"), batch_chunks=2) as r:
        for namespace in ("first", "again"):
            await put(r.store, *(note(str(i), namespace=namespace) for i in range(20)))
            r.indexer.notify()
            await r.done()
        await r.check()
    assert sizes == {"words": [16, 4, 16, 4], "vectors": [2] * 10 + [16, 4]}


class WatchedPrecedence(Precedence):
    """Tells when work gives way."""

    def __init__(self) -> None:
        super().__init__()
        self.given_way = asyncio.Event()

    async def give_way(self) -> None:
        """Tell that it does, and do it."""
        self.given_way.set()
        await super().give_way()


async def test_vectors_are_written_in_small_parts_that_give_way_while_somebody_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chroma holds the interpreter's lock while it writes. Nobody asks: the parts are larger."""
    monkeypatch.setattr(precedence_module, "GIVE_WAY_S", WAIT_S)
    monkeypatch.setattr(precedence_module, "BREATH_S", 0)
    monkeypatch.setattr(precedence_module, "QUIET_TEXTS", 12)
    monkeypatch.setattr(precedence_module, "LONELY_TEXTS", 12)
    precedence = WatchedPrecedence()
    parts: list[tuple[int, bool]] = []

    def apply(write: Callable[[], None], upserts: Sequence[Any]) -> None:
        parts.append((len(upserts), precedence.waiting > 0))
        write()

    async with rig(tmp_path, vectors_=lambda index: Faulty(index, apply)) as r:
        await put(r.store, *(note(str(i)) for i in range(30)))
        r.indexer.notify()
        await r.done()
        assert parts == [(12, False), (12, False), (6, False)]
        parts.clear()
        r.indexer.precedence = precedence
        with precedence.answering():
            await put(r.store, *(note(str(i)) for i in range(30, 60)))
            r.indexer.notify()
            await asyncio.wait_for(precedence.given_way.wait(), WAIT_S)
            for _ in range(10):
                await asyncio.sleep(0)
        await r.done()
        await r.check()
        assert parts == [(8, True), (8, False), (8, False), (6, False)]
        parts.clear()
        await r.store.write(lambda db: traces.delete(db, list(range(1, 21))))
        await put(r.store, *(note(str(i)) for i in range(60, 63)))
        r.indexer.notify()
        await r.done()
        await r.check()
    assert sum(upserted for upserted, _ in parts) == 3
    assert len(parts) >= 3, "deletions go in small parts, too"


async def test_an_index_that_is_rebuilt_between_two_parts_of_a_batch_has_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written before it was emptied is written again."""
    monkeypatch.setattr(precedence_module, "GIVE_WAY_S", WAIT_S)
    monkeypatch.setattr(precedence_module, "BREATH_S", 0)
    precedence = WatchedPrecedence()
    async with rig(tmp_path) as r:
        r.indexer.precedence = precedence
        with precedence.answering():
            await put(r.store, *(note(str(i)) for i in range(30)))
            r.indexer.notify()
            await asyncio.wait_for(precedence.given_way.wait(), WAIT_S)
            rebuilding = asyncio.create_task(r.indexer.rebuild("vectors"))
            for _ in range(10):
                await asyncio.sleep(0)
        await rebuilding
        await r.done()
        await r.check()


async def test_a_trace_that_changes_while_it_is_embedded_ends_as_it_was_last(tmp_path: Path) -> None:
    """Updated or deleted: the entry that came meanwhile is served, too."""
    async with rig(tmp_path) as r:
        r.model.gate.clear()
        updated, deleted = await put(r.store, note("updated", long(200)), note("deleted", long(200)))
        r.indexer.notify()
        assert await asyncio.to_thread(r.model.entered.acquire, True, WAIT_S)
        await put(r.store, note("updated", "note after"))
        await r.store.write(lambda db: traces.delete(db, [deleted.row]))
        r.indexer.notify()
        r.model.gate.set()
        await r.done()
        await r.check()
        assert r.found("vectors") == {(updated.row, 0), (updated.row, 1)}
        kept = await r.store.read(lambda db: db.execute("SELECT count(*) FROM embeddings").fetchone())
        assert kept == (2,)


async def test_words_do_not_wait_for_meaning(tmp_path: Path) -> None:
    """While the model loads, what is stored is found by words; its vectors follow."""
    async with rig(tmp_path, attached=False) as r:
        (added,) = await put(r.store, note("1"))
        r.indexer.notify()
        assert await r.indexer.wait(("words",), up_to=added.seq, timeout_s=WAIT_S)
        assert r.found("words") == {(added.row, 0)}
        assert not await r.indexer.wait(SINKS, up_to=added.seq, timeout_s=0.01)
        r.indexer.attach(r.meaning)
        await r.done()
        await r.check()


async def test_one_huge_trace_does_not_need_the_others_to_fit_its_batch(tmp_path: Path) -> None:
    """A batch is at least one trace."""
    async with rig(tmp_path, batch_chunks=2) as r:
        await put(r.store, note("huge", long(2_000)), note("small"))
        r.indexer.notify()
        await r.done()
        await r.check()


async def test_a_closing_model_sets_nothing_aside(tmp_path: Path) -> None:
    """What was not embedded waits for the next start."""
    async with rig(tmp_path) as r:
        r.model.gate.clear()
        await put(r.store, note("1"))
        r.indexer.notify()
        assert await asyncio.to_thread(r.model.entered.acquire, True, WAIT_S)
    async with rig(tmp_path) as r:
        assert await r.store.read(outbox.errors) == []
        await r.done()
        await r.check()


@pytest.mark.parametrize("sink", SINKS)
async def test_what_was_written_just_before_the_index_was_emptied_is_written_again(tmp_path: Path, sink: Sink) -> None:
    """A rebuild that begins while a batch is being written must not lose that batch."""
    begun, end = threading.Event(), threading.Event()

    def hold(write: Callable[[], None], _: Sequence[Any]) -> None:
        write()
        begun.set()
        assert end.wait(WAIT_S)

    wrapped: dict[str, Wrap] = {"words" if sink == "words" else "vectors_": lambda index: Faulty(index, hold)}
    async with rig(tmp_path, **wrapped) as r:  # type: ignore[arg-type]
        await put(r.store, *(note(f"{i}") for i in range(5)))
        r.indexer.notify()
        assert await asyncio.to_thread(begun.wait, WAIT_S)
        rebuilding = asyncio.create_task(r.indexer.rebuild(sink))
        await asyncio.sleep(0)
        end.set()
        await rebuilding
        await r.done()
        await r.check()


async def test_who_waits_is_served_even_if_the_index_is_filled_meanwhile(tmp_path: Path) -> None:
    """The first traces of a new directory come before its index is open, which is then filled from the store."""
    async with rig(tmp_path, attached=False) as r:
        (mine,) = await put(r.store, note("mine"))
        await r.store.write(lambda db: outbox.fill(db, "vectors"))
        r.model.gate.clear()
        r.indexer.attach(r.meaning)
        assert await asyncio.to_thread(r.model.entered.acquire, True, WAIT_S)
        assert not await r.indexer.wait(SINKS, up_to=mine.seq, timeout_s=0)
        r.model.gate.set()
        assert await r.indexer.wait(SINKS, up_to=mine.seq, timeout_s=WAIT_S)
        await r.check()


async def test_nothing_to_wait_for_is_no_wait(tmp_path: Path) -> None:
    """Even where the wait is bounded by 0."""
    async with rig(tmp_path) as r:
        assert await r.indexer.wait(SINKS, up_to=None, timeout_s=0)
