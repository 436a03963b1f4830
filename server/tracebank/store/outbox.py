"""The outbox: what each index (a sink) still has to do, written in the same transaction as the trace."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

Sink = Literal["words", "vectors", "vectors_next"]
# Those that are searched. `vectors_next` is the index of a model that shall take the place of the present one.
SINKS: tuple[Sink, ...] = ("words", "vectors")
INTERACTIVE, BULK = 0, 1
HASH_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One trace that a sink has to index, or to delete where it is gone from the store.

    `stale_texts` are hashes of what its chunks were before, which the index may still hold.
    """

    seq: int
    row: int
    namespace_id: int
    stale_texts: tuple[bytes, ...] = ()


def put(db: sqlite3.Connection, row: int, namespace_id: int, *, stale_texts: Collection[bytes], priority: int) -> int:
    """Queue a trace for every sink and return the last sequence number given to one that is searched."""
    if db.execute("SELECT 1 FROM models WHERE role = 'next'").fetchone():
        _put(db, "vectors_next", row, namespace_id, stale_texts, BULK)
    return max(_put(db, sink, row, namespace_id, stale_texts, priority) for sink in SINKS)


def _put(db: sqlite3.Connection, sink: str, row: int, namespace_id: int, stale_texts: Collection[bytes], priority: int) -> int:
    # An entry that is still waiting is replaced by a newer one (so a sink that has just read the old one
    # does not clear the new), but neither what the index may hold from before is forgotten, nor who waits for it.
    replaced = db.execute(
        "DELETE FROM outbox WHERE sink = ? AND trace = ? RETURNING stale_texts, priority, coalesce(first_seq, seq)", (sink, row)
    ).fetchone()
    held, before, first_seq = replaced or (b"", BULK, None)
    # Words are deleted by their trace.
    stale = {*stale_texts, *_hashes(held)} if sink != "words" else ()
    cursor = db.execute(
        "INSERT INTO outbox (sink, trace, namespace_id, priority, stale_texts, first_seq) VALUES (?, ?, ?, ?, ?, ?)",
        (sink, row, namespace_id, min(priority, before), b"".join(sorted(stale)), first_seq if before == INTERACTIVE else None),
    )
    return int(cursor.lastrowid or 0)


def _hashes(joined: bytes) -> tuple[bytes, ...]:
    return tuple(joined[i : i + HASH_BYTES] for i in range(0, len(joined), HASH_BYTES))


def due(db: sqlite3.Connection, sink: str, *, limit: int) -> list[Entry]:
    """Return the next entries of a sink: what somebody waits for before bulk, older before newer."""
    found = db.execute(
        "SELECT seq, trace, namespace_id, stale_texts FROM outbox WHERE sink = ? AND error IS NULL ORDER BY priority, seq LIMIT ?",
        (sink, limit),
    )
    return [Entry(seq=s, row=t, namespace_id=n, stale_texts=_hashes(h)) for s, t, n, h in found]


def clear(db: sqlite3.Connection, seqs: Sequence[int]) -> None:
    """Remove entries that are done. One that was replaced meanwhile has another number and stays."""
    db.execute("DELETE FROM outbox WHERE seq IN (SELECT value FROM json_each(?))", (json.dumps(list(seqs)),))


def set_aside(db: sqlite3.Connection, seq: int, error: str) -> None:
    """Keep an entry that cannot be done, with its error, out of everybody's way."""
    db.execute("UPDATE outbox SET error = ? WHERE seq = ?", (error, seq))


def retry(db: sqlite3.Connection) -> int:
    """Make everything that was set aside due again. Returns how many entries."""
    return db.execute("UPDATE outbox SET error = NULL WHERE error IS NOT NULL").rowcount


def last_seq(db: sqlite3.Connection) -> int:
    """Return the number of the newest entry; 0 where there is none."""
    return int(db.execute("SELECT coalesce(max(seq), 0) FROM outbox").fetchone()[0])


def waiting(db: sqlite3.Connection, sink: str) -> int:
    """Return how many entries are due."""
    return int(db.execute("SELECT count(*) FROM outbox WHERE sink = ? AND error IS NULL", (sink,)).fetchone()[0])


def aside(db: sqlite3.Connection, sink: str) -> int:
    """Return how many entries were set aside."""
    return int(db.execute("SELECT count(*) FROM outbox WHERE sink = ? AND error IS NOT NULL", (sink,)).fetchone()[0])


def is_due(db: sqlite3.Connection, sink: str, *, up_to: int | None = None) -> bool:
    """Return whether an entry is due; with `up_to`, one that somebody waits for, up to that number, or that has replaced such a one.

    Asked after each batch: to count hundreds of thousands that an import has left would take longer than to index a few.
    """
    where, arguments = (
        ("", (sink,)) if up_to is None else (f" AND priority = {INTERACTIVE} AND coalesce(first_seq, seq) <= ?", (sink, up_to))
    )
    return db.execute(f"SELECT 1 FROM outbox WHERE sink = ? AND error IS NULL{where} LIMIT 1", arguments).fetchone() is not None


def waiting_rows(db: sqlite3.Connection, sink: str, last_row: int) -> int:
    """Return how many entries are due for the traces up to a row, whenever they were queued (a rebuild queues anew)."""
    return int(db.execute("SELECT count(*) FROM outbox WHERE sink = ? AND error IS NULL AND trace <= ?", (sink, last_row)).fetchone()[0])


def is_waiting(db: sqlite3.Connection, row: int) -> bool:
    """Return whether any sink that is searched still has to index this trace, or could not."""
    return db.execute("SELECT 1 FROM outbox WHERE trace = ? AND sink <> 'vectors_next' LIMIT 1", (row,)).fetchone() is not None


def errors(db: sqlite3.Connection, *, limit: int = 20) -> list[tuple[str, str, str]]:
    """Return (sink, trace_id, error) of what was set aside."""
    return list(
        db.execute(
            "SELECT o.sink, coalesce(t.trace_id, ''), o.error FROM outbox o LEFT JOIN traces t ON t.id = o.trace "
            "WHERE o.error IS NOT NULL ORDER BY o.seq LIMIT ?",
            (limit,),
        )
    )


def fill(db: sqlite3.Connection, sink: str) -> int:
    """Queue every trace of the store for one sink, whose index is empty: nothing has to go from it. Returns how many.

    What waits already keeps its place: somebody may be waiting for it.
    """
    db.execute("DELETE FROM outbox WHERE sink = ? AND (error IS NOT NULL OR trace NOT IN (SELECT id FROM traces))", (sink,))
    return again(db, sink)


def again(db: sqlite3.Connection, sink: str) -> int:
    """Queue every trace of the store for one sink whose index has them already. Returns how many are due with what was."""
    db.execute("UPDATE outbox SET error = NULL WHERE sink = ? AND error IS NOT NULL", (sink,))
    db.execute(
        "INSERT OR IGNORE INTO outbox (sink, trace, namespace_id, priority) SELECT ?, id, namespace_id, ? FROM traces ORDER BY id",
        (sink, BULK),
    )
    return waiting(db, sink)
