"""Writing the skeletons of the bundled model, with torch: one in full precision, one in 8 bits.

    python -m tracebank.embedding.skeleton_making

To be run when another model is bundled, the sample texts or what an export is (`exported.FORMAT`) change, or ONNX Runtime learns
to fuse more. `skeleton` is who reads.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.numpy import load_file

from tracebank.embedding import skeleton, tracing
from tracebank.embedding.export import quantize
from tracebank.embedding.exported import TOKENIZER_NAME
from tracebank.embedding.quantizing import Kind
from tracebank.embedding.sentence import resolve
from tracebank.embedding.skeleton import SOURCE, Made, Part
from tracebank.embedding.vocabulary import read_tokenizer

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# What is as small says itself.
SMALL_BYTES = 64
# The queries, keys and values of a head stand in one matrix.
MOST_JOINED = 3
# What ONNX Runtime calls the three that stand in the place of one.
PARTS: dict[Part, str] = {"values": "quantized", "scale": "scale", "zero_point": "zero_point"}

Array = NDArray[Any]


def made_of(array: Array, weights: Mapping[str, Array]) -> Made | None:
    """Return of which weights an array is joined along its last axis, and whether they are transposed; None where it is not."""
    for parts in (1, MOST_JOINED):
        if array.shape[-1] % parts:
            continue
        for transposed in (False, True):
            names = [_equal(part, weights, transposed) for part in np.split(array, parts, axis=-1)]
            if all(names):
                return Made(tensors=names, transposed=transposed)
    return None


def _equal(part: Array, weights: Mapping[str, Array], transposed: bool) -> str:
    wanted = part.T if transposed else part
    return next((name for name, weight in weights.items() if weight.shape == wanted.shape and np.array_equal(weight, wanted)), "")


def emptied(graph: onnx.GraphProto, weights: Mapping[str, Array]) -> None:
    """Take out of a graph what is made of the weights as they are, and is still there."""
    for initializer in graph.initializer:
        if initializer.doc_string:
            continue
        array = numpy_helper.to_array(initializer)
        if array.nbytes > SMALL_BYTES and (made := made_of(array, weights)) is not None:
            _empty(initializer, made)


def emptied_of_8_bits(graph: onnx.GraphProto, whole: onnx.GraphProto, weights: Mapping[str, Array]) -> None:
    """Take out of a quantised graph what is made of the weights, or else of what the `whole` one has in its place, which goes along."""
    for name, source in {one.name: numpy_helper.to_array(one) for one in whole.initializer}.items():
        parts = {part: next((one for one in graph.initializer if one.name == f"{name}_{ending}"), None) for part, ending in PARTS.items()}
        if (values := parts["values"]) is None:
            continue
        if (made := made_of(source, weights)) is None:
            made = Made(tensors=[name], transposed=False)
            graph.initializer.append(numpy_helper.from_array(source, name))
            graph.initializer[-1].doc_string = SOURCE
        kind: Kind = "int8" if values.data_type == onnx.TensorProto.INT8 else "uint8"
        for part, initializer in parts.items():
            assert initializer is not None
            _empty(initializer, replace(made, part=part, kind=kind))
    emptied(graph, weights)  # biases


def _empty(initializer: onnx.TensorProto, made: Made) -> None:
    initializer.ClearField("raw_data")
    for field in ("float_data", "int32_data"):
        initializer.ClearField(field)
    initializer.doc_string = json.dumps(asdict(made))


def skeletons(directory: Path) -> dict[str, onnx.ModelProto]:
    """Return the skeletons of a model's directory, by precision.

    Raises: Refused where it cannot be exported; ValueError where it makes its tokenizer, or what is filled is not what was emptied.
    """
    original = tracing.load(str(directory), "")
    pooling = tracing.pooling_of(original)
    weights = load_file(directory / skeleton.WEIGHTS_NAME)
    with tempfile.TemporaryDirectory() as home:
        whole, small, reduced = (Path(home, f"{name}.onnx") for name in ("whole", "small", "reduced"))
        tracing.write_graph(original, pooling, whole)
        exported, own = read_tokenizer(Path(home, TOKENIZER_NAME)), read_tokenizer(directory / TOKENIZER_NAME)
        if exported.to_str() != own.to_str():
            raise ValueError(f"{directory} does not hold the tokenizer that is used with it")
        quantize(whole, small, whole_range=True)
        quantize(whole, reduced, whole_range=False)
        graphs = {"fp32": onnx.load(str(whole)), "int8": onnx.load(str(small))}
        wanted = [(graphs["fp32"].graph, True), (graphs["int8"].graph, True), (onnx.load(str(reduced)).graph, False)]
        wanted = [(_copied(graph), whole_range) for graph, whole_range in wanted]
    emptied_of_8_bits(graphs["int8"].graph, graphs["fp32"].graph, weights)
    emptied(graphs["fp32"].graph, weights)
    for graph, (full, whole_range) in zip((graphs["fp32"], graphs["int8"], graphs["int8"]), wanted, strict=True):
        again = _copied(graph.graph)
        skeleton.fill(again, weights, whole_range=whole_range)
        if _told(again) != _told(full):
            raise ValueError("what is filled is not what was emptied: quantising has changed, and `quantizing` has to follow")
    _tell(graphs.values(), directory, original, pooling)
    return graphs


def _copied(graph: onnx.GraphProto) -> onnx.GraphProto:
    copied = onnx.GraphProto()
    copied.CopyFrom(graph)
    return copied


def _told(graph: onnx.GraphProto) -> tuple[list[bytes], dict[str, tuple[str, tuple[int, ...], bytes]]]:
    """Return all that a graph says, whatever the order of its initializers."""
    arrays = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    nodes = [node.SerializeToString(deterministic=True) for node in graph.node]
    return nodes, {name: (str(array.dtype), array.shape, array.tobytes()) for name, array in arrays.items()}


def _tell(graphs: Iterable[onnx.ModelProto], directory: Path, original: SentenceTransformer, pooling: str) -> None:
    """Write into the graphs what has to be known of them."""
    expected = tracing.expected_of(original).astype(np.float16)
    about = replace(tracing.about_of(original, pooling), made="filled")
    told = {
        skeleton.ABOUT_KEY: asdict(about),
        skeleton.EXPECTED_KEY: base64.b64encode(expected.tobytes()).decode(),
        skeleton.MADE_FOR_KEY: skeleton.made_for(directory),
        skeleton.WEIGHTS_KEY: skeleton.digest_of_weights(directory),
    }
    for graph in graphs:
        onnx.helper.set_model_props(graph, {key: json.dumps(value) for key, value in told.items()})


def main() -> None:
    """Write the files."""
    for precision, graph in skeletons(Path(resolve(""))).items():
        file = skeleton.skeleton_file(precision)
        onnx.save(graph, str(file))
        print(f"{file} is written anew: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
