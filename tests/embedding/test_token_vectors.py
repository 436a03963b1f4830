"""Token vectors in 4 bits."""

from __future__ import annotations

import numpy as np
import pytest

from tracebank.embedding import TokenVectors, packed, unpacked


@pytest.mark.parametrize("dim", [2, 64])
def test_packing_keeps_directions(dim: int) -> None:
    """In half a byte a dimension; rows come back with length 1."""
    vectors = np.random.default_rng(0).standard_normal((50, dim)).astype(np.float32)
    codes = packed(vectors)
    assert (codes.shape, codes.dtype) == ((50, dim // 2), np.uint8)
    again = unpacked(codes)
    assert np.linalg.norm(again, axis=1) == pytest.approx(np.ones(50), abs=1e-5)
    cosines = np.sum(again * vectors, axis=1) / np.linalg.norm(vectors, axis=1)
    assert cosines.min() > 0.97


def test_nothing_and_zeros_can_be_packed() -> None:
    """A text of no tokens; a token that says nothing."""
    assert unpacked(packed(np.empty((0, 64), np.float32))).shape == (0, 64)
    assert not unpacked(packed(np.zeros((1, 4), np.float32))).any()


def test_tokens_behind_a_prompt_are_counted_from_there() -> None:
    """What the prompt says is none of the text's."""
    codes = np.arange(6, dtype=np.uint8).reshape(3, 2)
    tokens = TokenVectors(codes=codes, spans=np.array([[0, 5], [7, 9], [9, 12]], np.int32)).behind(7)
    assert tokens.codes.tolist() == [[2, 3], [4, 5]]
    assert tokens.spans.tolist() == [[0, 2], [2, 5]]
    assert tokens.nbytes == 4 + 16
