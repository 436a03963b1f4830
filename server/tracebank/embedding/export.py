"""Exporting a sentence-transformers model to ONNX, in a process of its own so that torch's memory goes back.

The bundled model needs no torch for it: see `skeleton`.

    python -m tracebank.embedding.export MODEL REVISION DIRECTORY

Prints one line of JSON: {"refused": reason or "", "cosine": {precision: mean}, "made": how, "seconds": …}. It ends when its standard
input does.
"""

from __future__ import annotations

import contextlib
import gc
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
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tracebank.embedding.base import Prompts, Vectors
from tracebank.embedding.exported import PROBE, TOKENIZER_NAME, TRACED, Export, Origin, file_name, origin_of, write_about
from tracebank.embedding.onnx import OnnxModel
from tracebank.embedding.sentence import resolve
from tracebank.embedding.skeleton import Skeleton
from tracebank.embedding.token_projection import inputs_of, projection_of

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

# What each precision has to reach: the mean cosine with sentence-transformers, and the least lead of one neighbour
# over another that must not be lost.
CHECKS = {"fp32": (0.9999, 0.001), "int8": (0.985, 0.1)}
# A file of ONNX holds 2 GB.
MAX_PARAMETERS = 450_000_000
EXPECTED_BATCH = 4
POOLINGS = ("mean", "cls", "max")
# Processors that add products of 8 bits without saturating at 16.
EXACT_INT8 = {"avx512_vnni", "avx_vnni", "asimddp", "i8mm"}
OPSET = 17
SAMPLES = (
    "cache",
    "ok",
    "Why did the deployment fail?",
    "How do I undo the last commit without losing my changes?",
    "git reset --soft HEAD~1 undoes the last commit and keeps the changes staged.",
    "TypeError: unsupported operand type(s) for +: 'int' and 'str'",
    "データベースの接続がタイムアウトしました。",
    "La conexión con la base de datos se agotó después de treinta segundos.",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.",
    "The patient was given 5 mg twice a day; symptoms improved within two weeks.",
    "def add(a: int, b: int) -> int:\n    return a + b\n",
    '{"status": "failed", "retries": 3, "reason": "connection reset by peer"}',
    PROBE,
    "npm ERR! ERESOLVE unable to resolve dependency tree while installing the front end",
    "Interest rates rose again this quarter, and the housing market cooled in most large cities.",
    "The team lost its third match in a row after the goalkeeper was sent off in the first half. " * 2,
    "Always run the migration on a copy of the production database first, and write down how long each step takes. " * 4,
    "First we profiled the import: most of the time went into the tokenizer. Then we sorted the texts by length. " * 8,
    "A recipe for bread: flour, water, salt and yeast; knead it, let it rise, shape it, and bake it until it is brown. " * 16,
    "The pipeline reads events from the queue, enriches them with the user's profile, and writes them to the warehouse. " * 32,
)


class Refused(Exception):
    """The model cannot be exported and stays on torch; the message says why."""


def export(model: str, revision: str, directory: Path) -> Export:
    """Export a model into a directory, which appears when it is complete; a refusal is written there, too.

    Raises: whatever the libraries raise.
    """
    origin = origin_of(model, revision)
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of somebody who was killed
    partial.mkdir(parents=True)
    try:
        about = _export_into(partial, model, revision, origin)
        write_about(partial, origin, about)
        shutil.rmtree(directory, ignore_errors=True)
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return about


def _export_into(directory: Path, model: str, revision: str, origin: Origin) -> Export:
    made = TRACED
    try:
        try:
            if (about := _filled(directory, model, origin)) is not None:
                return about
        except Exception as error:  # a newer library may not know it any more, and each has a kind of its own for that
            _empty(directory)
            made = f"{TRACED}: the skeleton cannot be filled: {error}"
        return replace(_traced(directory, model, revision, origin), made=made)
    except Refused as reason:
        _empty(directory)
        return Export(
            refused=str(reason), accelerator=_accelerator() if origin.accelerator_possible else "", max_seq_length=None, dim=0, pooling="",
            prompts={}, default_prompt_name=None, pad_id=0, pad_token="", cosine={}, probe_text="", probe={}, made=made,
        )  # fmt: skip


def _filled(directory: Path, model: str, origin: Origin) -> Export | None:
    """Fill the skeleton that comes with the package; None where it is of another model. Raises: Exception, where it does not serve."""
    files = Path(resolve(model))
    skeleton = Skeleton.of(files, SAMPLES)
    if skeleton is None:
        return None
    skeleton.fill(files, directory / file_name("fp32"))
    shutil.copyfile(files / TOKENIZER_NAME, directory / TOKENIZER_NAME)
    about = _finished(directory, origin, skeleton.about, lambda: skeleton.expected)
    # Only to ask for it torch is imported after all.
    return replace(about, accelerator=_accelerator()) if origin.accelerator_possible else about


def _traced(directory: Path, model: str, revision: str, origin: Origin) -> Export:
    """Export with torch. Raises: Refused."""
    _import_all()
    original = load(model, revision)
    pooling = pooling_of(original)
    about = about_of(original, pooling, _accelerator() if origin.accelerator_possible else "")
    write_graph(original, pooling, directory / file_name("fp32"))
    return _finished(directory, origin, about, lambda: expected_of(original))


def _finished(directory: Path, origin: Origin, about: Export, expected: Callable[[], Vectors]) -> Export:
    """Quantise the graph, and check both precisions against what sentence-transformers makes of the samples. Raises: Refused."""
    # Quantising is a loop in Python; what is beside it computes outside of that.
    with ThreadPoolExecutor(1) as beside:
        quantised = beside.submit(_quantise, directory, origin)
        vectors = expected()
        fp32 = _check(directory, about, "fp32", vectors)
        quantised.result()
    return _checked(directory, about, {"fp32": fp32, "int8": _check(directory, about, "int8", vectors)})


def _empty(directory: Path) -> None:
    for file in directory.iterdir():
        file.unlink()


def load(model: str, revision: str) -> SentenceTransformer:
    """Return the model as it is traced: on the processor, in full precision."""
    from sentence_transformers import SentenceTransformer

    # Only attention written out as matrix products is recognised and fused.
    options = {"attn_implementation": "eager", "dtype": "float32"}
    return SentenceTransformer(resolve(model), revision=revision or None, device="cpu", model_kwargs=options).eval()


def _accelerator() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else ""


def pooling_of(model: SentenceTransformer) -> str:
    """Return how its tokens become one vector. Raises: Refused where it is not made of what is known here."""
    kinds = [type(module).__name__ for module in model]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise Refused(f"it consists of {', '.join(kinds)}, not of Transformer, Pooling and Normalize")
    pooling = cast(Any, model[1])
    if pooling.pooling_mode not in POOLINGS:
        raise Refused(f"its pooling is {pooling.pooling_mode!r}, not one of {', '.join(POOLINGS)}")
    if not pooling.include_prompt and any(model.prompts.values()):
        raise Refused("its pooling leaves out the prompt")
    if model.truncate_dim is not None:
        raise Refused(f"its vectors are cut to {model.truncate_dim} dimensions")
    if (parameters := sum(weights.numel() for weights in model.parameters())) > MAX_PARAMETERS:
        raise Refused(f"it has {parameters:,} parameters, and an ONNX file holds {MAX_PARAMETERS:,}")
    return str(pooling.pooling_mode)


def about_of(model: SentenceTransformer, pooling: str, accelerator: str) -> Export:
    """Return what has to be known to use its export, before that is checked. Raises: Refused."""
    transformer = cast(Any, model[0])
    tokenizer = transformer.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise Refused("its tokenizer has no fast form")
    if tokenizer.padding_side != "right" or tokenizer.truncation_side != "right":
        raise Refused("its tokenizer pads or cuts on the left")
    return Export(
        refused="", accelerator=accelerator, max_seq_length=transformer.max_seq_length, dim=int(model.get_embedding_dimension() or 0),
        pooling=pooling, prompts={name: prompt or "" for name, prompt in model.prompts.items()},
        default_prompt_name=model.default_prompt_name, pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token,
        cosine={}, probe_text=PROBE, probe={},
    )  # fmt: skip


def write_graph(model: SentenceTransformer, pooling: str, file: Path) -> None:
    """Trace the model with its pooling, fuse attention, GELU and layer norms, and save its tokenizer beside it."""
    import torch
    from onnxruntime.transformers.optimizer import optimize_model

    transformer = cast(Any, model[0])
    transformer.tokenizer.backend_tokenizer.save(str(file.with_name(TOKENIZER_NAME)))
    # Two texts of unlike length: what does not depend on the mask in the trace never will.
    sample = transformer.tokenizer([SAMPLES[2], SAMPLES[3]], padding=True, return_tensors="pt")
    names = inputs_of(sample)

    class Sentence(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.transformer = transformer.auto_model
            self.register_buffer("projection", projection_of(transformer))

        def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            given = dict(zip(names, inputs, strict=True))
            tokens = self.transformer(**given, return_dict=True).last_hidden_state
            sentence = torch.nn.functional.normalize(_pooled(tokens, given["attention_mask"], pooling), p=2, dim=1)
            return sentence, tokens @ self.projection

    raw = file.with_name("raw.onnx")
    axes: dict[str, dict[int, str]] = {name: {0: "batch", 1: "sequence"} for name in names}
    with torch.no_grad(), warnings.catch_warnings():
        # Deprecated, and the bound on torch in pyproject.toml is for this, too: the newer one needs onnxscript.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Sentence().eval(), tuple(sample[name] for name in names), str(raw),
            input_names=names, output_names=["sentence_embedding", "token_embeddings"],
            dynamic_axes=axes | {"sentence_embedding": {0: "batch"}, "token_embeddings": {0: "batch", 1: "sequence"}},
            opset_version=OPSET, dynamo=False,
        )  # fmt: skip
    config = transformer.auto_model.config
    heads, hidden = getattr(config, "num_attention_heads", 0), getattr(config, "hidden_size", 0)
    optimize_model(str(raw), model_type="bert", num_heads=heads, hidden_size=hidden).save_model_to_file(str(file))
    raw.unlink()


def _pooled(tokens: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    import torch

    if pooling == "cls":
        return tokens[:, 0]
    if pooling == "max":
        return tokens.masked_fill(mask.unsqueeze(-1) == 0, -1e9).amax(dim=1)
    weights = mask.unsqueeze(1).to(tokens.dtype)
    return torch.bmm(weights, tokens).squeeze(1) / weights.sum(dim=2).clamp(min=1e-9)


def _quantise(directory: Path, origin: Origin) -> None:
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic

    exact = not EXACT_INT8.isdisjoint(origin.cpu)
    quantize_dynamic(
        directory / file_name("fp32"), directory / file_name("int8"),
        per_channel=True, weight_type=QuantType.QInt8, reduce_range=not exact,
        # The types of what fused operators give are not inferred.
        extra_options={"DefaultTensorType": TensorProto.FLOAT},
    )  # fmt: skip


def expected_of(model: SentenceTransformer) -> Vectors:
    """Return what sentence-transformers makes of the samples, float32 [samples, dim], rows of length 1."""
    # In small batches, in which texts of like length are together: padded to the longest all would take twice as long.
    return np.asarray(model.encode(list(SAMPLES), prompt="", normalize_embeddings=True, batch_size=EXPECTED_BATCH), np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Check:
    """How one precision agrees with sentence-transformers, and what it makes of the probe."""

    cosine: float
    lost: int
    probe: list[float]


def _check(directory: Path, about: Export, precision: str, expected: Vectors) -> _Check:
    model = OnnxModel.load(directory, about, name="", precision=precision, prompts=Prompts())
    # One batch, so that all but the longest are padded.
    vectors = model.encode(SAMPLES)
    return _Check(
        cosine=float(np.mean(np.sum(vectors * expected, axis=1))),
        lost=lost_leads(expected, vectors, lead=CHECKS[precision][1]),
        probe=[float(x) for x in model.encode([PROBE])[0]],
    )


def _checked(directory: Path, about: Export, checks: Mapping[str, _Check]) -> Export:
    """Return what is known with the precisions that passed; the graph of one that did not is removed."""
    passed, failures = {}, []
    for precision, check in checks.items():
        if check.cosine >= CHECKS[precision][0] and not check.lost:
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


def _import_all() -> None:
    # It stays: to look through all of it again and again would take a seventh of the time.
    gc.disable()
    import sentence_transformers  # noqa: F401

    gc.freeze()
    gc.enable()


def main(arguments: Sequence[str]) -> int:
    """Export, and tell the outcome in one line on standard output; everything else that prints goes to standard error."""
    model, revision, directory = arguments
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
    about = export(model, revision, Path(directory))
    outcome = {"refused": about.refused, "cosine": about.cosine, "made": about.made, "seconds": round(time.perf_counter() - began, 1)}
    os.write(answer, json.dumps(outcome).encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
