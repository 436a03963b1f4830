"""Whether the token vectors that are kept can be compared with those that the model computes now.

They lie along directions that are found when a model is exported or loaded; another version of a library, or another
device, may find others, and word by word nothing would resemble anything any more. So of a known text the store keeps
what the model said of its tokens, and where it now says something else, all are made again in the background.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Awaitable, Callable

import numpy as np

from tracebank.embedding import PROBE, TokenEncoder, agreement
from tracebank.meaning import Meaning
from tracebank.store import Store, models, outbox, vectors
from tracebank.store.outbox import Sink

log = logging.getLogger(__name__)

# int8 and full precision agree at .97 on average, processors that quantise otherwise at .95 and more; other directions at 0.
LEAST_COSINE = 0.9
DROPPED_AT_ONCE = 5_000


async def settle_tokens(store: Store, meaning: Meaning, sink: Sink, forget_questions: Callable[[], Awaitable[None]]) -> None:
    """Give up the token vectors of a model that is loaded where they are of other directions, before its sink is served.

    Questions are kept with theirs: they are forgotten first. Raises: EmbeddingError, StoreError, DataDirError.
    """
    if not isinstance(meaning.embedding.model, TokenEncoder):
        return
    tokens = (await meaning.embedding.read_chunks([PROBE]))[0].tokens
    assert tokens is not None
    codes, model = tokens.codes, meaning.model_id
    known = np.frombuffer(await store.read(lambda db: models.token_probe(db, model)) or b"", np.uint8)
    if known.size == codes.size and agreement(known.reshape(codes.shape), codes) >= LEAST_COSINE:
        return
    await forget_questions()
    # In parts, between which others write. Killed anywhere, it begins again.
    await store.write(lambda db: models.set_token_probe(db, model, None))
    while await store.write(lambda db: vectors.drop_tokens(db, model, limit=DROPPED_AT_ONCE)):
        pass

    def settle(db: sqlite3.Connection) -> bool:
        models.set_token_probe(db, model, codes.tobytes())
        if to_do := vectors.any_kept(db, model):
            outbox.again(db, sink)
        return to_do

    if await store.write(settle):
        log.warning(
            "the directions of the token vectors of %s have changed, or are not known: all are computed again", meaning.embedding.name
        )
