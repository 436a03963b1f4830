"""What an embedding model is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

# On a processor more texts at a time are not faster, only larger, and let a question wait for longer.
CPU_BATCH_TOKENS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """What a model wants to read before a question, and before a text that may answer one."""

    question: str = ""
    document: str = ""


class EmbeddingModel(Protocol):
    """A loaded model. `encode` blocks, and is called from so many threads at a time as `concurrency` says."""

    @property
    def name(self) -> str:
        """What tells this model's vectors from any other's: it is part of every cache key."""

    @property
    def dim(self) -> int:
        """The length of a vector."""

    @property
    def prompts(self) -> Prompts:
        """What goes before a text."""

    @property
    def batch_tokens(self) -> int:
        """How many tokens, with their padding, it computes at a time at its best."""

    @property
    def concurrency(self) -> int:
        """How many batches it can compute at a time."""

    @property
    def unseen_tokens(self) -> int:
        """How many tokens of all texts so far were beyond what it can see."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return float32 [len(texts), dim], rows of length 1. Raises: EmbeddingError."""


class WrappedModel:
    """Another model, in everything that a subclass does not say otherwise."""

    def __init__(self, model: EmbeddingModel) -> None:
        self._model = model

    @property
    def name(self) -> str:
        """Return what tells its vectors from any other's."""
        return self._model.name

    @property
    def dim(self) -> int:
        """Return the length of a vector."""
        return self._model.dim

    @property
    def prompts(self) -> Prompts:
        """Return what goes before a text."""
        return self._model.prompts

    @property
    def batch_tokens(self) -> int:
        """Return how many tokens it computes at a time at its best."""
        return self._model.batch_tokens

    @property
    def concurrency(self) -> int:
        """Return how many batches it can compute at a time."""
        return self._model.concurrency

    @property
    def unseen_tokens(self) -> int:
        """Return how many tokens were beyond what it can see."""
        return self._model.unseen_tokens

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return unit vectors [len(texts), dim]. Raises: EmbeddingError."""
        return self._model.encode(texts)
