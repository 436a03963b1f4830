"""Vectors of a namespace held in memory, as of a version of it in the store: all of a small one, of a large one what passes a filter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tracebank.embedding import Vectors
from tracebank.index import ChunkKey
from tracebank.store.vectors import Held

# A key in a list and in a dictionary.
KEY_BYTES = 200
SCALE_BYTES = 4
SCORED_AT_ONCE = 2_048


@dataclass(frozen=True)
class Resident:
    """The vectors of a whole namespace as of a version of it in the store.

    `held` None: it is too large or, where it is `passed_over`, not worth reading for one question. `chunks`: how many it had.
    """

    version: int
    held: Held | None
    chunks: int
    passed_over: bool = False

    @property
    def nbytes(self) -> int:
        """The memory that it takes."""
        return KEY_BYTES * (1 + len(self.held.keys)) + self.held.matrix.nbytes if self.held is not None else KEY_BYTES

    @cached_property
    def places(self) -> dict[ChunkKey, int]:
        """Where each chunk's vector is."""
        return {key: i for i, key in enumerate(self.held.keys)} if self.held is not None else {}

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """The trace of each vector."""
        return np.array([row for row, _ in self.held.keys] if self.held is not None else [], np.int64)


@dataclass(frozen=True, slots=True)
class Passed:
    """The chunks of a namespace that pass a filter, as of a version of it in the store: keys, int8 [len(keys), dim], and each one's scale.

    Half precision, as vectors are kept, takes ten times as long to score; so the best are compared again with their whole vectors.
    """

    version: int
    keys: Sequence[ChunkKey]
    codes: NDArray[np.int8]
    scales: Vectors

    @classmethod
    def of(cls, version: int, held: Held) -> Passed:
        """Hold vectors."""
        codes, scales = np.empty(held.matrix.shape, np.int8), np.empty(len(held.keys), np.float32)
        for i in range(0, len(held.keys), SCORED_AT_ONCE):  # not all of them in full precision twice
            part = held.matrix[i : i + SCORED_AT_ONCE]
            scales[i : i + SCORED_AT_ONCE] = scale = np.maximum(np.abs(part).max(axis=1), np.float32(1e-9)) / np.float32(127)
            codes[i : i + SCORED_AT_ONCE] = np.rint(part / scale[:, None])
        return cls(version, held.keys, codes, scales)

    @staticmethod
    def bytes_of(held: Held) -> int:
        """Return the memory that these vectors would take."""
        return KEY_BYTES + len(held.keys) * (KEY_BYTES + int(held.matrix.shape[1]) + SCALE_BYTES)

    @property
    def nbytes(self) -> int:
        """The memory that it takes."""
        return KEY_BYTES * (1 + len(self.keys)) + int(self.codes.nbytes + self.scales.nbytes)

    def scores(self, question: Vectors) -> Vectors:
        """Return each chunk's cosine with the question, on ordinary vectors less than .002 off."""
        parts = [self.codes[i : i + SCORED_AT_ONCE].astype(np.float32) @ question for i in range(0, len(self.keys), SCORED_AT_ONCE)]
        return np.concatenate(parts) * self.scales if parts else np.empty(0, np.float32)
