"""What an index has to do next: entries of the outbox with what the store has of their traces."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from tracebank.chunking import text_hash
from tracebank.embedding import Vectors
from tracebank.index import IndexedText, IndexedTrace
from tracebank.store import StoredTrace, traces, vectors
from tracebank.store.outbox import Entry

# As many chunks that need no embedding count as one that does.
KNOWN_CHUNKS = 8
# What is read of a namespace at a time.
PAGE_TRACES, PAGE_BYTES = 500, 4_194_304


@dataclass(frozen=True, slots=True)
class Work:
    """Entries of one namespace with what the store has of them.

    `held` has the traces that have what is stale of another, so it stays: by the hash of the text, None where it goes.
    """

    namespace_id: int
    entries: Sequence[Entry]
    stored: Mapping[int, StoredTrace]
    spans: Mapping[int, list[tuple[str, int, int, int]]]
    held: Mapping[bytes, int | None]

    @property
    def removed_rows(self) -> list[int]:
        """The traces to be deleted."""
        return [e.row for e in self.entries if e.row not in self.stored]

    @property
    def removed_texts(self) -> list[bytes]:
        """The hashes of texts to be deleted."""
        return list(dict.fromkeys(h for e in self.entries for h in e.stale_texts if self.held[h] is None))

    def upserts(self) -> list[IndexedTrace]:
        """Return what is to be written to the index of words."""
        return [_indexed(e.row, self.stored[e.row], self._texts(e.row)) for e in self.entries if e.row in self.stored]

    def texts(self) -> dict[bytes, tuple[str, StoredTrace]]:
        """Return what is to be written to the index of vectors: each text once by its hash, with a trace that has it."""
        own = {text_hash(t): (t, self.stored[e.row]) for e in self.entries if e.row in self.stored for t in self._texts(e.row)}
        # What another trace has, too, is written again, so that the index names who has it now.
        wanted = {h: row for e in self.entries for h in e.stale_texts if (row := self.held[h]) is not None and h not in own}
        left = {h: (t, self.stored[row]) for row in wanted.values() for t in self._texts(row) if (h := text_hash(t)) in wanted}
        return {**left, **own}

    def indexed_texts(self, embedded: Mapping[bytes, Vectors]) -> list[IndexedText]:
        """Return those of the texts that have a vector here, by their hash."""
        return [
            IndexedText(
                key=h, text=text, vector=embedded[h], trace_id=stored.trace.trace_id, outcome=str(stored.trace.outcome),
                occurred_at_ms=stored.trace.occurred_at_ms or 0,
            )
            for h, (text, stored) in self.texts().items()
            if h in embedded
        ]  # fmt: skip

    def _texts(self, row: int) -> list[str]:
        """Return the chunks of a trace, in order."""
        return _texts(self.stored[row], self.spans.get(row, ()))


def _texts(stored: StoredTrace, spans: Sequence[tuple[str, int, int, int]]) -> list[str]:
    return [part_text(stored, part, item)[start:end] for part, item, start, end in spans]


def _indexed(row: int, stored: StoredTrace, texts: Sequence[str]) -> IndexedTrace:
    trace = stored.trace
    return IndexedTrace(
        row=row, text=trace.text, chunks=tuple(texts), outcome=str(trace.outcome), tags=trace.tags,
        metadata=trace.metadata, occurred_at_ms=trace.occurred_at_ms or 0,
    )  # fmt: skip


def page_of(db: sqlite3.Connection, space: int, *, after: int) -> list[IndexedTrace]:
    """Return the next traces of a namespace as the index of words takes them, in the order of their rows; empty at the end."""
    rows = traces.next_rows(db, [space], after=after, limit=PAGE_TRACES, max_bytes=PAGE_BYTES)
    stored, spans = traces.load(db, rows), vectors.spans(db, rows)
    return [_indexed(row, stored[row], _texts(stored[row], spans.get(row, ()))) for row in rows]


def part_text(stored: StoredTrace, part: str, item: int) -> str:
    """Return the text that a chunk's span counts its characters in."""
    trace = stored.trace
    return trace.lessons[item].text if part == "lesson" else trace.task if part == "task" else trace.content


def load_work(
    db: sqlite3.Connection,
    entries: Sequence[Entry],
    *,
    max_chunks: int,
    model: int | None = None,
    tokens: bool = False,
    known_chunks: int = KNOWN_CHUNKS,
) -> list[Work]:
    """Return the first entries, at most a batch of chunks and at least one trace, by namespace.

    Of chunks that need no embedding, because there is no `model` or because their vectors are kept (with `tokens` those of their
    tokens, too), `known_chunks` count as one: to write one takes less than a tenth of what embedding takes, and a commit of the
    index as long for one as for hundreds.
    """
    chunks = vectors.counts(db, [e.row for e in entries], model, tokens=tokens)
    taken: list[Entry] = []
    cost = 0.0
    for entry in entries:
        every, missing = chunks.get(entry.row, (0, 0))
        cost += missing + (every - missing) / known_chunks
        if taken and cost > max_chunks:
            break
        taken.append(entry)
    taken.sort(key=lambda e: e.namespace_id)
    return [_work(db, space, list(group)) for space, group in groupby(taken, key=lambda e: e.namespace_id)]


def _work(db: sqlite3.Connection, space: int, entries: Sequence[Entry]) -> Work:
    held = {h: vectors.a_holder(db, space, h) for e in entries for h in e.stale_texts}
    rows = list({e.row for e in entries}.union(row for row in held.values() if row is not None))
    return Work(space, entries, traces.load(db, rows), vectors.spans(db, rows), held)
