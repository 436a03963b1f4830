"""Turning text into vectors: the model behind a small contract, and the queue that everybody shares."""

from tracebank.embedding.base import EmbeddingModel, Vectors
from tracebank.embedding.service import EmbeddingService

__all__ = ["EmbeddingModel", "EmbeddingService", "Vectors"]
