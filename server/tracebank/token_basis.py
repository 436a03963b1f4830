"""Whether the token vectors that are kept can be compared with those that the model computes now.

They lie along directions that are found when a model is exported or loaded; another version of a library, or another
device, may find others, and word by word nothing would resemble anything any more. So of a known text the store keeps
what the model said of its tokens, and where it now says something else, all are made again in the background.
"""

from __future__ import annotations

import logging
import sqlite3

import numpy as np

from tracebank.embedding import TokenEncoder, unpacked
from tracebank.meaning import Meaning
from tracebank.store import Store, models, outbox, vectors
from tracebank.store.outbox import Sink

log = logging.getLogger(__name__)

PROBE = "The build failed because the lock file was stale; deleting it and installing again solved it."
# int8 and full precision agree at .97 on average, processors that quantise otherwise at .95 and more; other directions at 0.
LEAST_COSINE = 0.9


async def settle_tokens(store: Store, meaning: Meaning, sink: Sink) -> bool:
    """Give up the token vectors of a model that is loaded where they are of other directions, before its sink is served.

    Returns whether they were. Raises: EmbeddingError, StoreError.
    """
    if not isinstance(meaning.embedding.model, TokenEncoder):
        return False
    tokens = (await meaning.embedding.read_chunks([PROBE]))[0].tokens
    assert tokens is not None
    codes = tokens.codes

    def settle(db: sqlite3.Connection) -> bool:
        known = models.token_probe(db, meaning.model_id)
        same = known is not None and len(known) == codes.nbytes and _alike(np.frombuffer(known, np.uint8).reshape(codes.shape), codes)
        if same:
            return False
        models.set_token_probe(db, meaning.model_id, codes.tobytes())
        if not vectors.drop_tokens(db, meaning.model_id):
            return False
        outbox.fill(db, sink)
        return True

    changed = await store.write(settle)
    if changed:
        # Questions are kept with theirs.
        meaning.embedding.cache.clear()
        log.warning("%s tells of tokens in other directions than before: they are computed again", meaning.embedding.name)
    return changed


def _alike(known: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], now: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bool:
    return float(np.mean(np.sum(unpacked(known) * unpacked(now), axis=1))) >= LEAST_COSINE
