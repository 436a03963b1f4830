"""Shorter vectors of a model that was trained for it: their beginnings, made unit length again.

Kusupati et al., Matryoshka Representation Learning, 2022.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tracebank.embedding.base import EmbeddingModel, Prompts, Vectors
from tracebank.embedding.token_vectors import TokenEncoder, TokenVectors
from tracebank.errors import ModelLoadError


def shortened(model: EmbeddingModel, dim: int) -> EmbeddingModel:
    """Return the model with vectors of `dim` numbers. Raises: ModelLoadError where its own are shorter."""
    return _Tokenwise(model, model, dim) if isinstance(model, TokenEncoder) else MatryoshkaModel(model, dim)


class MatryoshkaModel:
    """Another model, with the first `dim` numbers of its vectors."""

    def __init__(self, model: EmbeddingModel, dim: int) -> None:
        """Raises: ModelLoadError where the model's own vectors are shorter."""
        if dim > model.dim:
            raise ModelLoadError(f"embedding.truncate_dim must be at most {model.dim}, the length of this model's vectors, not {dim}")
        self._model, self.dim = model, dim

    @property
    def name(self) -> str:
        """Return what tells its vectors from any other's."""
        return self._model.name

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
        return self._beginnings(self._model.encode(texts))

    def _beginnings(self, vectors: Vectors) -> Vectors:
        beginnings = vectors[:, : self.dim]
        # A vector whose beginning is zero has no direction: it stays zero, near to nothing.
        lengths = np.maximum(np.linalg.norm(beginnings, axis=1, keepdims=True), np.float32(1e-12))
        return np.ascontiguousarray(beginnings / lengths, dtype=np.float32)


class _Tokenwise(MatryoshkaModel):
    """One that tells of each token, too."""

    def __init__(self, model: EmbeddingModel, tokens: TokenEncoder, dim: int) -> None:
        super().__init__(model, dim)
        self._tokens = tokens

    def encode_tokens(self, texts: Sequence[str]) -> tuple[Vectors, list[TokenVectors]]:
        """Return what `encode` does, and the tokens as they are. Raises: EmbeddingError."""
        vectors, tokens = self._tokens.encode_tokens(texts)
        return self._beginnings(vectors), tokens
