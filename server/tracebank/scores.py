"""Scores of chunks and traces in columns: a search handles hundreds, and as dictionaries of pairs they take longer than all arithmetic.

A chunk's number has its trace's row in front of its ordinal. So numbers in order are traces in order, and the chunks of each as they
stand in it; and a row is told by a shift.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
Values = NDArray[np.float64]

# 1 MiB of text has far fewer chunks.
ORDINAL_BITS = 20
_ORDINALS = (1 << ORDINAL_BITS) - 1

# One number, or a column of them.
_Number = TypeVar("_Number", int, Numbers)


def chunk_number(row: _Number, ordinal: int) -> _Number:
    """Return the number of a chunk, by its trace's row and its ordinal there."""
    return (row << ORDINAL_BITS) | ordinal


def row_of(number: _Number) -> _Number:
    """Return the row of the trace that a chunk is of."""
    return number >> ORDINAL_BITS


def ordinal_of(number: _Number) -> _Number:
    """Return which chunk of its trace it is."""
    return number & _ORDINALS


def numbers_of(numbers: Iterable[int]) -> Numbers:
    """Return the numbers in a column, each once, ascending."""
    return np.unique(np.fromiter(numbers, np.int64))


class Scores:
    """A score for each of some chunks or traces: `numbers` int64 [n], ascending, each once, and `values` float64 [n]."""

    __slots__ = ("numbers", "values")

    def __init__(self, numbers: Numbers, values: Values) -> None:
        """Take columns that are in order."""
        self.numbers, self.values = numbers, values

    @classmethod
    def of(cls, numbers: Any, values: Any) -> Scores:
        """Return scores of numbers, each once, in any order."""
        unordered, own = np.asarray(numbers, np.int64), np.asarray(values, np.float64)
        order = unordered.argsort()
        return cls(unordered[order], own[order])

    @classmethod
    def by(cls, scores: Mapping[int, float]) -> Scores:
        """Return what a dictionary has."""
        return cls.of(list(scores), list(scores.values()))

    def __len__(self) -> int:
        return len(self.numbers)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scores) and np.array_equal(self.numbers, other.numbers) and np.array_equal(self.values, other.values)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Scores.by({self.by_number()})"

    def by_number(self) -> dict[int, float]:
        """Return them as a dictionary."""
        return dict(zip(self.numbers.tolist(), self.values.tolist(), strict=True))

    def has(self, numbers: Numbers) -> NDArray[np.bool_]:
        """Return of which of these numbers there is a score, bool [len(numbers)]."""
        if not len(self):
            return np.zeros(len(numbers), np.bool_)
        known: NDArray[np.bool_] = self.numbers.take(self.numbers.searchsorted(numbers), mode="clip") == numbers
        return known

    def of_numbers(self, numbers: Numbers, *, otherwise: float) -> Values:
        """Return the score of each of these numbers, float64 [len(numbers)], and `otherwise` where there is none."""
        if not len(self):
            return np.full(len(numbers), otherwise)
        places = self.numbers.searchsorted(numbers)
        known = self.numbers.take(places, mode="clip") == numbers
        return np.where(known, self.values.take(places, mode="clip"), otherwise)

    def joined(self, others: Scores) -> Scores:
        """Return these and others, of other numbers."""
        if not len(others):
            return self
        return Scores.of(np.concatenate((self.numbers, others.numbers)), np.concatenate((self.values, others.values)))


NO_SCORES = Scores(np.empty(0, np.int64), np.empty(0, np.float64))
