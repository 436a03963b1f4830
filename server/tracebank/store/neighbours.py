"""SQL for what was recorded right before and after a trace."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence


def of_traces(db: sqlite3.Connection, rows: Sequence[int], *, reach: int, within_ms: int) -> dict[int, tuple[list[int], list[int]]]:
    """Return for each row up to `reach` rows before and after it in its namespace, nearest first, in the order of time, then of row.

    No further away than `within_ms`.
    """
    ((found,),) = db.execute(_NEIGHBOURS, (json.dumps(list(rows)), within_ms, reach))
    return {
        row: ((with_before + before)[:reach], (with_after + after)[:reach])
        for row, with_before, before, with_after, after in json.loads(found)
    }


def _nearest(condition: str, order: str) -> str:
    return (
        "json((SELECT json_group_array(id) FROM (SELECT n.id FROM traces n "
        f"WHERE n.namespace_id = t.namespace_id AND {condition} ORDER BY {order} LIMIT ?3)))"
    )


# The same moment apart from the others: SQLite reads a comparison of (time, id) pairs as one of times, and an import gives
# all its traces one.
_NEIGHBOURS = f"""
    SELECT json_group_array(json_array(t.id,
        {_nearest("n.occurred_at_ms = t.occurred_at_ms AND n.id < t.id", "n.id DESC")},
        {_nearest("n.occurred_at_ms < t.occurred_at_ms AND n.occurred_at_ms >= t.occurred_at_ms - ?2", "n.occurred_at_ms DESC, n.id DESC")},
        {_nearest("n.occurred_at_ms = t.occurred_at_ms AND n.id > t.id", "n.id")},
        {_nearest("n.occurred_at_ms > t.occurred_at_ms AND n.occurred_at_ms <= t.occurred_at_ms + ?2", "n.occurred_at_ms, n.id")}))
    FROM json_each(?1) j CROSS JOIN traces t ON t.id = j.value
"""
