"""SQL for traces, their lessons, tags and chunks. Functions of a connection; transactions are the caller's."""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from tracebank.chunking import Chunk, text_hash
from tracebank.records import Lesson, Outcome, Scalar, Trace
from tracebank.store import outbox

_COLUMNS = (
    "t.id, n.name, t.trace_id, t.task, t.content, t.outcome, t.parent_id, t.occurred_at_ms, t.metadata, t.created_at_ms, t.updated_at_ms"
)


# The key of tags among the labels; metadata has keys of its own, never empty.
TAG = ""


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


def upsert(db: sqlite3.Connection, trace: Trace, chunks: Sequence[Chunk], *, now_ms: int, priority: int, cut: bytes | None = None) -> Added:
    """Store the trace, replacing one of the same namespace and id; queue it for the indexes. `cut` says how it was cut."""
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
        json.dumps(dict(trace.metadata), ensure_ascii=False), digest, cut,
    )  # fmt: skip
    dropped: list[bytes] = []
    if found:
        row = found[0]
        dropped = _drop_parts(db, row, but_lessons=trace.lessons)
        db.execute(
            "UPDATE traces SET task=?, content=?, outcome=?, parent_id=?, occurred_at_ms=?, updated_at_ms=?, metadata=?, content_hash=?, "
            "cut=? WHERE id = ?",
            (*values, row),
        )
    else:
        cursor = db.execute(
            "INSERT INTO traces (task, content, outcome, parent_id, occurred_at_ms, updated_at_ms, metadata, content_hash, "
            "cut, namespace_id, trace_id, created_at_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*values, space, trace.trace_id, now_ms),
        )
        row = int(cursor.lastrowid or 0)
    _insert_parts(db, row, space, trace, chunks)
    _drop_vectors(db, dropped)
    seq = outbox.put(db, row, space, stale_texts=dropped, priority=priority)
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
            outbox.put(db, row, found[0], stale_texts=dropped, priority=outbox.INTERACTIVE)
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


def _insert_parts(db: sqlite3.Connection, row: int, space: int, trace: Trace, chunks: Sequence[Chunk]) -> None:
    db.executemany("INSERT OR IGNORE INTO lessons VALUES (?, ?, ?, ?, ?)", _lesson_rows(row, trace.lessons))
    db.executemany("INSERT INTO tags VALUES (?, ?, ?)", [(row, i, tag) for i, tag in enumerate(trace.tags)])
    labels = labels_of(trace.tags, trace.metadata.items())
    db.executemany("INSERT OR IGNORE INTO labels VALUES (?, ?, ?, ?)", [(row, key, value, space) for key, value in labels])
    db.executemany(
        "INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(row, i, c.part, c.item, c.start, c.end, text_hash(c.text)) for i, c in enumerate(chunks)],
    )


def _lesson_rows(row: int, lessons: Sequence[Lesson]) -> list[tuple[int, int, str, str, str]]:
    return [(row, i, lesson.title, lesson.description, lesson.content) for i, lesson in enumerate(lessons)]


def _drop_parts(db: sqlite3.Connection, row: int, *, but_lessons: Sequence[Lesson] = ()) -> list[bytes]:
    """Delete lessons, tags, labels and chunks. Returns the hash of each chunk there was.

    A lesson that stays as it is stays in place: groups refer to it, what somebody has undone among them.
    """
    hashes = [h for (h,) in db.execute("SELECT text_hash FROM chunks WHERE trace = ?", (row,))]
    known = db.execute("SELECT trace, ordinal, title, description, content FROM lessons WHERE trace = ?", (row,)).fetchall()
    gone = set(known) - set(_lesson_rows(row, but_lessons))
    db.executemany("DELETE FROM lessons WHERE trace = ? AND ordinal = ?", [lesson[:2] for lesson in gone])
    for table in ("tags", "labels", "chunks"):
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


def places_of(db: sqlite3.Connection, trace_ids: Sequence[str], namespaces: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Return (trace_id, namespace) of every trace that carries one of the ids, in these namespaces (empty: in any)."""
    where, arguments = _in_namespaces(namespaces)
    return db.execute(
        "SELECT t.trace_id, n.name FROM traces t JOIN namespaces n ON n.id = t.namespace_id "
        f"WHERE t.trace_id IN (SELECT value FROM json_each(?)){where} ORDER BY t.id",
        (json.dumps(list(trace_ids)), *arguments),
    ).fetchall()


def labels_of(tags: Iterable[str], metadata: Iterable[tuple[str, Scalar]]) -> list[tuple[str, Any]]:
    """Return tags and metadata as they stand in `labels`: true and false apart from the numbers that SQLite takes them for."""
    return [*((TAG, tag) for tag in tags), *((key, bytes([value]) if isinstance(value, bool) else value) for key, value in metadata)]


def spaces_named(db: sqlite3.Connection, names: Sequence[str]) -> list[int]:
    """Return the numbers of namespaces by their names, of those that there are; without names of all."""
    known = namespace_ids(db)
    return [known[name] for name in names if name in known] if names else sorted(known.values())


def chunk_counts(db: sqlite3.Connection, rows: Sequence[int]) -> dict[int, int]:
    """Return how many chunks each of these traces has, without reading them."""
    found = db.execute(
        "SELECT j.value, (SELECT max(ordinal) FROM chunks WHERE trace = j.value) FROM json_each(?) j", (json.dumps(list(rows)),)
    )
    return {row: last + 1 for row, last in found if last is not None}


def occurred_at_ms(db: sqlite3.Connection, rows: Sequence[int]) -> dict[int, int]:
    """Return when each of these traces happened."""
    return dict(db.execute("SELECT id, occurred_at_ms FROM traces WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(list(rows)),)))


def next_rows(db: sqlite3.Connection, spaces: Sequence[int] | None, *, after: int, limit: int, max_bytes: float = math.inf) -> list[int]:
    """Return the next rows of these namespaces (None: of all) behind one, in order.

    The trace whose text brings them to `max_bytes` is the last.
    """
    # The plus keeps SQLite from an index that it would have to sort.
    where, arguments = ("", []) if spaces is None else (f" AND +t.namespace_id IN ({', '.join('?' * len(spaces))})", list(spaces))
    size = _BYTES if max_bytes < math.inf else "0"
    rows: list[int] = []
    for row, length in db.execute(
        f"SELECT t.id, {size} FROM traces t WHERE t.id > ?{where} ORDER BY t.id LIMIT ?", (after, *arguments, limit)
    ):
        rows.append(row)
        max_bytes -= length
        if max_bytes <= 0:
            break
    return rows


_BYTES = (
    "length(CAST(t.task || t.content || t.metadata AS BLOB)) + "
    "coalesce((SELECT sum(length(CAST(title || description || content AS BLOB))) FROM lessons WHERE trace = t.id), 0)"
)


def newest(db: sqlite3.Connection, space: int, *, limit: int) -> list[int]:
    """Return the rows of a namespace that were stored last."""
    return [row for (row,) in db.execute("SELECT id FROM traces WHERE +namespace_id = ? ORDER BY id DESC LIMIT ?", (space, limit))]


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


def page(db: sqlite3.Connection, names: Sequence[str], *, after: int, limit: int, max_bytes: float = math.inf) -> list[StoredTrace]:
    """Return the next traces of the namespaces (none: of all) behind row `after`, by row, as `next_rows`; empty at the end."""
    rows = next_rows(db, spaces_named(db, names) if names else None, after=after, limit=limit, max_bytes=max_bytes)
    found = load(db, rows)
    return [found[row] for row in rows]
