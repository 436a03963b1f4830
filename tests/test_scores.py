"""Scores in columns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracebank.scores import NO_SCORES, ORDINAL_BITS, Scores, chunk_number, numbers_of, ordinal_of, row_of

NUMBERS = st.integers(0, 2**40)
SCORES = st.dictionaries(NUMBERS, st.floats(-1, 1))


@given(row=st.integers(1, 2**42), ordinal=st.integers(0, 2**ORDINAL_BITS - 1))
def test_a_number_tells_the_trace_and_which_chunk_of_it(row: int, ordinal: int) -> None:
    """One by one, and in a column."""
    number = chunk_number(row, ordinal)
    assert (row_of(number), ordinal_of(number)) == (row, ordinal)
    column = chunk_number(np.array([row], np.int64), ordinal)
    assert (column.tolist(), row_of(column).tolist(), ordinal_of(column).tolist()) == ([number], [row], [ordinal])


def test_numbers_in_order_are_traces_in_order_and_each_ones_chunks() -> None:
    """However many chunks a trace has."""
    chunks = [(row, ordinal) for row in (1, 2, 2**40) for ordinal in (0, 1, 2**ORDINAL_BITS - 1)]
    numbers = [chunk_number(*chunk) for chunk in chunks]
    assert numbers_of([*reversed(numbers), *numbers]).tolist() == numbers


@given(scores=SCORES, asked=st.lists(NUMBERS))
def test_scores_are_looked_up_as_in_a_dictionary(scores: dict[int, float], asked: list[int]) -> None:
    """In any order, of numbers that are there and of others."""
    column = Scores.by(scores)
    numbers = np.array([*asked, *reversed(scores)], np.int64)
    assert column.has(numbers).tolist() == [number in scores for number in numbers.tolist()]
    assert column.of_numbers(numbers, otherwise=7.0).tolist() == [scores.get(number, 7.0) for number in numbers.tolist()]
    assert (len(column), column.by_number()) == (len(scores), dict(sorted(scores.items())))


@given(one=SCORES, other=SCORES)
def test_scores_of_other_numbers_are_added(one: dict[int, float], other: dict[int, float]) -> None:
    """And the order is kept."""
    others = {number: score for number, score in other.items() if number not in one}
    assert Scores.by(one).joined(Scores.by(others)) == Scores.by(one | others)
    assert Scores.by(one).joined(NO_SCORES) == Scores.by(one)


def test_they_are_equal_where_they_say_the_same() -> None:
    """Whatever the order in which they came."""
    assert Scores.of([2, 1], [0.2, 0.1]) == Scores.by({1: 0.1, 2: 0.2})
    assert Scores.by({1: 0.1}) != Scores.by({1: 0.2}) != Scores.by({2: 0.2}) != NO_SCORES
    assert repr(Scores.by({1: 0.5})) == "Scores.by({1: 0.5})"
    with pytest.raises(TypeError):
        hash(NO_SCORES)
