"""Embed the units of a prompt without standing in anybody's way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tracebank.embedding import EmbeddingService
from tracebank.embedding.base import Vectors
from tracebank.errors import EmbeddingError

# A search waits for one batch at most. Of like length: padding is computed, too.
BATCH_TEXTS = 8


async def read_in_small_batches(service: EmbeddingService, texts: Sequence[str]) -> Vectors | None:
    """Return float32 [len(texts), dim], from the service's cache what it has seen; None without a model."""
    if not service.ready:
        return None
    vectors: dict[str, Vectors] = {}
    ascending = sorted(set(texts), key=lambda text: (len(text), text))
    try:
        for at in range(0, len(ascending), BATCH_TEXTS):
            batch = ascending[at : at + BATCH_TEXTS]
            vectors.update(zip(batch, await service.embed_questions(batch), strict=True))
    except EmbeddingError:
        return None
    return np.stack([vectors[text] for text in texts])
