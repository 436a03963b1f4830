"""Writing the words of a namespace anew from the store, without what was deleted, while it is searched and written."""

from __future__ import annotations

import logging
from functools import partial

from anyio import to_thread

from tracebank.errors import IndexFaultError, StoreError
from tracebank.index import WordIndex
from tracebank.indexer import Indexer
from tracebank.store import Store
from tracebank.work import page_of

log = logging.getLogger(__name__)


async def rewrite_words(store: Store, words: WordIndex, indexer: Indexer, space: int) -> bool:
    """Fill a copy of a namespace, a page at a time, and let it take its place. Returns whether that was possible."""
    try:
        await to_thread.run_sync(words.begin_copy, space)
        after = 0
        while True:
            # What is read is what is written: nobody else writes in between.
            async with indexer.paused("words"):
                page = await store.read(partial(page_of, space=space, after=after))
                if not page:
                    return await to_thread.run_sync(words.exchange_copy, space)
                if not await to_thread.run_sync(words.fill_copy, space, page):
                    return False
            after = page[-1].row
    except (IndexFaultError, StoreError, OSError) as error:
        log.warning("the words of namespace %d are not written anew yet: %s", space, error)
        return False
