"""The graph of the bundled model without its weights: filled with those that are installed, it is an export without torch.

Importing torch and tracing was most of an export. The skeleton is an export of the same weights, made once
with torch, each initializer that is made of them emptied: its `doc_string` names the tensors of `model.safetensors` that it is
joined of, along the last axis, each transposed or not. With it goes what sentence-transformers made of the sample texts, so
that what is filled is checked against that as any other export. Where other files are installed than it was made of there is none.
`skeleton_making` is who writes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.numpy import load_file

from tracebank.embedding.base import Vectors
from tracebank.embedding.exported import FORMAT, Export
from tracebank.embedding.sample_texts import SAMPLES
from tracebank.embedding.sentence import digest_of

FILE = Path(__file__).with_name("bundled.onnx")
WEIGHTS_NAME = "model.safetensors"
ABOUT_KEY, EXPECTED_KEY, MADE_FOR_KEY, WEIGHTS_KEY = "about", "expected", "made_for", "weights"


@dataclass(frozen=True, slots=True, kw_only=True)
class Skeleton:
    """A graph to be filled, what is known of its export, and the unit vectors of the sample texts, float32 [samples, dim]."""

    graph: onnx.ModelProto
    about: Export
    expected: Vectors

    @classmethod
    def of(cls, directory: Path) -> Skeleton | None:
        """Return the skeleton for a model's directory; None where ours is of another one."""
        if not FILE.is_file() or not (directory / WEIGHTS_NAME).is_file():
            return None
        graph = onnx.load(str(FILE))
        told = {entry.key: json.loads(entry.value) for entry in graph.metadata_props}
        # The weights last: those of another model may be gigabytes.
        if told.get(MADE_FOR_KEY) != made_for(directory) or told.get(WEIGHTS_KEY) != digest_of_weights(directory):
            return None
        expected = np.frombuffer(base64.b64decode(told[EXPECTED_KEY]), np.float16).astype(np.float32).reshape(len(SAMPLES), -1)
        del graph.metadata_props[:]
        return cls(graph=graph, about=Export(**told[ABOUT_KEY]), expected=expected)

    def fill(self, directory: Path, file: Path) -> None:
        """Put the weights of a model's directory into the graph, and write it. Raises: KeyError, ValueError, OSError for other ones."""
        weights: Mapping[str, NDArray[Any]] = load_file(directory / WEIGHTS_NAME)
        for initializer in self.graph.graph.initializer:
            if initializer.doc_string:
                joined = json.loads(initializer.doc_string)
                parts = [weights[name].T if joined["transposed"] else weights[name] for name in joined["tensors"]]
                array = np.ascontiguousarray(np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0])
                initializer.CopyFrom(numpy_helper.from_array(array, initializer.name))
        onnx.save(self.graph, str(file))


def made_for(directory: Path) -> list[object]:
    """Return what a skeleton is for, as JSON has it: the form of exports, the samples, and all of a model but what its weights say."""
    return [FORMAT, list(SAMPLES), digest_of(directory)]


def digest_of_weights(directory: Path) -> str:
    """Return what changes when a model's weights do."""
    with (directory / WEIGHTS_NAME).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
