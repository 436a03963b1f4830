"""Exporting a sentence-transformers model to ONNX, in a process of its own so that torch's memory goes back.

The bundled model needs no torch for it: see `skeleton`.

    python -m tracebank.embedding.export MODEL REVISION DIRECTORY PRECISION

Prints one line of JSON: {"refused": reason or "", "cosine": {precision: mean}, "made": how, "seconds": …}. It ends when its standard
input does.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tracebank.embedding import tracing
from tracebank.embedding.base import Prompts, Vectors
from tracebank.embedding.exported import PROBE, TOKENIZER_NAME, TRACED, Export, Origin, file_name, origin_of, read_about, write_about
from tracebank.embedding.onnx import OnnxModel
from tracebank.embedding.sample_texts import SAMPLES
from tracebank.embedding.sentence import resolve
from tracebank.embedding.skeleton import Skeleton
from tracebank.embedding.tracing import Refused

# What each precision has to reach: the mean cosine with sentence-transformers, and the least lead of one neighbour
# over another that must not be lost.
CHECKS = {"fp32": (0.9999, 0.001), "int8": (0.985, 0.1)}
CHECKED_BATCH = 4
# Processors that add products of 8 bits without saturating at 16.
EXACT_INT8 = {"avx512_vnni", "avx_vnni", "asimddp", "i8mm"}


def export(model: str, revision: str, directory: Path, precision: str = "auto") -> Export:
    """Export a model into a directory, which appears when it is complete; a refusal is written there, too.

    What is made has fp32 where that is the `precision` wanted; else 8 bits may be all.

    Raises: Refused where the directory has another precision, which stays; whatever the libraries raise.
    """
    origin = origin_of(model, revision)
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of somebody who was killed
    partial.mkdir(parents=True)
    try:
        about = _export_into(partial, model, revision, origin, precision)
        former = read_about(directory, origin)
        if about.refused and former is not None and not former.serves(precision):
            # It was asked for another precision, and goes on serving in that.
            raise Refused(about.refused)
        write_about(partial, origin, about)
        shutil.rmtree(directory, ignore_errors=True)
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return about


def _export_into(directory: Path, model: str, revision: str, origin: Origin, precision: str) -> Export:
    made = TRACED
    try:
        if (about := _filled(directory, model, origin, precision)) is not None:
            return about
    except Exception as error:  # a newer library may not know it any more, and each has a kind of its own for that
        _empty(directory)
        made = f"{TRACED}: the skeleton cannot be filled: {error}"
    try:
        return replace(_traced(directory, model, revision, origin), made=made)
    except Refused as reason:
        _empty(directory)
        return Export(
            refused=str(reason), max_seq_length=None, dim=0, pooling="", prompts={}, default_prompt_name=None,
            pad_id=0, pad_token="", cosine={}, probe_text="", probe={}, made=made,
        )  # fmt: skip


def _filled(directory: Path, model: str, origin: Origin, precision: str) -> Export | None:
    """Fill a skeleton that comes with the package; None where they are of another model. Raises: Exception, where it does not serve."""
    files, fault = Path(resolve(model)), ""
    if precision != "fp32":
        try:
            if (about := _filled_small(directory, files, origin)) is not None:
                return about
        except Exception as error:  # as in `_export_into`; full precision may serve all the same
            fault = f", not in 8 bits: {error}"
        _empty(directory)
    skeleton = Skeleton.of(files, "fp32")
    if skeleton is None:
        return None
    skeleton.fill(files, directory / file_name("fp32"))
    shutil.copyfile(files / TOKENIZER_NAME, directory / TOKENIZER_NAME)
    about = replace(skeleton.about, made=skeleton.about.made + fault)
    return _finished(directory, origin, about, lambda: skeleton.expected)


def _filled_small(directory: Path, files: Path, origin: Origin) -> Export | None:
    """Fill the skeleton in 8 bits: a third of the time of all. None where there is none, or it does not pass its check here."""
    skeleton = Skeleton.of(files, "int8")
    if skeleton is None:
        return None
    skeleton.fill(files, directory / file_name("int8"), whole_range=_whole_range(origin))
    shutil.copyfile(files / TOKENIZER_NAME, directory / TOKENIZER_NAME)
    check = _check(directory, skeleton.about, "int8", skeleton.expected)
    if not check.passed:
        return None
    return replace(skeleton.about, cosine={"int8": check.cosine}, probe={"int8": check.probe})


def _traced(directory: Path, model: str, revision: str, origin: Origin) -> Export:
    """Export with torch. Raises: Refused."""
    original = tracing.load(model, revision)
    pooling = tracing.pooling_of(original)
    about = tracing.about_of(original, pooling)
    tracing.write_graph(original, pooling, directory / file_name("fp32"))
    return _finished(directory, origin, about, lambda: tracing.expected_of(original))


def _finished(directory: Path, origin: Origin, about: Export, expected: Callable[[], Vectors]) -> Export:
    """Quantise the graph, and check both precisions against what sentence-transformers makes of the samples. Raises: Refused."""
    # Quantising is a loop in Python; what is beside it computes outside of that.
    with ThreadPoolExecutor(1) as beside:
        quantised = beside.submit(quantize, directory / file_name("fp32"), directory / file_name("int8"), whole_range=_whole_range(origin))
        vectors = expected()
        fp32 = _check(directory, about, "fp32", vectors)
        quantised.result()
    return _checked(directory, about, {"fp32": fp32, "int8": _check(directory, about, "int8", vectors)})


def _empty(directory: Path) -> None:
    for file in directory.iterdir():
        file.unlink()


def _whole_range(origin: Origin) -> bool:
    return not EXACT_INT8.isdisjoint(origin.cpu)


def quantize(whole: Path, small: Path, *, whole_range: bool) -> None:
    """Write a graph in 8 bits a weight: in all of them, or in 7 where two products must not saturate at 16."""
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        whole, small, per_channel=True, weight_type=QuantType.QInt8, reduce_range=not whole_range,
        # The types of what fused operators give are not inferred.
        extra_options={"DefaultTensorType": TensorProto.FLOAT},
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Check:
    """How one precision agrees with sentence-transformers, and what it makes of the probe."""

    precision: str
    cosine: float
    lost: int
    probe: list[float]

    @property
    def passed(self) -> bool:
        """Whether that is enough."""
        return self.cosine >= CHECKS[self.precision][0] and not self.lost


def _check(directory: Path, about: Export, precision: str, expected: Vectors) -> _Check:
    model = OnnxModel.load(directory, about, name="", precision=precision, prompts=Prompts())
    vectors = _padded(model)
    return _Check(
        precision=precision,
        cosine=float(np.mean(np.sum(vectors * expected, axis=1))),
        lost=lost_leads(expected, vectors, lead=CHECKS[precision][1]),
        probe=[float(x) for x in model.encode([PROBE])[0]],
    )


def _padded(model: OnnxModel) -> Vectors:
    """Return the vectors of the samples: the shortest beside the longest, nearly all of them padding, the others among their like."""
    by_length = sorted(range(len(SAMPLES)), key=lambda i: len(SAMPLES[i]))
    alike = by_length[2:-2]
    batches = [[*by_length[:2], *by_length[-2:]], *(alike[at : at + CHECKED_BATCH] for at in range(0, len(alike), CHECKED_BATCH))]
    vectors = np.empty((len(SAMPLES), model.dim), np.float32)
    for batch in batches:
        vectors[batch] = model.encode([SAMPLES[i] for i in batch])
    return vectors


def _checked(directory: Path, about: Export, checks: Mapping[str, _Check]) -> Export:
    """Return what is known with the precisions that passed; the graph of one that did not is removed."""
    passed, failures = {}, []
    for precision, check in checks.items():
        if check.passed:
            passed[precision] = check
        else:
            failures.append(
                f"{precision} has mean cosine {check.cosine:.4f} with sentence-transformers and another order of {check.lost} neighbours"
            )
            (directory / file_name(precision)).unlink()
    if "fp32" not in passed:
        raise Refused(f"its export is not the same model: {'; '.join(failures)}")
    return replace(
        about, cosine={name: check.cosine for name, check in passed.items()}, probe={name: check.probe for name, check in passed.items()}
    )


def lost_leads(expected: Vectors, vectors: Vectors, *, lead: float) -> int:
    """Return how often a text's neighbour that is nearer than another by more than `lead` no longer is."""
    before, after = expected @ expected.T, vectors @ vectors.T
    led = before[:, :, None] - before[:, None, :] > lead
    return int(np.count_nonzero(led & (after[:, :, None] <= after[:, None, :])))


def _end_with_parent() -> None:
    """Leave when whoever asked for the export has gone: nobody waits for it."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1024):
                pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: Sequence[str]) -> int:
    """Export, and tell the outcome in one line on standard output; everything else that prints goes to standard error."""
    model, revision, directory, precision = arguments
    answer = os.dup(1)
    os.dup2(2, 1)
    _end_with_parent()
    if hasattr(os, "nice"):
        os.nice(5)  # the engine answers by words meanwhile
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
    if Path(resolve(model)).is_dir():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.simplefilter("ignore")
    logging.disable()
    began = time.perf_counter()
    about = export(model, revision, Path(directory), precision)
    outcome = {"refused": about.refused, "cosine": about.cosine, "made": about.made, "seconds": round(time.perf_counter() - began, 1)}
    os.write(answer, json.dumps(outcome).encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
