"""A sentence-transformers CrossEncoder: reads a question and a text together, which is slower than vectors and finer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tracebank.embedding.base import Vectors
from tracebank.errors import EmbeddingError, ModelLoadError

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

MAX_TOKENS = 512


class CrossEncoderModel:
    """A loaded cross-encoder with one output. It runs on torch, which takes 450 MB."""

    def __init__(self, model: CrossEncoder) -> None:
        self._model = model

    @classmethod
    def load(cls, model: str, *, device: str) -> CrossEncoderModel:
        """Load a model by name or path; this takes seconds and blocks. Raises: ModelLoadError."""
        if Path(model).is_dir():
            os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is here: do not ask the hub
        try:
            from sentence_transformers import CrossEncoder

            loaded = CrossEncoder(model, device=None if device == "auto" else device, max_length=MAX_TOKENS)
            outputs = int(loaded.config.num_labels)
        except Exception as error:  # a model can fail in as many ways as there are models
            raise ModelLoadError(f"the reranker {model} could not be loaded: {error}") from error
        if outputs != 1:
            raise ModelLoadError(f"the reranker {model} has {outputs} outputs: one that tells how well a text answers is needed")
        return cls(loaded)

    def scores(self, pairs: Sequence[tuple[str, str]]) -> Vectors:
        """Return float32 [len(pairs)], from 0 to 1: how well each text answers its question. Raises: EmbeddingError."""
        try:
            from torch.nn import Sigmoid

            found = self._model.predict(list(pairs), activation_fn=Sigmoid(), show_progress_bar=False)
        except Exception as error:  # as above
            raise EmbeddingError(f"the reranker failed: {error}") from error
        return np.asarray(found, np.float32)
