"""What torch tells of a sentence-transformers model: its graph, what has to be known to run it, and its vectors of the samples."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tracebank.embedding.base import Vectors
from tracebank.embedding.exported import PROBE, TOKENIZER_NAME, Export
from tracebank.embedding.sample_texts import SAMPLES
from tracebank.embedding.sentence import resolve
from tracebank.embedding.token_projection import inputs_of, projection_of

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

# A file of ONNX holds 2 GB.
MAX_PARAMETERS = 450_000_000
EXPECTED_BATCH = 4
POOLINGS = ("mean", "cls", "max")
OPSET = 17


class Refused(Exception):
    """The model cannot be exported and stays on torch; the message says why."""


def load(model: str, revision: str) -> SentenceTransformer:
    """Return the model as it is traced: on the processor, in full precision."""
    # What is imported stays: to look through all of it again and again would take a seventh of the time.
    gc.disable()
    from sentence_transformers import SentenceTransformer

    gc.freeze()
    gc.enable()
    # Only attention written out as matrix products is recognised and fused.
    options = {"attn_implementation": "eager", "dtype": "float32"}
    return SentenceTransformer(resolve(model), revision=revision or None, device="cpu", model_kwargs=options).eval()


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


def about_of(model: SentenceTransformer, pooling: str) -> Export:
    """Return what has to be known to use its export, before that is checked. Raises: Refused."""
    transformer = cast(Any, model[0])
    tokenizer = transformer.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise Refused("its tokenizer has no fast form")
    if tokenizer.padding_side != "right" or tokenizer.truncation_side != "right":
        raise Refused("its tokenizer pads or cuts on the left")
    return Export(
        refused="", max_seq_length=transformer.max_seq_length, dim=int(model.get_embedding_dimension() or 0),
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


def expected_of(model: SentenceTransformer) -> Vectors:
    """Return what sentence-transformers makes of the samples, float32 [samples, dim], rows of length 1."""
    # In small batches, in which texts of like length are together: padded to the longest all would take twice as long.
    return np.asarray(model.encode(list(SAMPLES), prompt="", normalize_embeddings=True, batch_size=EXPECTED_BATCH), np.float32)
