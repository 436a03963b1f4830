"""SQL for what memories were worth. One row an event: their age counts."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One event: a memory helped, or did not, with the weight that this has."""

    at_ms: int
    helpful: bool
    weight: float


def add(db: sqlite3.Connection, rows: Sequence[int], evidence: Evidence, *, note: str = "") -> None:
    """Record the same event for several traces; one that is gone by now is left out."""
    db.executemany(
        "INSERT INTO feedback (trace, at_ms, helpful, weight, note) SELECT id, ?, ?, ?, ? FROM traces WHERE id = ?",
        [(evidence.at_ms, evidence.helpful, evidence.weight, note, row) for row in rows],
    )


def of_traces(db: sqlite3.Connection, rows: Sequence[int]) -> dict[int, list[Evidence]]:
    """Return all evidence on these traces, by row, oldest first."""
    found: dict[int, list[Evidence]] = {}
    for row, at_ms, helpful, weight in db.execute(
        "SELECT trace, at_ms, helpful, weight FROM feedback WHERE trace IN (SELECT value FROM json_each(?)) ORDER BY id",
        (json.dumps(list(rows)),),
    ):
        found.setdefault(row, []).append(Evidence(at_ms=at_ms, helpful=bool(helpful), weight=weight))
    return found


def counts(db: sqlite3.Connection) -> dict[str, int]:
    """Return how many events spoke for a memory and against one."""
    helpful, unhelpful = db.execute("SELECT count(*) FILTER (WHERE helpful), count(*) FILTER (WHERE NOT helpful) FROM feedback").fetchone()
    return {"helpful": int(helpful), "unhelpful": int(unhelpful)}
