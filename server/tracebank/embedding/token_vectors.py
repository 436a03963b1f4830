"""What a model says of each token of a text, in 4 bits a dimension.

A model computes a vector for every token before it pools them into one; search compares them word by word. They are
projected to few dimensions inside the model's graph, and kept as signed 4-bit numbers, two to a byte, relative to the
largest of their token: 32 bytes a token. Directions are all that is compared, so no scale is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tracebank.embedding.base import EmbeddingModel, Vectors

if TYPE_CHECKING:
    from tokenizers import Encoding

TOKEN_DIM = 64
_LARGEST = 7
_ZERO = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenVectors:
    """The tokens of one text: `codes` uint8 [tokens, dim / 2], `spans` int32 [tokens, 2], where each stands in the text."""

    codes: NDArray[np.uint8]
    spans: NDArray[np.int32]

    def behind(self, characters: int) -> TokenVectors:
        """Return the tokens behind a prompt of so many characters, their spans counted from there."""
        kept = self.spans[:, 0] >= characters
        return TokenVectors(codes=self.codes[kept], spans=self.spans[kept] - characters)

    @property
    def nbytes(self) -> int:
        """The memory that it takes."""
        return self.codes.nbytes + self.spans.nbytes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Embedded:
    """A text as the model sees it: its unit vector [dim] and, where the model tells, its tokens."""

    vector: Vectors
    tokens: TokenVectors | None = None

    @property
    def nbytes(self) -> int:
        """The memory that it takes."""
        return self.vector.nbytes + (self.tokens.nbytes if self.tokens is not None else 0)


@runtime_checkable
class TokenEncoder(Protocol):
    """An embedding model that also tells of each token."""

    def encode_tokens(self, texts: Sequence[str]) -> tuple[Vectors, list[TokenVectors]]:
        """Return what `encode` does, and of each text its tokens, without special ones. Raises: EmbeddingError."""


class TokenwiseEmbedding(EmbeddingModel, TokenEncoder, Protocol):
    """Both: an embedding model that tells of tokens."""


@runtime_checkable
class DocumentEncoder(Protocol):
    """An embedding model that has another way for documents, which nobody waits for, than for questions."""

    @property
    def documents_batch_tokens(self) -> int:
        """How many of their tokens it computes at a time at its best, now."""

    def encode_documents(self, texts: Sequence[str]) -> tuple[Vectors, list[TokenVectors]]:
        """Return what `encode_tokens` does. Raises: EmbeddingError."""

    @property
    def state(self) -> str:
        """How it stands with that other way, for people."""

    def close(self) -> None:
        """Let go of it; a batch that is under way there fails."""


def tokens_of(encoding: Encoding, states: NDArray[np.floating]) -> TokenVectors:
    """Return the tokens of a text but special ones, from how it was tokenized and the projected states [tokens, TOKEN_DIM]."""
    own = np.array(encoding.special_tokens_mask) == 0  # padding is special, too
    return TokenVectors(codes=packed(states[own]), spans=np.array(encoding.offsets, np.int32).reshape(-1, 2)[own])


def unseen_in(encodings: Iterable[Encoding]) -> int:
    """Return how many tokens were cut off; what was cut off is no special token and no padding."""
    return sum(cut.special_tokens_mask.count(0) for encoding in encodings for cut in encoding.overflowing)


def agreement(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Return the mean cosine of the packed tokens of a text as two models tell them; 0 where they are not of one shape."""
    return float(np.mean(np.sum(unpacked(one) * unpacked(other), axis=1))) if one.shape == other.shape and len(one) else 0.0


def packed(vectors: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return uint8 [tokens, dim / 2] of float [tokens, dim]; dim is even."""
    largest = np.maximum(np.abs(vectors).max(axis=1, keepdims=True), 1e-9) if len(vectors) else 1.0
    numbers = (np.rint(vectors / largest * _LARGEST) + _ZERO).astype(np.uint8)
    codes: NDArray[np.uint8] = numbers[:, ::2] | (numbers[:, 1::2] << 4)
    return codes


def unpacked(codes: NDArray[np.uint8]) -> Vectors:
    """Return float32 [tokens, dim], rows of length 1, of packed ones."""
    vectors = np.empty((len(codes), codes.shape[1] * 2), np.float32)
    vectors[:, ::2] = codes & 15
    vectors[:, 1::2] = codes >> 4
    vectors -= _ZERO
    vectors /= np.maximum(np.sqrt(np.einsum("td,td->t", vectors, vectors)), 1e-9)[:, None]
    return vectors
