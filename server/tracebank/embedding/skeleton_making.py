"""Writing the skeleton of the bundled model, with torch.

    python -m tracebank.embedding.skeleton_making

To be run when another model is bundled, the sample texts or what an export is (`exported.FORMAT`) change, or ONNX Runtime learns
to fuse more. `skeleton` is who reads.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.numpy import load_file

from tracebank.embedding import skeleton, tracing
from tracebank.embedding.exported import TOKENIZER_NAME, file_name
from tracebank.embedding.sentence import resolve
from tracebank.embedding.vocabulary import read_tokenizer

# What is as small says itself.
SMALL_BYTES = 64
# The queries, keys and values of a head stand in one matrix.
MOST_JOINED = 3

Array = NDArray[Any]


def joined_of(array: Array, weights: Mapping[str, Array]) -> dict[str, Any] | None:
    """Return of which weights an array is joined along its last axis, and whether they are transposed; None where it is not."""
    for parts in (1, MOST_JOINED):
        if array.shape[-1] % parts:
            continue
        for transposed in (False, True):
            names = [_equal(part, weights, transposed) for part in np.split(array, parts, axis=-1)]
            if all(names):
                return {"tensors": names, "transposed": transposed}
    return None


def _equal(part: Array, weights: Mapping[str, Array], transposed: bool) -> str:
    wanted = part.T if transposed else part
    return next((name for name, weight in weights.items() if weight.shape == wanted.shape and np.array_equal(weight, wanted)), "")


def made(directory: Path) -> onnx.ModelProto:
    """Return the skeleton of a model's directory. Raises: Refused where it cannot be exported; ValueError where it makes its tokenizer."""
    original = tracing.load(str(directory), "")
    pooling = tracing.pooling_of(original)
    with tempfile.TemporaryDirectory() as home:
        file = Path(home, file_name("fp32"))
        tracing.write_graph(original, pooling, file)
        graph = onnx.load(str(file))
        exported, own = read_tokenizer(Path(home, TOKENIZER_NAME)), read_tokenizer(directory / TOKENIZER_NAME)
        if exported.to_str() != own.to_str():
            raise ValueError(f"{directory} does not hold the tokenizer that is used with it")
    weights = load_file(directory / skeleton.WEIGHTS_NAME)
    for initializer in graph.graph.initializer:
        array = numpy_helper.to_array(initializer)
        if array.nbytes > SMALL_BYTES and (joined := joined_of(array, weights)) is not None:
            initializer.ClearField("raw_data")
            initializer.doc_string = json.dumps(joined)
    expected = tracing.expected_of(original).astype(np.float16)
    about = replace(tracing.about_of(original, pooling), made="filled")
    told = {
        skeleton.ABOUT_KEY: asdict(about),
        skeleton.EXPECTED_KEY: base64.b64encode(expected.tobytes()).decode(),
        skeleton.MADE_FOR_KEY: skeleton.made_for(directory),
        skeleton.WEIGHTS_KEY: skeleton.digest_of_weights(directory),
    }
    onnx.helper.set_model_props(graph, {key: json.dumps(value) for key, value in told.items()})
    return graph


def main() -> None:
    """Write the file."""
    graph = made(Path(resolve("")))
    onnx.save(graph, str(skeleton.FILE))
    print(f"{skeleton.FILE} is written anew: {skeleton.FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
