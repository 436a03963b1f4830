"""Shorter vectors of a model that was trained for it: their beginnings, made unit length again.

Kusupati et al., Matryoshka Representation Learning, 2022.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tracebank.embedding.base import EmbeddingModel, Vectors, WrappedModel
from tracebank.embedding.token_vectors import TokenEncoder, TokenVectors, TokenwiseEmbedding
from tracebank.errors import ModelLoadError


def beginnings(vectors: Vectors, dim: int) -> Vectors:
    """Return the first `dim` numbers of unit vectors, as unit vectors."""
    if vectors.shape[1] == dim:
        return vectors
    # A vector whose beginning is zero has no direction: it stays zero, near to nothing.
    lengths = np.maximum(np.linalg.norm(vectors[:, :dim], axis=1, keepdims=True), np.float32(1e-12))
    return np.ascontiguousarray(vectors[:, :dim] / lengths, dtype=np.float32)


def shortened(model: EmbeddingModel, dim: int) -> EmbeddingModel:
    """Return the model with vectors of `dim` numbers. Raises: ModelLoadError where its own are shorter."""
    if dim > model.dim:
        raise ModelLoadError(f"embedding.truncate_dim must be at most {model.dim}, the length of this model's vectors, not {dim}")
    return _Tokenwise(model, dim) if isinstance(model, TokenEncoder) else _Shortened(model, dim)


class _Shortened(WrappedModel):
    def __init__(self, model: EmbeddingModel, dim: int) -> None:
        super().__init__(model)
        self._dim = dim

    @property
    def dim(self) -> int:
        return self._dim

    def encode(self, texts: Sequence[str]) -> Vectors:
        return beginnings(self._model.encode(texts), self._dim)


class _Tokenwise(_Shortened):
    def __init__(self, model: TokenwiseEmbedding, dim: int) -> None:
        super().__init__(model, dim)
        self._tokens = model

    def encode_tokens(self, texts: Sequence[str]) -> tuple[Vectors, list[TokenVectors]]:
        vectors, tokens = self._tokens.encode_tokens(texts)
        return beginnings(vectors, self._dim), tokens
