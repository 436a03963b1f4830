"""Storing, updating, finding and deleting traces, and what each leaves for the indexes to do."""

from __future__ import annotations

import asyncio
import itertools
import json
import sqlite3
from typing import Any

import numpy as np
import pytest
from samples import LIMITS, NOW_MS, cut, everything, keys_of, model_of, put, tiny_vector, trace

from tracebank.chunking import text_hash
from tracebank.records import Filters, Outcome, parse_trace
from tracebank.scores import chunk_number, numbers_of
from tracebank.store import Store, filtering, outbox, traces, vectors
from tracebank.store.outbox import BULK, INTERACTIVE

pytestmark = pytest.mark.anyio


async def rows(store: Store, sql: str) -> list[tuple[Any, ...]]:
    """Return what a query gives."""
    return await store.read(lambda db: db.execute(sql).fetchall())


async def queued(store: Store) -> list[tuple[Any, ...]]:
    """Return the outbox."""
    return await rows(store, "SELECT sink, trace, length(stale_texts) / 16 FROM outbox ORDER BY sink, trace")


async def keep_vectors(store: Store, *texts: str) -> int:
    """Keep a vector for each text, and return the model's number."""
    model = await model_of(store, "tiny")
    await store.write(lambda db: vectors.put(db, model, {text_hash(text): tiny_vector(text) for text in texts}))
    return model


async def test_what_is_stored_comes_back_whole(store: Store) -> None:
    """Every field, and the order of lessons and tags."""
    value = trace(content="深い\n" * 50, tags=("z", "a"))
    (added,) = await put(store, value)
    (found,) = await everything(store)
    assert (found.trace, found.row, found.created_at_ms, found.updated_at_ms) == (value, added.row, NOW_MS, NOW_MS)
    assert added.chunks == len(cut(value))


async def test_storing_is_created_then_unchanged_then_updated(store: Store) -> None:
    """The caller's id makes the call idempotent."""
    first, again, changed = trace(), trace(), trace(task="Repair the other test")
    (created,) = await put(store, first)
    (unchanged,) = await put(store, again, now_ms=NOW_MS + 1)
    (updated,) = await put(store, changed, now_ms=NOW_MS + 2)
    assert (created.status, unchanged.status, updated.status) == ("created", "unchanged", "updated")
    assert created.row == unchanged.row == updated.row
    assert created.chunks == unchanged.chunks
    (found,) = await everything(store)
    assert (found.trace, found.created_at_ms, found.updated_at_ms) == (changed, NOW_MS, NOW_MS + 2)


@pytest.mark.parametrize(
    "change",
    [
        {"content": ""}, {"outcome": Outcome.FAILURE}, {"lessons": ()}, {"tags": ("pytest", "python")}, {"parent_id": None},
        {"occurred_at_ms": NOW_MS + 1}, {"metadata": {"attempts": 2.0}},
    ],
)  # fmt: skip
async def test_a_change_of_any_field_is_an_update(store: Store, change: dict[str, Any]) -> None:
    """Also of the order of tags, and of the type of a number."""
    await put(store, trace())
    (added,) = await put(store, trace(**change))
    assert added.status == "updated"
    (found,) = await everything(store)
    assert found.trace == trace(**change)


async def test_what_is_unchanged_costs_nothing(store: Store) -> None:
    """No row, no outbox entry, and not a byte to the write-ahead log: so no wait for the disk either."""
    await put(store, trace())
    log = store.path.with_name(store.path.name + "-wal")
    before = (await rows(store, "SELECT * FROM traces"), await rows(store, "SELECT * FROM outbox"), log.read_bytes())
    (added,) = await put(store, trace(), now_ms=NOW_MS + 5)
    assert (added.status, added.seq) == ("unchanged", None)
    assert (await rows(store, "SELECT * FROM traces"), await rows(store, "SELECT * FROM outbox"), log.read_bytes()) == before


async def test_a_trace_without_a_time_gets_the_time_it_is_first_stored_and_keeps_it(store: Store) -> None:
    """The same again is unchanged, however much later; an update does not move it."""
    await put(store, trace(occurred_at_ms=None))
    (again,) = await put(store, trace(occurred_at_ms=None), now_ms=NOW_MS + 1_000)
    (updated,) = await put(store, trace(occurred_at_ms=None, content="new"), now_ms=NOW_MS + 2_000)
    assert (again.status, updated.status) == ("unchanged", "updated")
    (found,) = await everything(store)
    assert found.trace.occurred_at_ms == NOW_MS


@pytest.mark.parametrize("occurred_at_ms", [None, NOW_MS - 77])
async def test_importing_an_export_changes_nothing(store: Store, occurred_at_ms: int | None) -> None:
    """Also for a trace that was given no time, which its export has."""
    await put(store, trace(occurred_at_ms=occurred_at_ms))
    (exported,) = await everything(store)
    line = json.dumps(exported.trace.as_json())
    back = parse_trace(json.loads(line), limits=LIMITS, namespace="n", trace_id="t")
    (added,) = await put(store, back, now_ms=NOW_MS + 9)
    assert added.status == "unchanged"


async def test_equal_ids_in_two_namespaces_are_two_traces(store: Store) -> None:
    """Neither sees, changes or deletes the other."""
    one, two = trace(namespace="one", task="first"), trace(namespace="two", task="second")
    first, second = (await put(store, one, two))[:2]
    assert first.row != second.row
    await put(store, trace(namespace="two", task="changed"))
    assert await store.read(lambda db: traces.rows_of(db, ["t1"], ["one"])) == [first.row]
    assert await store.read(lambda db: traces.rows_of(db, ["t1"])) == [first.row, second.row]
    assert await store.read(traces.namespaces) == {"one": 1, "two": 1}
    assert await store.write(lambda db: traces.delete(db, [second.row])) == 1
    assert [found.trace for found in await everything(store)] == [one]
    assert await store.read(traces.namespaces) == {"one": 1}


async def test_deleting_removes_all_that_belongs_to_the_trace_alone(store: Store) -> None:
    """Lessons, tags and chunks go, and each vector that no other trace needs."""
    gone, stays = trace("gone", task="shared task", content="only here"), trace("stays", task="shared task", content="only there")
    row, other = (added.row for added in await put(store, gone, stays))
    model = await keep_vectors(store, *{chunk.text for value in (gone, stays) for chunk in cut(value)})
    assert await store.write(lambda db: traces.delete(db, [row, 999])) == 1
    for table in ("lessons", "tags", "chunks"):
        assert {found for (found,) in await rows(store, f"SELECT trace FROM {table}")} == {other}
    kept = await store.read(lambda db: vectors.get(db, model, [text_hash(text) for text in ("shared task", "only here", "only there")]))
    assert set(kept) == {text_hash("shared task"), text_hash("only there")}


async def test_an_update_keeps_the_vectors_of_what_it_does_not_change(store: Store) -> None:
    """A new tag on a long trace embeds nothing again; a new text drops the vector of the old one."""
    await put(store, trace(content="old content"))
    model = await keep_vectors(store, *(chunk.text for chunk in cut(trace(content="old content"))))
    await put(store, trace(content="old content", tags=("new",)))
    hashes = [text_hash(chunk.text) for chunk in cut(trace(content="old content"))]
    assert set(await store.read(lambda db: vectors.get(db, model, hashes))) == set(hashes)
    await put(store, trace(content="new content"))
    assert set(await store.read(lambda db: vectors.get(db, model, hashes))) == set(hashes) - {text_hash("old content")}


async def test_a_vector_whose_text_was_forgotten_meanwhile_is_not_kept(store: Store) -> None:
    """Embedding takes a while; what was deleted in it must leave nothing behind."""
    await keep_vectors(store, "nobody has this text")
    assert await rows(store, "SELECT * FROM embeddings") == []


async def test_vectors_are_kept_by_model_and_nearly_exactly(store: Store) -> None:
    """float16 is close enough for a rank; one model's vectors are never given to another."""
    (added,) = await put(store, trace(content="a b c"))
    model = await keep_vectors(store, *(chunk.text for chunk in cut(trace(content="a b c"))))
    other = await model_of(store, "other")
    assert await model_of(store, "tiny") == model != other
    numbers, matrix = await store.read(lambda db: vectors.of_traces(db, model, [added.row]))
    exact = {chunk_number(added.row, i): tiny_vector(chunk.text) for i, chunk in enumerate(cut(trace(content="a b c")))}
    assert {number: float(vector @ exact[number]) for number, vector in zip(numbers.tolist(), matrix, strict=True)} == pytest.approx(
        dict.fromkeys(exact, 1.0), abs=1e-3
    )
    assert (await store.read(lambda db: vectors.of_traces(db, other, [added.row]))).numbers.tolist() == []
    asked = numbers_of(chunk_number(row, ordinal) for row, ordinal in ((added.row, 1), (added.row, 0), (added.row, 99), (7, 0)))
    assert keys_of((await store.read(lambda db: vectors.of_chunks(db, model, asked))).numbers) == [(added.row, 0), (added.row, 1)]


async def test_a_whole_namespace_comes_at_once_up_to_a_limit(store: Store) -> None:
    """By the number of the chunk, whenever its trace happened; one that is larger is not read at all."""
    values = [trace(f"{i}", task=f"task {i}", content="a b c", occurred_at_ms=1_000 - i) for i in range(5)]
    added = await put(store, *values)
    await put(store, trace(content="a b c", namespace="other"))
    texts = {chunk_number(one.row, i): chunk.text for one, value in zip(added, values, strict=True) for i, chunk in enumerate(cut(value))}
    model = await keep_vectors(store, *texts.values())
    of_one = await store.read(lambda db: vectors.of_namespace(db, model, 1, limit=len(texts)))
    assert of_one is not None
    assert of_one.numbers.tolist() == sorted(texts)
    assert of_one.matrix == pytest.approx(np.stack([tiny_vector(texts[number]) for number in sorted(texts)]), abs=1e-3)
    assert await store.read(lambda db: vectors.of_namespace(db, model, 1, limit=len(texts) - 1)) is None


async def test_the_chunks_that_have_a_text_are_those_of_the_namespace(store: Store) -> None:
    """In the order of the texts asked for."""
    one, two = await put(store, trace("1", task="same", content="x"), trace("2", task="same", content="y"))
    await put(store, trace("1", task="same", content="x", namespace="other"))
    asked = [text_hash(text) for text in ("y", "same", "nobody's")]
    found = await store.read(lambda db: vectors.holders(db, 1, asked, limit=10))
    assert keys_of(found) == [(two.row, two.chunks - 1), (one.row, 0), (two.row, 0)]
    assert set(found.values()) == set(asked[:2])


async def test_a_text_that_many_traces_have_does_not_crowd_out_the_others(store: Store) -> None:
    """Where not all find room each text has its part."""
    await put(store, *(trace(f"{i}", task="daily", content="") for i in range(20)), trace("rare", task="rare", content=""))
    found = await store.read(lambda db: vectors.holders(db, 1, [text_hash("daily"), text_hash("rare")], limit=10))
    assert list(found.values()) == [text_hash("daily")] * 5 + [text_hash("rare")]


async def test_all_that_one_read_reads_is_of_one_moment(store: Store) -> None:
    """Whatever is committed meanwhile."""
    await put(store, trace("1"))

    def counted(db: sqlite3.Connection) -> tuple[int, int]:
        before = traces.count(db, 1)
        asyncio.run_coroutine_threadsafe(put(store, trace("2")), loop).result()
        return before, traces.count(db, 1)

    loop = asyncio.get_running_loop()
    assert await store.read(counted) == (1, 1)
    assert await store.read(lambda db: traces.count(db, 1)) == 2


async def test_a_rows_number_is_never_given_out_twice(store: Store) -> None:
    """The indexes know a trace by it."""
    (first,) = await put(store, trace())
    await store.write(lambda db: traces.delete(db, [first.row]))
    (second,) = await put(store, trace())
    assert second.row > first.row


@pytest.mark.parametrize("with_outcome", [False, True])
@pytest.mark.parametrize("with_tags", [0, 1, 2])
@pytest.mark.parametrize("with_time", [False, True])
async def test_filters_select_what_they_say(store: Store, with_outcome: bool, with_tags: int, with_time: bool) -> None:
    """One of the outcomes, all of the tags, and times with both ends."""
    values = [
        trace(f"{i}", namespace=space, outcome=outcome, tags=tags, occurred_at_ms=1_000 + i % 5)
        for i, (space, outcome, tags) in enumerate(itertools.product("ab", Outcome, [(), ("x",), ("x", "y"), ("y",)]))
    ]
    stored = {added.row: value for added, value in zip(await put(store, *values), values, strict=True)}
    filters = Filters(
        outcomes=(Outcome.SUCCESS, Outcome.FAILURE) if with_outcome else (),
        tags=("x", "y")[:with_tags],
        since_ms=1_001 if with_time else None,
        until_ms=1_003 if with_time else None,
    )
    wanted = [
        row
        for row, value in stored.items()
        if (not with_outcome or value.outcome in filters.outcomes)
        and set(filters.tags) <= set(value.tags)
        and (not with_time or 1_001 <= (value.occurred_at_ms or 0) <= 1_003)
    ]
    space_b = (await store.read(traces.namespace_ids))["b"]
    assert await store.read(lambda db: filtering.matching(db, filters)) == wanted
    of_b = [row for row in wanted if stored[row].namespace == "b"]
    assert await store.read(lambda db: filtering.matching(db, filters, namespaces=["b"])) == of_b
    assert await store.read(lambda db: filtering.matching(db, filters, space=space_b)) == of_b
    assert await store.read(lambda db: traces.count(db, space_b)) == 16


async def test_pages_hold_every_trace_once_in_the_order_stored(store: Store) -> None:
    """Of all namespaces or of some."""
    await put(store, *(trace(f"{i}", namespace="ab"[i % 2]) for i in range(25)))
    for names, wanted in (([], range(25)), (["b"], range(1, 25, 2))):
        after, seen = 0, []
        while page := await store.read(lambda db, names=names, after=after: traces.page(db, names, after=after, limit=4)):
            assert len(page) <= 4
            seen += [int(found.trace.trace_id) for found in page]
            after = page[-1].row
        assert seen == list(wanted)


async def test_every_change_is_queued_for_both_indexes_once(store: Store) -> None:
    """A newer entry replaces the one that waits, and remembers the most chunks an index may still hold."""
    (added,) = await put(store, trace(content=" ".join(f"word{i}" for i in range(500))))
    assert added.chunks > 3
    assert await queued(store) == [("vectors", added.row, 0), ("words", added.row, 0)]
    (updated,) = await put(store, trace(content="short"))
    assert await queued(store) == [("vectors", added.row, added.chunks), ("words", added.row, 0)]
    await put(store, trace(content="shorter", lessons=()))
    # The second update dropped one text that the first had not.
    assert await queued(store) == [("vectors", added.row, added.chunks + 1), ("words", added.row, 0)]
    assert added.seq is not None
    assert updated.seq is not None
    assert added.seq < updated.seq
    await store.write(lambda db: traces.delete(db, [added.row]))
    assert await queued(store) == [("vectors", added.row, added.chunks + 2), ("words", added.row, 0)]


async def test_clearing_an_entry_does_not_clear_the_one_that_replaced_it(store: Store) -> None:
    """A trace that is updated while it is indexed is indexed once more."""
    await put(store, trace())
    (read,) = await store.read(lambda db: outbox.due(db, "words", limit=9))
    await put(store, trace(task="changed"))
    await store.write(lambda db: outbox.clear(db, [read.seq]))
    (due,) = await store.read(lambda db: outbox.due(db, "words", limit=9))
    assert (due.row, due.seq > read.seq) == (read.row, True)


async def test_what_somebody_waits_for_comes_before_bulk(store: Store) -> None:
    """And within each, the older before the newer."""
    await put(store, trace("b1"), trace("b2"), priority=BULK)
    await put(store, trace("i1"), trace("i2"), priority=INTERACTIVE)
    due = await store.read(lambda db: outbox.due(db, "vectors", limit=3))
    names = {found.row: found.trace.trace_id for found in await everything(store)}
    assert [names[entry.row] for entry in due] == ["i1", "i2", "b1"]
    assert await store.read(lambda db: outbox.waiting(db, "vectors")) == 4
    first, second = sorted(entry.seq for entry in due[:2])
    assert not await store.read(lambda db: outbox.is_due(db, "vectors", up_to=first - 1))
    assert await store.read(lambda db: outbox.is_due(db, "vectors", up_to=first))
    await store.write(lambda db: outbox.clear(db, [first]))
    assert not await store.read(lambda db: outbox.is_due(db, "vectors", up_to=first))
    assert await store.read(lambda db: outbox.is_due(db, "vectors", up_to=second))
    await store.write(lambda db: outbox.clear(db, [second]))
    # Bulk is due, but nobody waits for it.
    assert not await store.read(lambda db: outbox.is_due(db, "vectors", up_to=max(entry.seq for entry in due)))
    assert await store.read(lambda db: outbox.is_due(db, "vectors"))
    assert not await store.read(lambda db: outbox.is_due(db, "no such sink"))


@pytest.mark.parametrize("changes", [1, 2])
async def test_an_import_of_what_somebody_waits_for_is_waited_for_in_its_place(store: Store, changes: int) -> None:
    """It comes before bulk as that did, and whoever waits for the number of before waits until this is done."""
    await put(store, trace("bulk"), priority=BULK)
    (mine,) = await put(store, trace("mine"))
    (next_one,) = await put(store, trace("next"))
    for change in range(changes):
        await put(store, trace("mine", task=f"changed {change}"), priority=BULK)
    due = {entry.row: entry.seq for entry in await store.read(lambda db: outbox.due(db, "vectors", limit=9))}
    assert list(due)[:2] == [next_one.row, mine.row]
    await store.write(lambda db: outbox.clear(db, [due[next_one.row]]))
    assert mine.seq is not None
    assert await store.read(lambda db: outbox.is_due(db, "vectors", up_to=mine.seq))
    await store.write(lambda db: outbox.clear(db, [due[mine.row]]))
    assert not await store.read(lambda db: outbox.is_due(db, "vectors", up_to=mine.seq))


async def test_whether_somebody_waits_takes_no_longer_where_many_wait(store: Store) -> None:
    """What is up to a number is looked up, not looked for among all that is waited for."""

    def plan(db: sqlite3.Connection) -> list[str]:
        asked: list[str] = []
        db.set_trace_callback(asked.append)
        outbox.is_due(db, "vectors", up_to=7)
        db.set_trace_callback(None)
        return [step for *_, step in db.execute(f"EXPLAIN QUERY PLAN {asked[0]}")]

    assert await store.read(plan) == ["SEARCH outbox USING INDEX outbox_awaited (sink=? AND <expr><?)"]


async def test_nobody_waits_for_bulk_that_somebody_else_has_changed(store: Store) -> None:
    """What was imported before is in nobody's way."""
    await put(store, trace("shared"), priority=BULK)
    (mine,) = await put(store, trace("mine"))
    await put(store, trace("shared", task="changed"))
    due = await store.read(lambda db: outbox.due(db, "vectors", limit=9))
    assert [entry.row for entry in due][:1] == [mine.row]
    await store.write(lambda db: outbox.clear(db, [due[0].seq]))
    assert not await store.read(lambda db: outbox.is_due(db, "vectors", up_to=mine.seq))


async def test_what_is_set_aside_is_out_of_the_way_until_it_is_tried_again(store: Store) -> None:
    """It does not count as waiting, but the trace is known not to be indexed."""
    bad, good = await put(store, trace("bad"), trace("good"))
    entry = (await store.read(lambda db: outbox.due(db, "vectors", limit=1)))[0]
    await store.write(lambda db: outbox.set_aside(db, entry.seq, "too odd"))
    assert [e.row for e in await store.read(lambda db: outbox.due(db, "vectors", limit=9))] == [good.row]
    assert await store.read(lambda db: outbox.waiting(db, "vectors")) == 1
    assert await store.read(outbox.errors) == [("vectors", "bad", "too odd")]
    assert await store.read(lambda db: outbox.is_waiting(db, bad.row))
    assert await store.write(outbox.retry) == 1
    assert await store.read(lambda db: outbox.waiting(db, "vectors")) == 2


async def test_an_update_tries_again_what_was_set_aside(store: Store) -> None:
    """The new text may do."""
    await put(store, trace())
    (entry,) = await store.read(lambda db: outbox.due(db, "words", limit=9))
    await store.write(lambda db: outbox.set_aside(db, entry.seq, "too odd"))
    await put(store, trace(task="changed"))
    assert await store.read(lambda db: outbox.waiting(db, "words")) == 1


async def test_filling_queues_every_trace_for_one_index(store: Store) -> None:
    """Removals and errors are forgotten there, as that index is empty; who is waited for keeps the place."""
    gone, done, bad = await put(store, trace("gone"), trace("done"), trace("bad"), priority=BULK)
    seqs = {entry.row: entry.seq for entry in await store.read(lambda db: outbox.due(db, "words", limit=9))}
    await store.write(lambda db: outbox.clear(db, [seqs[done.row]]))
    await store.write(lambda db: outbox.set_aside(db, seqs[bad.row], "too odd"))
    await store.write(lambda db: traces.delete(db, [gone.row]))
    (mine,) = await put(store, trace("mine"))
    before = await store.read(lambda db: outbox.due(db, "words", limit=9))
    assert await store.write(lambda db: outbox.fill(db, "words")) == 3
    due = await store.read(lambda db: outbox.due(db, "words", limit=9))
    assert [entry.row for entry in due] == [mine.row, done.row, bad.row]
    assert due[0] == before[1]
    assert {row for sink, row, _ in await queued(store) if sink == "vectors"} == {gone.row, done.row, bad.row, mine.row}


async def test_the_figures_count_what_is_there(store: Store) -> None:
    """For `stats`."""
    added = await put(store, trace("1"), trace("2", namespace="other"))
    figures = await store.read(store.figures)
    assert figures["bytes"] > 0  # type: ignore[operator]
    assert {name: figures[name] for name in ("traces", "lessons", "chunks", "embeddings", "commits", "namespaces")} == {
        "traces": 2, "lessons": 4, "chunks": sum(a.chunks for a in added), "embeddings": 0, "commits": 1,
        "namespaces": {"default": 1, "other": 1},
    }  # fmt: skip


async def test_readers_cannot_write(store: Store) -> None:
    """Only the writer's thread does."""
    from tracebank.errors import StoreError

    with pytest.raises(StoreError, match="readonly"):
        await store.read(lambda db: db.execute("DELETE FROM traces"))


async def test_token_vectors_are_kept_by_chunk_and_go_with_it(store: Store) -> None:
    """A text without tokens has none, and that is kept too; of a text that nobody has, nothing is."""
    (added,) = await put(store, trace(task="kept", content="", lessons=()))
    model = await model_of(store, "tiny")
    codes = np.arange(96, dtype=np.uint8).reshape(3, 32)
    kept = {text_hash("kept"): codes, text_hash("nobody has this"): codes}
    await store.write(lambda db: vectors.put_tokens(db, model, kept))
    assert await store.read(lambda db: vectors.with_tokens(db, model, kept)) == {text_hash("kept")}
    first, second, nobodys = chunk_number(added.row, 0), chunk_number(added.row, 1), chunk_number(99, 0)
    found = await store.read(lambda db: vectors.tokens_of_chunks(db, model, [first, second, nobodys]))
    assert {number: code.tolist() for number, code in found.items()} == {first: codes.tolist()}
    await store.write(lambda db: vectors.put_tokens(db, model, {text_hash("kept"): codes[:0]}))
    empty = await store.read(lambda db: vectors.tokens_of_chunks(db, model, [first]))
    assert empty[first].shape == (0, 32)
    await store.write(lambda db: traces.delete(db, [added.row]))
    assert await rows(store, "SELECT * FROM token_vectors") == []
