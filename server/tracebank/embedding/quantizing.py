"""Eight bits for each weight: the arrays that ONNX Runtime's dynamic quantisation makes of them, to the last bit.

    weight = scale * (value - zero point)

as in `onnxruntime.quantization.quant_utils.compute_scale_zp`, which goes from column to column in Python and takes twenty times
as long. Signed ones are symmetric, each column with a scale of its own; unsigned ones have one scale and a zero point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["int8", "uint8"]
# What is not multiplied is unsigned, and has all 8 bits. Of signed values so many that two products do not saturate at 16.
_UNSIGNED, _SIGNED, _SATURATING_NOWHERE = (0, 255), (-127, 127), (-64, 64)


@dataclass(frozen=True, slots=True)
class Quantized:
    """Values of the shape of the weights, and for each column, or for all of them, a float32 scale and a zero point."""

    values: NDArray[Any]
    scale: NDArray[np.float32]
    zero_point: NDArray[Any]


def quantized(weights: NDArray[np.float32], kind: Kind, *, whole_range: bool) -> Quantized:
    """Return the weights in 8 bits. `whole_range` False: signed ones in 7."""
    lowest, highest = _UNSIGNED if kind == "uint8" else _SIGNED if whole_range else _SATURATING_NOWHERE
    over = 0 if kind == "int8" else None
    low, high = np.minimum(weights.min(axis=over), np.float32(0)), np.maximum(weights.max(axis=over), np.float32(0))
    if kind == "int8":
        high = np.maximum(-low, high)
        low = -high
    exact: NDArray[np.float64] = np.asarray((np.float64(high) - np.float64(low)) / (highest - lowest))
    nothing = exact < np.finfo(np.float32).tiny
    exact = np.asarray(np.where(nothing, 1.0, exact))
    zero_point = np.where(nothing, 0, np.round(lowest - low / exact if kind == "uint8" else 0 * low))
    scale = np.asarray(exact, np.float32)
    values = np.rint(weights / scale) + zero_point.astype(np.float32)
    limits = np.iinfo(kind)
    return Quantized(np.clip(values, limits.min, limits.max).astype(kind), scale, zero_point.astype(kind))
