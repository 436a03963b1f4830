"""What an embedding model is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


class EmbeddingModel(Protocol):
    """A loaded model. `encode` blocks and is called from one thread at a time."""

    @property
    def name(self) -> str:
        """What tells this model's vectors from any other's: it is part of every cache key."""

    @property
    def dim(self) -> int:
        """The length of a vector."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return float32 [len(texts), dim], rows of length 1. Raises: EmbeddingError."""
