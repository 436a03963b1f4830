"""Vectors of a namespace held in memory, as of a version of it in the store: all of a small one, of a large one what passes a filter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracebank.embedding import Vectors
from tracebank.scores import Numbers
from tracebank.store.vectors import Held

# What an entry takes beside its columns, a number in one, and the scale of a vector.
ENTRY_BYTES, NUMBER_BYTES, SCALE_BYTES = 200, 8, 4
SCORED_AT_ONCE = 2_048


@dataclass(frozen=True, slots=True)
class Resident:
    """The vectors of a whole namespace as of a version of it in the store.

    `held` None: it is too large, found no room beside others or, where it is `passed_over`, is not worth reading for one question.
    `chunks`: how many it had.
    """

    version: int
    held: Held | None
    chunks: int
    passed_over: bool = False

    @property
    def nbytes(self) -> int:
        """The memory that it takes."""
        return ENTRY_BYTES + (self.held.numbers.nbytes + self.held.matrix.nbytes if self.held is not None else 0)


@dataclass(frozen=True, slots=True)
class Passed:
    """The chunks of a namespace that pass a filter, as of a version of it: int8 [len(numbers), dim], and each one's scale.

    Half precision, as vectors are kept, takes ten times as long to score; so the best are compared again with their whole vectors.
    """

    version: int
    numbers: Numbers
    codes: NDArray[np.int8]
    scales: Vectors

    @classmethod
    def of(cls, version: int, held: Held) -> Passed:
        """Hold vectors."""
        codes, scales = np.empty(held.matrix.shape, np.int8), np.empty(len(held.numbers), np.float32)
        for i in range(0, len(held.numbers), SCORED_AT_ONCE):  # not all of them in full precision twice
            part = held.matrix[i : i + SCORED_AT_ONCE]
            scales[i : i + SCORED_AT_ONCE] = scale = np.maximum(np.abs(part).max(axis=1), np.float32(1e-9)) / np.float32(127)
            codes[i : i + SCORED_AT_ONCE] = np.rint(part / scale[:, None])
        return cls(version, held.numbers, codes, scales)

    @staticmethod
    def bytes_of(held: Held) -> int:
        """Return the memory that these vectors would take."""
        return ENTRY_BYTES + len(held.numbers) * (NUMBER_BYTES + int(held.matrix.shape[1]) + SCALE_BYTES)

    @property
    def nbytes(self) -> int:
        """The memory that it takes."""
        return ENTRY_BYTES + int(self.numbers.nbytes + self.codes.nbytes + self.scales.nbytes)

    def scores(self, question: Vectors) -> Vectors:
        """Return each chunk's cosine with the question, on ordinary vectors less than .002 off."""
        parts = [self.codes[i : i + SCORED_AT_ONCE].astype(np.float32) @ question for i in range(0, len(self.numbers), SCORED_AT_ONCE)]
        return np.concatenate(parts) * self.scales if parts else np.empty(0, np.float32)
