"""What short traces borrow from their neighbours in time."""

from __future__ import annotations

from pathlib import Path

import pytest
from samples import NOW_MS, put, trace

from tracebank.retrieval.context import LENDING_TRACES, lent, lifted
from tracebank.retrieval.fusion import Ranked
from tracebank.store import Store, traces

pytestmark = pytest.mark.anyio
MINUTE_MS = 60_000


def ranked(row: int, score: float) -> Ranked:
    """Return a trace that was found."""
    return Ranked(row=row, score=score, dense=0.0, lexical=0.0, whole=0.0, passages=())


def test_what_stands_out_lends_half_as_much_with_each_step() -> None:
    """Above the last of those that lend; on both sides."""
    near = {1: ([10, 11, 12], [20, 21]), 2: ([30], [])}
    loans = lent([ranked(1, 0.9), ranked(2, 0.1)], near)
    assert loans == pytest.approx({10: 0.4, 11: 0.2, 12: 0.1, 20: 0.4, 21: 0.2})


def test_what_several_neighbours_lend_adds_up() -> None:
    """A turn between two good ones is worth more than one beside one."""
    loans = lent([ranked(1, 0.9), ranked(2, 0.7), ranked(3, 0.5)], {1: ([], [5]), 2: ([5], [])})
    assert loans == {5: pytest.approx(0.4 / 2 + 0.2 / 2)}


def test_equals_lend_nothing() -> None:
    """Where nothing stands out, neighbourhood says nothing."""
    assert lent([ranked(1, 0.5), ranked(2, 0.5)], {1: ([2], []), 2: ([], [1])}) == {}
    assert lent([], {}) == {}


def test_only_the_best_lend() -> None:
    """The one behind them lends nothing, and the last of them is the floor."""
    ranking = [ranked(row, 1 - row / 100) for row in range(LENDING_TRACES + 5)]
    loans = lent(ranking, {found.row: ([1_000 + found.row], []) for found in ranking})
    assert len(loans) == LENDING_TRACES - 1
    assert loans[1_000] == pytest.approx((LENDING_TRACES - 1) / 100 / 2)


def test_a_loan_lifts_a_trace_and_shows_in_its_parts() -> None:
    """The order is that of the new scores, which stay at most 1."""
    first, second, third = lifted([ranked(1, 0.9), ranked(2, 0.8), ranked(3, 0.1)], {2: 0.15, 3: 0.05})
    assert [(found.row, found.score, found.context) for found in (first, second, third)] == [
        (2, pytest.approx(0.95), 0.15), (1, 0.9, 0.0), (3, pytest.approx(0.15), 0.05),
    ]  # fmt: skip
    assert lifted([ranked(1, 0.9)], {1: 0.5})[0].score == 1.0


async def test_neighbours_are_those_of_the_same_namespace_in_the_order_of_time_then_of_storing(tmp_path: Path) -> None:
    """An import gives all its traces one moment; an update changes nothing; an hour is too far."""
    store = Store.open(tmp_path / "store.sqlite3")
    minutes = {"a": 0, "b": 1, "c": 1, "d": 1, "elsewhere": 1, "e": 2, "late": 200, "early": -3}
    values = [
        trace(name, namespace="two" if name == "elsewhere" else "one", occurred_at_ms=NOW_MS + minute * MINUTE_MS)
        for name, minute in minutes.items()
    ]
    rows = {value.trace_id: added.row for value, added in zip(values, await put(store, *values), strict=True)}
    names = {row: name for name, row in rows.items()}

    def near(name: str, reach: int = 3) -> tuple[str, str]:
        found = store.read_now(lambda db: traces.neighbours(db, [rows[name]], reach=reach, within_ms=60 * MINUTE_MS))[rows[name]]
        before, after = found
        return " ".join(names[row] for row in before), " ".join(names[row] for row in after)

    assert near("c") == ("b a early", "d e")
    assert near("c", reach=1) == ("b", "d")
    assert near("a") == ("early", "b c d")
    assert near("late") == ("", "")
    assert near("elsewhere") == ("", "")
    assert store.read_now(lambda db: traces.neighbours(db, [999], reach=3, within_ms=1)) == {}
    store.close()


async def test_chunks_are_counted_by_their_last(tmp_path: Path) -> None:
    """A trace that is gone has none."""
    store = Store.open(tmp_path / "store.sqlite3")
    (short, long) = await put(store, trace("s", content="", lessons=()), trace("l", content="word " * 500))
    assert store.read_now(lambda db: traces.chunk_counts(db, [short.row, long.row, 999])) == {short.row: 1, long.row: long.chunks}
    store.close()
