"""SQL for traces, their lessons, tags and chunks. Functions of a connection; transactions are the caller's."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from tracebank.chunking import Chunk, text_hash
from tracebank.records import Filters, Lesson, Outcome, Trace
from tracebank.store import outbox

_COLUMNS = (
    "t.id, n.name, t.trace_id, t.task, t.content, t.outcome, t.parent_id, t.occurred_at_ms, t.metadata, t.created_at_ms, t.updated_at_ms"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTrace:
    """A trace as the store holds it; `row` is its number, never given out twice."""

    row: int
    trace: Trace
    created_at_ms: int
    updated_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """What an upsert did. `seq` is the last entry it made in the outbox, None where nothing changed."""

    row: int
    status: Literal["created", "updated", "unchanged"]
    chunks: int
    seq: int | None


def content_hash(trace: Trace) -> bytes:
    """Return 16 bytes that change when the trace does."""
    row = json.dumps(trace.as_json(), sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(row.encode(), digest_size=16).digest()


def namespace_id(db: sqlite3.Connection, name: str) -> int:
    """Return the namespace's number, making it where it is new."""
    # Not INSERT OR IGNORE: that writes, and so costs a commit, even where nothing is new.
    found = db.execute("SELECT id FROM namespaces WHERE name = ?", (name,)).fetchone()
    return int(found[0] if found else db.execute("INSERT INTO namespaces (name) VALUES (?) RETURNING id", (name,)).fetchone()[0])


def upsert(db: sqlite3.Connection, trace: Trace, chunks: Sequence[Chunk], *, now_ms: int, priority: int) -> Added:
    """Store the trace, replacing one of the same namespace and id; queue it for the indexes."""
    space = namespace_id(db, trace.namespace)
    found = db.execute(
        "SELECT id, content_hash, occurred_at_ms FROM traces WHERE namespace_id = ? AND trace_id = ?", (space, trace.trace_id)
    ).fetchone()
    if trace.occurred_at_ms is None:
        trace = replace(trace, occurred_at_ms=found[2] if found else now_ms)
    digest = content_hash(trace)
    if found and found[1] == digest:
        count = db.execute("SELECT count(*) FROM chunks WHERE trace = ?", (found[0],)).fetchone()[0]
        return Added(row=found[0], status="unchanged", chunks=count, seq=None)
    values = (
        trace.task, trace.content, str(trace.outcome), trace.parent_id, trace.occurred_at_ms, now_ms,
        json.dumps(dict(trace.metadata), ensure_ascii=False), digest,
    )  # fmt: skip
    dropped: list[bytes] = []
    if found:
        row = found[0]
        dropped = _drop_parts(db, row)
        db.execute(
            "UPDATE traces SET task=?, content=?, outcome=?, parent_id=?, occurred_at_ms=?, updated_at_ms=?, metadata=?, content_hash=? "
            "WHERE id = ?",
            (*values, row),
        )
    else:
        cursor = db.execute(
            "INSERT INTO traces (task, content, outcome, parent_id, occurred_at_ms, updated_at_ms, metadata, content_hash, "
            "namespace_id, trace_id, created_at_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*values, space, trace.trace_id, now_ms),
        )
        row = int(cursor.lastrowid or 0)
    _insert_parts(db, row, trace, chunks)
    _drop_vectors(db, dropped)
    seq = outbox.put(db, row, space, stale_chunks=len(dropped), priority=priority)
    return Added(row=row, status="updated" if found else "created", chunks=len(chunks), seq=seq)


def delete(db: sqlite3.Connection, rows: Iterable[int]) -> int:
    """Delete traces with all that belongs to them; queue their removal from the indexes. Returns how many there were."""
    deleted = 0
    for row in rows:
        found = db.execute("SELECT namespace_id FROM traces WHERE id = ?", (row,)).fetchone()
        if found:
            dropped = _drop_parts(db, row)
            _drop_vectors(db, dropped)
            db.execute("DELETE FROM traces WHERE id = ?", (row,))
            outbox.put(db, row, found[0], stale_chunks=len(dropped), priority=outbox.INTERACTIVE)
            deleted += 1
    return deleted


def last_row(db: sqlite3.Connection) -> int:
    """Return the highest row that was ever given out."""
    found = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'traces'").fetchone()
    return int(found[0]) if found else 0


def spaces_of(db: sqlite3.Connection, rows: Sequence[int]) -> list[int]:
    """Return the numbers of the namespaces that hold these traces."""
    found = db.execute("SELECT DISTINCT namespace_id FROM traces WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(list(rows)),))
    return [space for (space,) in found]


def _insert_parts(db: sqlite3.Connection, row: int, trace: Trace, chunks: Sequence[Chunk]) -> None:
    db.executemany(
        "INSERT INTO lessons VALUES (?, ?, ?, ?, ?)",
        [(row, i, lesson.title, lesson.description, lesson.content) for i, lesson in enumerate(trace.lessons)],
    )
    db.executemany("INSERT INTO tags VALUES (?, ?, ?)", [(row, i, tag) for i, tag in enumerate(trace.tags)])
    db.executemany(
        "INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(row, i, c.part, c.item, c.start, c.end, text_hash(c.text)) for i, c in enumerate(chunks)],
    )


def _drop_parts(db: sqlite3.Connection, row: int) -> list[bytes]:
    """Delete lessons, tags and chunks. Returns the hash of each chunk there was."""
    hashes = [h for (h,) in db.execute("SELECT text_hash FROM chunks WHERE trace = ?", (row,))]
    for table in ("lessons", "tags", "chunks"):
        db.execute(f"DELETE FROM {table} WHERE trace = ?", (row,))
    return hashes


def _drop_vectors(db: sqlite3.Connection, hashes: Iterable[bytes]) -> None:
    """Delete those of the vectors that no chunk needs any more."""
    for table in ("embeddings", "token_vectors"):
        db.executemany(
            # With the models the key is whole: without, every vector would be looked at.
            f"DELETE FROM {table} WHERE model IN (SELECT id FROM models) AND text_hash = ?1 "
            "AND NOT EXISTS (SELECT 1 FROM chunks WHERE chunks.text_hash = ?1)",
            [(h,) for h in set(hashes)],
        )


def load(db: sqlite3.Connection, rows: Sequence[int]) -> dict[int, StoredTrace]:
    """Return the traces of these rows that still exist, by row."""
    wanted = json.dumps(list(rows))
    lessons: dict[int, list[Lesson]] = {}
    for row, title, description, content in db.execute(
        "SELECT trace, title, description, content FROM lessons WHERE trace IN (SELECT value FROM json_each(?)) ORDER BY trace, ordinal",
        (wanted,),
    ):
        lessons.setdefault(row, []).append(Lesson(title=title, description=description, content=content))
    tags: dict[int, list[str]] = {}
    for row, tag in db.execute(
        "SELECT trace, tag FROM tags WHERE trace IN (SELECT value FROM json_each(?)) ORDER BY trace, ordinal", (wanted,)
    ):
        tags.setdefault(row, []).append(tag)
    found = db.execute(
        f"SELECT {_COLUMNS} FROM traces t JOIN namespaces n ON n.id = t.namespace_id WHERE t.id IN (SELECT value FROM json_each(?))",
        (wanted,),
    )
    bare = [_stored(columns) for columns in found]
    return {s.row: replace(s, trace=replace(s.trace, lessons=tuple(lessons.get(s.row, ())), tags=tuple(tags.get(s.row, ())))) for s in bare}


def _stored(columns: Sequence[Any]) -> StoredTrace:
    row, namespace, trace_id, task, content, outcome, parent_id, occurred_at_ms, metadata, created_at_ms, updated_at_ms = columns
    trace = Trace(
        trace_id=trace_id, namespace=namespace, task=task, content=content, outcome=Outcome(outcome),
        parent_id=parent_id, occurred_at_ms=occurred_at_ms, metadata=json.loads(metadata),
    )  # fmt: skip
    return StoredTrace(row=row, trace=trace, created_at_ms=created_at_ms, updated_at_ms=updated_at_ms)


def rows_of(db: sqlite3.Connection, trace_ids: Sequence[str], namespaces: Sequence[str] = ()) -> list[int]:
    """Return the rows that carry one of the ids, in these namespaces (empty: in any)."""
    wanted = json.dumps(list(trace_ids))
    where, arguments = _in_namespaces(namespaces)
    found = db.execute(
        f"SELECT t.id FROM traces t WHERE t.trace_id IN (SELECT value FROM json_each(?)){where} ORDER BY t.id", (wanted, *arguments)
    )
    return [row for (row,) in found]


def matching(db: sqlite3.Connection, filters: Filters, *, space: int | None = None, namespaces: Sequence[str] = ()) -> list[int]:
    """Return the rows that pass the filters, in one namespace by number or in several by name (none: in all)."""
    where, arguments = _in_namespaces(namespaces)
    if space is not None:
        where += " AND t.namespace_id = ?"
        arguments.append(space)
    if filters.outcomes:
        where += " AND t.outcome IN (SELECT value FROM json_each(?))"
        arguments.append(json.dumps([str(outcome) for outcome in filters.outcomes]))
    for tag in filters.tags:
        where += " AND EXISTS (SELECT 1 FROM tags WHERE tags.trace = t.id AND tags.tag = ?)"
        arguments.append(tag)
    if filters.since_ms is not None:
        where += " AND t.occurred_at_ms >= ?"
        arguments.append(filters.since_ms)
    if filters.until_ms is not None:
        where += " AND t.occurred_at_ms <= ?"
        arguments.append(filters.until_ms)
    found = db.execute(f"SELECT t.id FROM traces t WHERE 1{where} ORDER BY t.id", arguments)
    return [row for (row,) in found]


def neighbours(db: sqlite3.Connection, rows: Sequence[int], *, reach: int, within_ms: int) -> dict[int, tuple[list[int], list[int]]]:
    """Return for each row up to `reach` rows before and after it in its namespace, nearest first, in the order of time, then of row.

    No further away than `within_ms`.
    """
    found = db.execute(_NEIGHBOURS, (json.dumps(list(rows)), within_ms, reach))
    return {
        row: ((json.loads(with_before) + json.loads(before))[:reach], (json.loads(with_after) + json.loads(after))[:reach])
        for row, with_before, before, with_after, after in found
    }


def _nearest(condition: str, order: str) -> str:
    return (
        "(SELECT json_group_array(id) FROM (SELECT n.id FROM traces n "
        f"WHERE n.namespace_id = t.namespace_id AND {condition} ORDER BY {order} LIMIT ?3))"
    )


# The same moment apart from the others: SQLite reads a comparison of (time, id) pairs as one of times, and an import gives
# all its traces one.
_NEIGHBOURS = f"""
    SELECT t.id,
        {_nearest("n.occurred_at_ms = t.occurred_at_ms AND n.id < t.id", "n.id DESC")},
        {_nearest("n.occurred_at_ms < t.occurred_at_ms AND n.occurred_at_ms >= t.occurred_at_ms - ?2", "n.occurred_at_ms DESC, n.id DESC")},
        {_nearest("n.occurred_at_ms = t.occurred_at_ms AND n.id > t.id", "n.id")},
        {_nearest("n.occurred_at_ms > t.occurred_at_ms AND n.occurred_at_ms <= t.occurred_at_ms + ?2", "n.occurred_at_ms, n.id")}
    FROM json_each(?1) j CROSS JOIN traces t ON t.id = j.value
"""


def chunk_counts(db: sqlite3.Connection, rows: Sequence[int]) -> dict[int, int]:
    """Return how many chunks each of these traces has, without reading them."""
    found = db.execute(
        "SELECT j.value, (SELECT max(ordinal) FROM chunks WHERE trace = j.value) FROM json_each(?) j", (json.dumps(list(rows)),)
    )
    return {row: last + 1 for row, last in found if last is not None}


def count(db: sqlite3.Connection, space: int) -> int:
    """Return how many traces a namespace has."""
    return int(db.execute("SELECT count(*) FROM traces WHERE namespace_id = ?", (space,)).fetchone()[0])


def _in_namespaces(names: Sequence[str]) -> tuple[str, list[Any]]:
    if not names:
        return "", []
    return " AND t.namespace_id IN (SELECT id FROM namespaces WHERE name IN (SELECT value FROM json_each(?)))", [json.dumps(list(names))]


def namespaces(db: sqlite3.Connection) -> dict[str, int]:
    """Return the number of traces of every namespace that has any, by name."""
    return dict(
        db.execute("SELECT n.name, count(*) FROM traces t JOIN namespaces n ON n.id = t.namespace_id GROUP BY n.id ORDER BY n.name")
    )


def namespace_ids(db: sqlite3.Connection) -> dict[str, int]:
    """Return the number of every namespace ever used, by name."""
    return dict(db.execute("SELECT name, id FROM namespaces"))


def page(db: sqlite3.Connection, names: Sequence[str], *, after: int, limit: int = 200) -> list[StoredTrace]:
    """Return the next traces of the namespaces (none: of all) behind row `after`, by row; empty at the end."""
    where, arguments = _in_namespaces(names)
    rows = [r for (r,) in db.execute(f"SELECT t.id FROM traces t WHERE t.id > ?{where} ORDER BY t.id LIMIT ?", (after, *arguments, limit))]
    found = load(db, rows)
    return [found[row] for row in rows]
