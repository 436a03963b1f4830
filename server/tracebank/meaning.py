"""What finds by meaning: a model, and the index of its vectors. They belong together, so they are handed on together."""

from __future__ import annotations

from dataclasses import dataclass

from tracebank.embedding import EmbeddingService
from tracebank.index import VectorIndex


@dataclass(frozen=True, slots=True, eq=False)
class Meaning:
    """An index that is open, the service whose vectors it holds, and the model's number in the store."""

    index: VectorIndex
    embedding: EmbeddingService
    model_id: int
