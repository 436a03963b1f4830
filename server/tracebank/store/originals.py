"""Texts that were shortened, whole, with what each cut left out; bounded by age and by size.

A text is kept once under its hash, however often it is shortened, and what it was cut from once, too; each shortening has an id of
its own, that of the text and of what it left out.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

Span = tuple[int, int]
_HASH_CHARS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much is kept: nothing older than `max_age_ms`, and no more than `max_bytes` in all."""

    max_bytes: int
    max_age_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """A text as it was, and what each cut left out, in the order of the marks."""

    text: str
    parts: tuple[str, ...]


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=_HASH_CHARS // 2).hexdigest()


def put(db: sqlite3.Connection, text: str, cut_from: str, cuts: Sequence[Span], *, now_ms: int, bounds: Bounds) -> str:
    """Keep a text, and the spans of `cut_from` (the text after lossless steps) that were left out. Returns its id.

    What is too old or too much is let go, other cuts of the same text among it, but never what is kept now.
    """
    text_id = _digest(text)
    spans = json.dumps(list(cuts), separators=(",", ":"))
    original_id = f"{text_id}-{_digest(cut_from + spans)[:6]}"
    db.execute(
        "INSERT INTO originals (text_id, text, bytes, used_at_ms) VALUES (?, ?, 0, ?) "
        "ON CONFLICT (text_id) DO UPDATE SET used_at_ms = excluded.used_at_ms",
        (text_id, text, now_ms),
    )
    if cut_from != text:
        db.execute(
            "INSERT INTO cut_sources (text_id, text) SELECT ?1, ?2 "
            "WHERE NOT EXISTS (SELECT 1 FROM cut_sources WHERE text_id = ?1 AND text = ?2)",
            (text_id, cut_from),
        )
    db.execute(
        "INSERT OR IGNORE INTO original_cuts (id, text_id, source, spans) "
        "SELECT ?1, ?2, (SELECT id FROM cut_sources WHERE text_id = ?2 AND text = ?3), ?4",
        (original_id, text_id, cut_from, spans),
    )
    if _measured(db, text_id) > bounds.max_bytes:
        # One text is cut in as many ways as an agent likes.
        db.execute("DELETE FROM original_cuts WHERE text_id = ? AND id <> ?", (text_id, original_id))
        db.execute(
            "DELETE FROM cut_sources WHERE text_id = ?1 AND id NOT IN "
            "(SELECT source FROM original_cuts WHERE text_id = ?1 AND source IS NOT NULL)",
            (text_id,),
        )
        _measured(db, text_id)
    _evict(db, text_id, now_ms=now_ms, bounds=bounds)
    return original_id


def _measured(db: sqlite3.Connection, text_id: str) -> int:
    """Write down and return how many bytes are kept for a text: itself, what it was cut from, and what each cut left out."""
    parts = "SELECT text FROM cut_sources WHERE text_id = ?1 UNION ALL SELECT spans FROM original_cuts WHERE text_id = ?1"
    query = (
        "UPDATE originals SET bytes = length(CAST(text AS BLOB)) "
        f"+ (SELECT coalesce(sum(length(CAST(text AS BLOB))), 0) FROM ({parts})) WHERE text_id = ?1 RETURNING bytes"
    )
    return int(db.execute(query, (text_id,)).fetchone()[0])


def _evict(db: sqlite3.Connection, but: str, *, now_ms: int, bounds: Bounds) -> None:
    # The running total from the latest use on; the cuts go with their text.
    db.execute(
        "DELETE FROM originals WHERE text_id != ?1 AND (used_at_ms < ?2 OR text_id IN ("
        "SELECT text_id FROM (SELECT text_id, sum(bytes) OVER (ORDER BY text_id != ?1, used_at_ms DESC, text_id) AS total FROM originals) "
        "WHERE total > ?3))",
        (but, now_ms - bounds.max_age_ms, bounds.max_bytes),
    )


def get(db: sqlite3.Connection, original_id: str) -> Original | None:
    """Return what is kept under an id; None where there is nothing (any more)."""
    found = db.execute(
        "SELECT o.text, coalesce(s.text, o.text), c.spans FROM original_cuts c JOIN originals o ON o.text_id = c.text_id "
        "LEFT JOIN cut_sources s ON s.id = c.source WHERE c.id = ?",
        (original_id,),
    ).fetchone()
    if found is None:
        return None
    text, cut_from, spans = found
    return Original(text=text, parts=tuple(cut_from[start:end] for start, end in json.loads(spans)))
