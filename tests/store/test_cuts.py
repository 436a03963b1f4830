"""Where equal texts were cut before."""

from __future__ import annotations

import pytest
from samples import NOW_MS, cut, trace

from tracebank.records import Lesson, Trace
from tracebank.store import Store, cuts, outbox, traces

pytestmark = pytest.mark.anyio
MARK = b"16 bytes of cuts"


async def put(store: Store, *values: Trace, mark: bytes | None = MARK) -> None:
    """Store traces that were cut in a known way."""
    await store.write(lambda db: [traces.upsert(db, value, cut(value), now_ms=NOW_MS, priority=outbox.BULK, cut=mark) for value in values])


async def test_equal_texts_have_the_chunks_they_had(store: Store) -> None:
    """Whatever the namespace, the id and all else that is not cut."""
    stored = trace("one", content="A sentence of six words here. " * 60)
    await put(store, trace("another", content="other"), stored)
    again = trace("two", namespace="another", content=stored.content, tags=(), metadata={}, outcome=trace().outcome)
    assert len(cut(again)) > 5
    assert await store.read(lambda db: cuts.known(db, again, MARK)) == cut(again)


@pytest.mark.parametrize(
    "changed",
    [
        {"task": "Repair another test"},
        {"content": "Something else."},
        {"lessons": ()},
        {"lessons": (*trace().lessons, Lesson(content="One more."))},
        {"lessons": trace().lessons[::-1]},
    ],
)
async def test_a_trace_with_another_text_is_not_known(store: Store, changed: dict[str, object]) -> None:
    """Chunks belong to the whole of it."""
    await put(store, trace())
    assert await store.read(lambda db: cuts.known(db, trace("two"), MARK)) is not None
    assert await store.read(lambda db: cuts.known(db, trace("two", **changed), MARK)) is None


async def test_what_was_cut_otherwise_is_not_known(store: Store) -> None:
    """By another tokenizer or another length, or nobody knows by what; storing it anew tells."""
    await put(store, trace("one"), mark=None)
    assert await store.read(lambda db: cuts.known(db, trace("two"), MARK)) is None
    await put(store, trace("one", tags=("changed",)))
    assert await store.read(lambda db: cuts.known(db, trace("two"), MARK)) is not None
    assert await store.read(lambda db: cuts.known(db, trace("two"), b"another way")) is None


async def test_of_many_with_one_task_the_newest_are_looked_at(store: Store) -> None:
    """To look at all of thousands, for each of thousands, would take hours. What is forgotten is known no more."""
    same = [trace(f"t{i}", content=f"The run of day {i}.") for i in range(cuts.LOOKED_AT + 1)]
    await put(store, *same)
    found = await store.read(lambda db: [cuts.known(db, value, MARK) for value in same])
    assert found == [None, *(cut(value) for value in same[1:])]
    await store.write(lambda db: traces.delete(db, [len(same)]))
    assert await store.read(lambda db: cuts.known(db, same[-1], MARK)) is None
