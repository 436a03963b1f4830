"""What short traces borrow from their neighbours in time."""

from __future__ import annotations

from pathlib import Path

import pytest
from samples import NOW_MS, put, trace

from tracebank.retrieval.context import LENDING_TRACES, lent, lifted
from tracebank.retrieval.fusion import Ranked
from tracebank.store import Store, neighbours, traces

pytestmark = pytest.mark.anyio
MINUTE_MS = 60_000


def ranked(row: int, score: float) -> Ranked:
    """Return a trace that was found."""
    return Ranked(row=row, score=score, dense=0.0, lexical=0.0, whole=0.0, passages=())


def test_what_stands_out_lifts_its_neighbours_half_as_far_with_each_step() -> None:
    """From the last of those that lend, where nothing is known of a neighbour; on both sides."""
    near = {1: ([10, 11, 12], [20, 21]), 2: ([30], [])}
    loans = lent({1: 0.9, 2: 0.1}, near, {})
    assert loans == pytest.approx({10: 0.56, 11: 0.28, 12: 0.14, 20: 0.56, 21: 0.28})


def test_the_better_a_neighbour_is_by_itself_the_less_it_is_lent() -> None:
    """It rises a part of the way, and one that is as good needs no help."""
    near = {1: ([2], [3])}
    loans = lent({1: 0.9, 4: 0.1}, near, {2: 0.7, 3: 0.95})
    assert loans == {2: pytest.approx(0.7 * 0.2)}


def test_what_several_neighbours_lend_does_not_add_up() -> None:
    """The best of them counts: many middling neighbours say nothing about who answers."""
    assert lent({1: 0.9, 2: 0.7, 3: 0.5}, {1: ([], [5]), 2: ([5], [])}, {}) == {5: pytest.approx(0.7 * 0.4)}


def test_nobody_is_lifted_up_to_who_lends() -> None:
    """Among entries about one subject that lie side by side the one that answers stays first."""
    found = [ranked(row, 0.9 if row == 5 else 0.8) for row in range(10)] + [ranked(99, 0.0)]
    near = {row: (list(range(row - 1, -1, -1))[:3], list(range(row + 1, 10))[:3]) for row in range(10)}
    assert lifted(found, near, set(range(10)))[0].row == 5


def test_equals_lend_nothing() -> None:
    """Where nothing stands out, neighbourhood says nothing."""
    equals = {1: 0.5, 2: 0.5}
    assert lent(equals, {1: ([2], []), 2: ([], [1])}, equals) == {}
    assert lent({}, {}, {}) == {}


def test_only_the_best_lend_and_only_borrowers_are_lifted() -> None:
    """The one behind the best lends nothing, and the last of them is the floor."""
    ranking = [ranked(row, 1 - row / 100) for row in range(LENDING_TRACES + 5)]
    near = {found.row: ([1_000 + found.row], []) for found in ranking}
    others = [ranked(1_000 + row, 0.0) for row in range(LENDING_TRACES + 5)]
    found = {one.row: one.context for one in lifted([*ranking, *others], near, {one.row for one in others} - {1_001})}
    assert {row for row, loan in found.items() if loan} == {1_000, *range(1_002, 1_000 + LENDING_TRACES - 1)}
    assert found[1_000] == pytest.approx(0.7 * (LENDING_TRACES - 1) / 100)


def test_a_loan_lifts_a_trace_and_shows_in_its_parts() -> None:
    """The order is that of the new scores."""
    found = [ranked(1, 0.9), ranked(2, 0.5), ranked(3, 0.4), ranked(4, 0.1)]
    first, second, third, fourth = lifted(found, {1: ([3], [4])}, {3, 4})
    assert (first, fourth) == (ranked(1, 0.9), ranked(2, 0.5))
    assert (second.row, second.score, second.context) == (3, pytest.approx(0.4 + 0.7 * 0.5), pytest.approx(0.35))
    assert (third.row, third.score, third.context) == (4, pytest.approx(0.1 + 0.7 * 0.8), pytest.approx(0.56))


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
        found = store.read_now(lambda db: neighbours.of_traces(db, [rows[name]], reach=reach, within_ms=60 * MINUTE_MS))[rows[name]]
        before, after = found
        return " ".join(names[row] for row in before), " ".join(names[row] for row in after)

    assert near("c") == ("b a early", "d e")
    assert near("c", reach=1) == ("b", "d")
    assert near("a") == ("early", "b c d")
    assert near("late") == ("", "")
    assert near("elsewhere") == ("", "")
    assert store.read_now(lambda db: neighbours.of_traces(db, [999], reach=3, within_ms=1)) == {}
    store.close()


async def test_chunks_are_counted_by_their_last(tmp_path: Path) -> None:
    """A trace that is gone has none."""
    store = Store.open(tmp_path / "store.sqlite3")
    (short, long) = await put(store, trace("s", content="", lessons=()), trace("l", content="word " * 500))
    assert store.read_now(lambda db: traces.chunk_counts(db, [short.row, long.row, 999])) == {short.row: 1, long.row: long.chunks}
    store.close()
