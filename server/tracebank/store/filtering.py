"""SQL for filters: which traces pass, and how many can."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence
from typing import Any

from tracebank.records import Filters
from tracebank.store.traces import labels_of, spaces_named


def matching(
    db: sqlite3.Connection,
    filters: Filters,
    *,
    space: int | None = None,
    namespaces: Sequence[str] = (),
    rows: Collection[int] | None = None,
    limit: int = -1,
) -> list[int]:
    """Return the rows that pass the filters, in one namespace by number or in several by name (none: in all), at most `limit`.

    With `rows` those of them. Without, each namespace is read through the index of what the filters ask to be equal, or of time:
    as much as matches, not as much as there is.
    """
    spaces = [space] if space is not None else spaces_named(db, namespaces)
    if rows is not None:
        return _passing(db, "json_each(?) j CROSS JOIN traces t ON t.id = j.value", [json.dumps(list(rows))], filters, spaces, limit)
    labels = labels_of(filters.tags, filters.metadata)
    found: list[int] = []
    for one in spaces:
        left = limit if limit < 0 else limit - len(found)
        if labels:
            # Counted no further than tells which is rarer.
            rarest = min(labels, key=lambda label: _count_of(db, one, label, limit=10_000)) if len(labels) > 1 else labels[0]
            source = "labels l CROSS JOIN traces t ON t.id = l.trace AND l.namespace_id = ? AND l.key = ? AND l.value = ?"
            found += _passing(db, source, [one, *rarest], filters, [one], left)
        else:
            found += _passing(db, "traces t", [], filters, [one], left)
    return sorted(found)


def _passing(
    db: sqlite3.Connection, source: str, arguments: Sequence[Any], filters: Filters, spaces: Sequence[int], limit: int
) -> list[int]:
    where, values = f"t.namespace_id IN ({', '.join('?' * len(spaces))})", list[Any](spaces)
    if filters.outcomes:
        where += f" AND t.outcome IN ({', '.join('?' * len(filters.outcomes))})"
        values += [str(outcome) for outcome in filters.outcomes]
    for label in labels_of(filters.tags, filters.metadata):
        where += " AND EXISTS (SELECT 1 FROM labels e WHERE e.trace = t.id AND e.key = ? AND e.value = ?)"
        values += label
    for bound, comparison in ((filters.since_ms, ">="), (filters.until_ms, "<=")):
        if bound is not None:
            where += f" AND t.occurred_at_ms {comparison} ?"
            values.append(bound)
    return [row for (row,) in db.execute(f"SELECT t.id FROM {source} WHERE {where} LIMIT ?", (*arguments, *values, limit))]


def at_most(db: sqlite3.Connection, filters: Filters, *, space: int, limit: int) -> int:
    """Return how many traces of a namespace can pass the filters, counted up to a limit: as many as the rarest of their conditions lets.

    Reads nothing but indexes: a hundred thousand in a millisecond or two.
    """
    counts = [_count_of(db, space, label, limit=limit) for label in labels_of(filters.tags, filters.metadata)]
    if filters.outcomes:
        outcomes = [str(outcome) for outcome in filters.outcomes]
        counts.append(_count(db, "traces", f"outcome IN ({', '.join('?' * len(outcomes))})", [space, *outcomes], limit))
    if filters.since_ms is not None or filters.until_ms is not None:
        bounds = [-(2**63) if filters.since_ms is None else filters.since_ms, 2**63 - 1 if filters.until_ms is None else filters.until_ms]
        counts.append(_count(db, "traces", "occurred_at_ms BETWEEN ? AND ?", [space, *bounds], limit))
    return min(counts) if counts else _count(db, "traces", "TRUE", [space], limit)


def _count_of(db: sqlite3.Connection, space: int, label: tuple[str, Any], *, limit: int) -> int:
    return _count(db, "labels", "key = ? AND value = ?", [space, *label], limit)


def _count(db: sqlite3.Connection, table: str, condition: str, arguments: Sequence[Any], limit: int) -> int:
    bounded = f"SELECT 1 FROM {table} WHERE namespace_id = ? AND {condition} LIMIT ?"
    return int(db.execute(f"SELECT count(*) FROM ({bounded})", (*arguments, limit)).fetchone()[0])
