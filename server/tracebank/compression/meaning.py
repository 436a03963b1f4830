"""Embed the units of a prompt without standing in anybody's way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from tracebank.embedding import Embedded, EmbeddingService
from tracebank.errors import EmbeddingError

# A search waits for one batch at most. Of like length: padding is computed, too.
BATCH_TEXTS = 8


async def _unheard(part: float) -> None:
    pass


async def read_in_small_batches(
    service: EmbeddingService, texts: Sequence[str], heard: Callable[[float], Awaitable[None]] = _unheard
) -> list[Embedded] | None:
    """Return what the model says of each text, from the service's cache what it has seen; None without a model.

    `heard` is told after each batch how much has been read, 0 to 1.
    """
    if not service.ready:
        return None
    read: dict[str, Embedded] = {}
    ascending = sorted(set(texts), key=lambda text: (len(text), text))
    try:
        for at in range(0, len(ascending), BATCH_TEXTS):
            batch = ascending[at : at + BATCH_TEXTS]
            read.update(zip(batch, await service.read_questions(batch), strict=True))
            await heard(min(1.0, (at + BATCH_TEXTS) / len(ascending)))
    except EmbeddingError:
        return None
    return [read[text] for text in texts]
