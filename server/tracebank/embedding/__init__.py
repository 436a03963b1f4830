"""Turning text into vectors: the model behind a small contract, and the queue that everybody shares."""

from tracebank.embedding.base import EmbeddingModel, Prompts, Vectors
from tracebank.embedding.cross_encoder import CrossEncoderModel
from tracebank.embedding.exported import PROBE
from tracebank.embedding.loading import load_model, vectors_name
from tracebank.embedding.service import EmbeddingService
from tracebank.embedding.token_spans import ModelTokens
from tracebank.embedding.token_vectors import DocumentEncoder, Embedded, TokenEncoder, TokenVectors, agreement, packed, unpacked

__all__ = [
    "PROBE", "CrossEncoderModel", "DocumentEncoder", "Embedded", "EmbeddingModel", "EmbeddingService", "ModelTokens", "Prompts",
    "TokenEncoder", "TokenVectors", "Vectors", "agreement", "load_model", "packed", "unpacked", "vectors_name",
]  # fmt: skip
