"""What an index has to do next: entries of the outbox with what the store has of their traces."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from tracebank.embedding import Vectors
from tracebank.index import IndexedTrace, Removal
from tracebank.store import StoredTrace, traces, vectors
from tracebank.store.outbox import Entry


@dataclass(frozen=True, slots=True)
class Work:
    """Entries of one namespace with what the store has of them."""

    namespace_id: int
    entries: Sequence[Entry]
    stored: Mapping[int, StoredTrace]
    spans: Mapping[int, list[tuple[str, int, int, int]]]

    @property
    def removals(self) -> list[Removal]:
        """What is to be deleted."""
        return [Removal(row=e.row, stale_chunks=e.stale_chunks) for e in self.entries if e.row not in self.stored]

    def upserts(self, embedded: Mapping[str, Vectors] | None) -> list[IndexedTrace]:
        """Return what is to be written, with the vectors of its chunks by their text."""
        return [self._indexed(e, self.stored[e.row], embedded) for e in self.entries if e.row in self.stored]

    def _indexed(self, entry: Entry, stored: StoredTrace, embedded: Mapping[str, Vectors] | None) -> IndexedTrace:
        trace = stored.trace
        texts = self.texts(entry.row)
        return IndexedTrace(
            row=entry.row, trace_id=trace.trace_id, text=trace.text, chunks=tuple(texts), outcome=str(trace.outcome), tags=trace.tags,
            occurred_at_ms=trace.occurred_at_ms or 0, stale_chunks=entry.stale_chunks,
            vectors=None if embedded is None else np.stack([embedded[text] for text in texts]),
        )  # fmt: skip

    def texts(self, row: int) -> list[str]:
        """Return the chunks of a trace, in order."""
        return [part_text(self.stored[row], part, item)[start:end] for part, item, start, end in self.spans.get(row, ())]


def part_text(stored: StoredTrace, part: str, item: int) -> str:
    """Return the text that a chunk's span counts its characters in."""
    trace = stored.trace
    return trace.lessons[item].text if part == "lesson" else trace.task if part == "task" else trace.content


def load_work(db: sqlite3.Connection, entries: Sequence[Entry], *, max_chunks: int) -> list[Work]:
    """Return the first entries, at most a batch of chunks and at least one trace, by namespace."""
    spans = vectors.spans(db, [e.row for e in entries])
    taken: list[Entry] = []
    chunks = 0
    for entry in entries:
        chunks += len(spans.get(entry.row, ()))
        if taken and chunks > max_chunks:
            break
        taken.append(entry)
    stored = traces.load(db, [e.row for e in taken])
    taken.sort(key=lambda e: e.namespace_id)
    return [Work(space, list(group), stored, spans) for space, group in groupby(taken, key=lambda e: e.namespace_id)]
