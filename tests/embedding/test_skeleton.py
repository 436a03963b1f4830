"""Exporting without torch, from a graph that weights are filled into."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from samples import tiny_transformer

from tracebank.embedding import Prompts, export, load_model, skeleton
from tracebank.embedding.exported import Export, Origin, file_name, origin_of, read_about
from tracebank.embedding.onnx import OnnxModel
from tracebank.embedding.sample_texts import SAMPLES
from tracebank.embedding.sentence import SentenceTransformerModel, resolve
from tracebank.embedding.skeleton import Made, Skeleton
from tracebank.embedding.skeleton_making import made_of, skeletons
from tracebank.embedding.token_vectors import agreement
from tracebank.errors import ModelLoadError
from tracebank.settings import EmbeddingSettings

EXPORTED = """
import sys
from pathlib import Path
from tracebank.embedding.export import export
about = export("", "", Path(sys.argv[1]), sys.argv[2])
print(about.refused, sorted(about.cosine), "torch" in sys.modules, "sentence_transformers" in sys.modules)
"""
RNG = np.random.default_rng(5)
QUERY, KEY, VALUE, BIAS = (RNG.random(shape, np.float32) for shape in ((4, 4), (4, 4), (4, 4), (4,)))
WEIGHTS = {"query": QUERY, "key": KEY, "value": VALUE, "bias": BIAS}


@pytest.fixture
def bundled(tmp_path: Path) -> Path:
    """A copy of the bundled model's directory."""
    return Path(shutil.copytree(resolve(""), tmp_path / "bundled"))


def filled(directory: Path, model: str, origin: Origin, precision: str = "fp32") -> Export | None:
    """Export from a skeleton, if there is one."""
    directory.mkdir()
    return export._filled(directory, model, origin, precision)


def arrays_in(file: Path) -> dict[str, bytes]:
    """Return what the initializers of a graph hold."""
    return {one.name: numpy_helper.to_array(one).tobytes() for one in onnx.load(str(file)).graph.initializer}


@pytest.mark.parametrize(("precision", "made"), [("auto", ["int8"]), ("int8", ["int8"]), ("fp32", ["fp32", "int8"])])
def test_the_bundled_model_is_exported_without_torch(precision: str, made: list[str], tmp_path: Path) -> None:
    """Nobody who does not ask for fp32 waits for that."""
    command = [sys.executable, "-c", EXPORTED, str(tmp_path / "out"), precision]
    done = subprocess.run(command, check=True, capture_output=True, encoding="utf-8")

    assert done.stdout.split("\n")[0].strip() == f"{made} False False"
    assert sorted(file.stem for file in (tmp_path / "out").glob("*.onnx")) == made


@pytest.mark.parametrize("cpu", ["avx512_vnni", "avx2"])
def test_8_bits_are_filled_as_onnx_runtime_quantises(cpu: str, tmp_path: Path) -> None:
    """To the last bit; on processors that saturate, too."""
    origin = replace(origin_of(""), cpu=(cpu,))
    small, whole = filled(tmp_path / "small", "", origin, "auto"), filled(tmp_path / "whole", "", origin, "fp32")
    assert small is not None
    assert whole is not None
    assert set(small.cosine) == {"int8"}
    assert set(whole.cosine) == {"fp32", "int8"}
    assert arrays_in(tmp_path / "small" / file_name("int8")) == arrays_in(tmp_path / "whole" / file_name("int8"))


def test_where_8_bits_do_not_pass_their_check_all_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And fp32 is what is left."""
    monkeypatch.setitem(export.CHECKS, "int8", (1.0, 0.1))
    about = filled(tmp_path / "out", "", origin_of(""), "auto")
    assert about is not None
    assert set(about.cosine) == {"fp32"}
    assert [file.stem for file in (tmp_path / "out").glob("*.onnx")] == ["fp32"]


def test_who_asks_for_full_precision_later_gets_it(tmp_path: Path) -> None:
    """From the same directory, which has 8 bits from then on as well."""
    asked: list[str] = []

    def exporting(model: str, revision: str, target: Path, precision: str) -> None:
        asked.append(precision)
        export.export(model, revision, target, precision)

    for precision in ("auto", "int8", "fp32", "auto", "fp32"):
        model = load_model(EmbeddingSettings(device="cpu", engine="onnx", precision=precision), tmp_path, export=exporting)
        assert model.precision == ("fp32" if precision == "fp32" else "int8")  # type: ignore[attr-defined]
    assert asked == ["auto", "fp32"]


def test_what_is_filled_says_what_torch_traces(tmp_path: Path) -> None:
    """Of texts and of their tokens; where this fails because another model is bundled, run `skeleton_making`."""
    origin, models = origin_of(""), []
    traced = tmp_path / "traced"
    traced.mkdir()
    for directory, about in (
        (tmp_path / "filled", filled(tmp_path / "filled", "", origin)),
        (traced, export._traced(traced, "", "", origin)),
    ):
        assert about is not None
        assert min(about.cosine.values()) > 0.985
        models.append(OnnxModel.load(directory, about, name="", precision="fp32", prompts=Prompts()))
    (vectors, tokens), (expected, known) = (model.encode_tokens(SAMPLES) for model in models)
    np.testing.assert_allclose(vectors, expected, atol=1e-4)
    assert min(agreement(one.codes, other.codes) for one, other in zip(tokens, known, strict=True)) > 0.99


def test_an_export_with_both_precisions_is_mended_with_both(tmp_path: Path) -> None:
    """Whoever wanted fp32 finds it again, although somebody with 8 bits has found the damage."""
    load_model(EmbeddingSettings(device="cpu", engine="onnx", precision="fp32"), tmp_path, export=export.export)
    (target,) = (path.parent for path in tmp_path.glob("*/export.json"))
    (target / file_name("int8")).write_bytes(b"no graph")
    load_model(EmbeddingSettings(device="cpu", engine="onnx"), tmp_path, export=export.export)
    load_model(EmbeddingSettings(device="cpu", engine="onnx", precision="fp32"), tmp_path, export=no_export)


def test_what_another_has_replaced_meanwhile_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between what an export says of itself and its files it was exchanged by somebody who wanted more: it is not exported again."""
    small, whole = EmbeddingSettings(device="cpu", engine="onnx"), EmbeddingSettings(device="cpu", engine="onnx", precision="fp32")
    load_model(small, tmp_path, export=export.export)
    opened: list[str] = []
    load = OnnxModel.load

    def exchanged(directory: Path, about: Export, **told: Any) -> OnnxModel:
        opened.append(told["precision"])
        if len(opened) == 1:
            monkeypatch.setattr(OnnxModel, "load", load)
            load_model(whole, tmp_path, export=export.export)
            raise ModelLoadError("its file is not there any more")
        return load(directory, about, **told)

    monkeypatch.setattr(OnnxModel, "load", exchanged)
    assert load_model(small, tmp_path, export=no_export).precision == "int8"  # type: ignore[attr-defined]
    load_model(whole, tmp_path, export=no_export)


def test_exports_of_former_versions_go_when_nobody_has_opened_them_for_a_month(tmp_path: Path) -> None:
    """When a model is loaded. What is used, of another model, also of one whose name goes on, or not to be read stays."""
    own, month_ago = origin_of(""), time.time() - 31 * 86_400
    name = own.model_name
    settings = EmbeddingSettings(device="cpu", engine="onnx")
    load_model(settings, tmp_path, export=export.export)
    told = (tmp_path / own.directory_name / "export.json").read_text()
    others = [
        (f"{name}-0123", told, month_ago), (f"{name}-4567", told, time.time()), (f"{name}-89ab", "{}", month_ago),
        (f"{name}-v2-cdef", told.replace(own.model, f"{own.model}-v2"), month_ago), ("another-0123", told, month_ago),
    ]  # fmt: skip
    for directory, says, used in others:
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "export.json").write_text(says)
        (tmp_path / f"{directory}.lock").touch()
        os.utime(tmp_path / directory / "export.json", (used, used))
    load_model(settings, tmp_path, export=no_export)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {own.directory_name, f"{own.directory_name}.lock"} | {
        f"{directory}{ending}" for directory, *_ in others[1:] for ending in ("", ".lock")
    }


def test_what_serves_is_not_given_up_for_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full precision that cannot be had here leaves 8 bits as they are."""
    target = tmp_path / "out"
    about = export.export("", "", target, "auto")
    monkeypatch.setitem(export.CHECKS, "fp32", (2.0, 0.001))
    monkeypatch.setattr(export, "_traced", lambda *_: export._filled(target.with_name("out.partial"), "", origin_of(""), "fp32"))
    with pytest.raises(export.Refused, match="not the same model"):
        export.export("", "", target, "fp32")
    assert read_about(target, origin_of("")) == about
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_an_export_that_is_loaded_is_marked_as_used(tmp_path: Path) -> None:
    """Each time, and not only when it was made."""
    settings = EmbeddingSettings(device="cpu", engine="onnx")
    load_model(settings, tmp_path, export=export.export)
    (about,) = tmp_path.glob("*/export.json")
    os.utime(about, (0, 0))
    load_model(settings, tmp_path, export=no_export)
    assert about.stat().st_mtime > time.time() - 3_600


def no_export(*_: object) -> None:
    """Stand for an export that nobody may ask for."""
    raise AssertionError("it is there")


@pytest.mark.parametrize("change", ["weights", "configuration", "tokenizer", "samples", "format"])
def test_what_it_was_not_made_for_has_no_skeleton(change: str, bundled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the same size, too: what it expects would be another model's, or another export's."""
    assert all(Skeleton.of(bundled, precision) is not None for precision in ("fp32", "int8"))
    if change == "weights":
        weights = bytearray((bundled / skeleton.WEIGHTS_NAME).read_bytes())
        weights[-1] ^= 1
        (bundled / skeleton.WEIGHTS_NAME).write_bytes(weights)
    elif change == "samples":
        monkeypatch.setattr(skeleton, "SAMPLES", SAMPLES[1:])
    elif change == "format":
        monkeypatch.setattr(skeleton, "FORMAT", skeleton.FORMAT + 1)
    else:
        with (bundled / ("config.json" if change == "configuration" else "tokenizer.json")).open("a", encoding="utf-8") as file:
            file.write("\n")
    assert all(Skeleton.of(bundled, precision) is None for precision in ("fp32", "int8"))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("fault", ["expects another model", "is of an unknown kind", "lacks a tensor", "is not there"])
def test_a_skeleton_that_is_of_no_use_is_passed_over(fault: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is left, and the model is traced."""
    found = Skeleton.of(Path(resolve("")), precision)
    assert found is not None
    if fault == "expects another model":
        found = Skeleton(graph=found.graph, about=found.about, expected=found.expected[::-1])
    elif fault == "is of an unknown kind":
        found.graph.graph.node[0].op_type = "Unheard"
    elif fault == "lacks a tensor":
        next(one for one in found.graph.graph.initializer if one.doc_string).doc_string = '{"tensors": ["absent"], "transposed": false}'
    else:
        found = None
    monkeypatch.setattr(Skeleton, "of", lambda _, of: found if of == precision else None)
    directory = tmp_path / "out.partial"

    def traced(partial: Path, *_: Any) -> Export:
        assert (partial, list(partial.iterdir())) == (directory, [])
        raise export.Refused("traced instead")

    monkeypatch.setattr(export, "_traced", traced)
    about = export.export("", "", tmp_path / "out", precision)
    assert about.refused == "traced instead"
    assert (about.made == "traced") == (fault == "is not there" or precision == "int8")


@pytest.mark.parametrize("fault", ["expects another model", "lacks a tensor"])
def test_where_8_bits_cannot_be_filled_full_precision_is(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes three seconds, and tracing half a minute."""
    of = Skeleton.of

    def damaged(files: Path, precision: str) -> Skeleton | None:
        found = of(files, precision)
        if found is not None and precision == "int8":
            if fault == "expects another model":
                return replace(found, expected=found.expected[::-1])
            next(one for one in found.graph.graph.initializer if one.doc_string.startswith("{")).doc_string = '{"tensors": ["absent"]}'
        return found

    monkeypatch.setattr(Skeleton, "of", damaged)
    about = export.export("", "", tmp_path / "out", "auto")
    assert set(about.cosine) == {"fp32", "int8"}
    assert about.made.startswith("filled, not in 8 bits: " if fault == "lacks a tensor" else "filled")
    assert ("8 bits" in about.made) == (fault == "lacks a tensor")


def test_the_skeleton_of_another_model_is_made_and_filled_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is the bundled model's own; it has a thousandth of the weights' size."""
    model = tiny_transformer(tmp_path)
    monkeypatch.setattr(skeleton, "skeleton_file", lambda precision: tmp_path / f"{precision}.skeleton")
    for precision, graph in skeletons(Path(model)).items():
        onnx.save(graph, str(skeleton.skeleton_file(precision)))
    about = filled(tmp_path / "out", model, origin_of(model))

    assert about is not None
    assert skeleton.skeleton_file("fp32").stat().st_size * 20 < (tmp_path / "out" / file_name("fp32")).stat().st_size
    ours = OnnxModel.load(tmp_path / "out", about, name="", precision="fp32", prompts=Prompts())
    theirs = SentenceTransformerModel.load(model, device="cpu")
    np.testing.assert_allclose(ours.encode(SAMPLES), theirs.encode(SAMPLES), atol=1e-4)


@pytest.mark.parametrize(
    ("array", "made"),
    [
        (KEY, Made(tensors=["key"], transposed=False)),
        (KEY.T, Made(tensors=["key"], transposed=True)),
        (BIAS, Made(tensors=["bias"], transposed=False)),
        (np.concatenate([QUERY.T, KEY.T, VALUE.T], axis=-1), Made(tensors=["query", "key", "value"], transposed=True)),
        (np.concatenate([BIAS, BIAS, BIAS]), Made(tensors=["bias", "bias", "bias"], transposed=False)),
        (KEY + 1, None),
        (np.concatenate([QUERY, KEY + 1, VALUE], axis=-1), None),
    ],
    ids=["as it is", "transposed", "a row", "three in one", "three rows", "of no weights", "in part"],
)
def test_it_is_seen_what_an_array_is_made_of(array: np.ndarray, made: Made | None) -> None:  # type: ignore[type-arg]
    """And not seen where it is made of anything else."""
    assert made_of(array, WEIGHTS) == made
