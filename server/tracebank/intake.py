"""Storing traces: cut into chunks by the model's tokens, and committed with what belongs to them."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from anyio import to_thread

from tracebank.chunking import Chunk, chunks_of, cut_mark
from tracebank.embedding import ModelTokens
from tracebank.lasting import Lasting
from tracebank.records import Trace
from tracebank.settings import IndexSettings
from tracebank.store import Added, Store, cuts, outbox, traces
from tracebank.tokens import Tokenizer

# Below this a text is chunked and counted on the event loop: a thread would cost more.
SMALL_CHARS = 4_000

# Writes more with a trace that is stored, in the same transaction.
Also = Callable[[sqlite3.Connection, Added], None]


class _Cut(NamedTuple):
    """A trace with its chunks, and what decided where they begin and end (see `chunking.cut_mark`)."""

    trace: Trace
    chunks: Sequence[Chunk]
    mark: bytes | None


class Intake:
    """Stores checked traces. `stored(traces)` is called after each commit. It belongs to one event loop."""

    def __init__(
        self,
        *,
        store: Store,
        token_spans: ModelTokens,
        tokenizer: Tokenizer,
        settings: IndexSettings,
        now_ms: Callable[[], int],
        stored: Callable[[Sequence[Trace]], Awaitable[None]],
    ) -> None:
        self._store, self._token_spans, self._tokenizer, self._settings = store, token_spans, tokenizer, settings
        self._now_ms, self._stored = now_ms, stored
        self._storing = Lasting()

    async def close(self) -> None:
        """Wait until all that was begun is stored."""
        await self._storing.settled()

    async def add(self, trace: Trace) -> tuple[Added, int]:
        """Store a trace. Returns what was done, and how many tokens it has. Raises: StoreError."""
        text = trace.text

        def cut() -> tuple[_Cut, int]:
            return self._cut(trace), self._tokenizer.count(text)

        item, tokens = cut() if len(text) < SMALL_CHARS else await to_thread.run_sync(cut)
        (added,) = await self._put([item], outbox.INTERACTIVE)
        return added, tokens

    async def add_many(self, items: Sequence[Trace]) -> list[Added]:
        """Store traces in one commit, to be indexed behind what somebody waits for. Raises: StoreError."""
        known = await self._store.read(lambda db: self._known(db, items))
        return await self._put(await to_thread.run_sync(lambda: list(map(self._cut, items, known))), outbox.BULK)

    async def keep(self, trace: Trace, also: Also) -> Added:
        """Store a trace of our own making, and what belongs to it. Raises: StoreError."""
        item = self._cut(trace) if len(trace.text) < SMALL_CHARS else await to_thread.run_sync(self._cut, trace)
        (added,) = await self._put([item], outbox.INTERACTIVE, also)
        return added

    async def _put(self, items: Sequence[_Cut], priority: int, also: Also = lambda db, added: None) -> list[Added]:
        # Whoever gives up waiting does not undo it: what is committed has to be indexed, and known to everybody.
        return await self._storing.run(self._stored_whole(items, priority, also))

    async def _stored_whole(self, items: Sequence[_Cut], priority: int, also: Also) -> list[Added]:
        now_ms = self._now_ms()

        def write(db: sqlite3.Connection) -> list[Added]:
            added = [traces.upsert(db, item.trace, item.chunks, now_ms=now_ms, priority=priority, cut=item.mark) for item in items]
            for one in added:
                also(db, one)
            return added

        added = await self._store.write(write)
        await self._stored([item.trace for item in items])
        return added

    def _known(self, db: sqlite3.Connection, items: Sequence[Trace]) -> list[list[Chunk] | None]:
        """Return of each trace its chunks where equal texts were cut alike before: that costs a twentieth of cutting."""
        mark = self._mark()
        return [cuts.known(db, trace, mark) if mark else None for trace in items]

    def _cut(self, trace: Trace, known: list[Chunk] | None = None) -> _Cut:
        # The mark first: a tokenizer that is found meanwhile has not cut all of it.
        mark, settings = self._mark(), self._settings
        return _Cut(
            trace=trace, mark=mark,
            chunks=known or chunks_of(trace, self._token_spans, tokens=settings.chunk_tokens, overlap_tokens=settings.chunk_overlap_tokens),
        )  # fmt: skip

    def _mark(self) -> bytes | None:
        tokenizer, settings = self._token_spans.mark, self._settings
        return tokenizer and cut_mark(tokenizer, tokens=settings.chunk_tokens, overlap_tokens=settings.chunk_overlap_tokens)
