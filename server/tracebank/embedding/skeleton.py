"""The graph of the bundled model without its weights: filled with those that are installed, it is an export without torch.

Importing torch and tracing was most of an export, and quantising half of the rest. A skeleton is an export of the same weights in one
precision, made once with torch, each initializer that is made of them emptied: its `doc_string` says how (`Made`). With it goes what
sentence-transformers made of the sample texts, so that what is filled is checked against that as any other export. Where other files
are installed than it was made of there is none. `skeleton_making` is who writes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.numpy import load_file

from tracebank.embedding.base import Vectors
from tracebank.embedding.exported import FORMAT, Export
from tracebank.embedding.quantizing import Kind, Quantized, quantized
from tracebank.embedding.sample_texts import SAMPLES
from tracebank.embedding.sentence import digest_of

WEIGHTS_NAME = "model.safetensors"
ABOUT_KEY, EXPECTED_KEY, MADE_FOR_KEY, WEIGHTS_KEY = "about", "expected", "made_for", "weights"
# What an initializer says of itself that is of no weights, and is only there for others to be made of it.
SOURCE = "source"
Array = NDArray[Any]
Part = Literal["values", "scale", "zero_point"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """How an initializer is made of tensors: joined along the last axis, each transposed or not; of that, in 8 bits, a `part`."""

    tensors: list[str]
    transposed: bool
    part: Part | Literal[""] = ""
    kind: Kind = "int8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Skeleton:
    """A graph to be filled, what is known of its export, and the unit vectors of the sample texts, float32 [samples, dim]."""

    graph: onnx.ModelProto
    about: Export
    expected: Vectors

    @classmethod
    def of(cls, directory: Path, precision: str) -> Skeleton | None:
        """Return the skeleton for a model's directory, in a precision; None where ours is of another one."""
        file = skeleton_file(precision)
        if not file.is_file() or not (directory / WEIGHTS_NAME).is_file():
            return None
        graph = onnx.load(str(file))
        told = {entry.key: json.loads(entry.value) for entry in graph.metadata_props}
        # The weights last: those of another model may be gigabytes.
        if told.get(MADE_FOR_KEY) != made_for(directory) or told.get(WEIGHTS_KEY) != digest_of_weights(directory):
            return None
        expected = np.frombuffer(base64.b64decode(told[EXPECTED_KEY]), np.float16).astype(np.float32).reshape(len(SAMPLES), -1)
        del graph.metadata_props[:]
        return cls(graph=graph, about=Export(**told[ABOUT_KEY]), expected=expected)

    def fill(self, directory: Path, file: Path, *, whole_range: bool = True) -> None:
        """Put the weights of a model's directory into the graph, and write it. `whole_range`: of 8 bits all are used.

        Raises: KeyError, ValueError, OSError for other weights.
        """
        fill(self.graph.graph, load_file(directory / WEIGHTS_NAME), whole_range=whole_range)
        onnx.save(self.graph, str(file))


def fill(graph: onnx.GraphProto, weights: Mapping[str, Array], *, whole_range: bool) -> None:
    """Put weights into a graph that was emptied."""
    own = {one.name: numpy_helper.to_array(one) for one in graph.initializer if one.doc_string == SOURCE}
    kept = [one for one in graph.initializer if one.name not in own]
    # Values, scale and zero point stand side by side.
    known: tuple[Made, Quantized] | None = None
    for initializer in kept:
        if not initializer.doc_string:
            continue
        made = Made(**json.loads(initializer.doc_string))
        if not made.part:
            array = joined(made, {**weights, **own})
        else:
            of = replace(made, part="")
            if known is None or known[0] != of:
                known = of, quantized(joined(made, {**weights, **own}), made.kind, whole_range=whole_range)
            array = getattr(known[1], made.part)
        initializer.CopyFrom(numpy_helper.from_array(array, initializer.name))
    del graph.initializer[:]
    graph.initializer.extend(kept)


def joined(made: Made, weights: Mapping[str, Array]) -> Array:
    """Return what is made, in full precision. Raises: KeyError, ValueError where the weights are other ones."""
    parts = [weights[name].T if made.transposed else weights[name] for name in made.tensors]
    return np.ascontiguousarray(np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0])


def skeleton_file(precision: str) -> Path:
    """Return where the skeleton of a precision lies, fp32 or int8."""
    return Path(__file__).with_name(f"bundled.{precision}.onnx")


def made_for(directory: Path) -> list[object]:
    """Return what a skeleton is for, as JSON has it: the form of exports, the samples, and all of a model but what its weights say."""
    return [FORMAT, list(SAMPLES), digest_of(directory)]


def digest_of_weights(directory: Path) -> str:
    """Return what changes when a model's weights do."""
    with (directory / WEIGHTS_NAME).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
