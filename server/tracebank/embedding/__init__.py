"""Turning text into vectors: the model behind a small contract, and the queue that everybody shares."""

from tracebank.embedding.base import EmbeddingModel, Prompts, Vectors
from tracebank.embedding.loading import load_model, vectors_name
from tracebank.embedding.service import EmbeddingService
from tracebank.embedding.token_spans import ModelTokens

__all__ = ["EmbeddingModel", "EmbeddingService", "ModelTokens", "Prompts", "Vectors", "load_model", "vectors_name"]
