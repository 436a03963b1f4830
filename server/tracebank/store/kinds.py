"""SQL for kinds of episodes: which ones are nearly the same. A kind is known by its example, and goes with it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracebank.records import Outcome

_TASK_VECTOR = (
    "(SELECT e.vector FROM chunks c JOIN embeddings e ON e.model = :model AND e.text_hash = c.text_hash "
    "WHERE c.trace = {trace} AND c.part = 'task' ORDER BY c.ordinal LIMIT 1)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A row with the vector [dim] of its task: that of an episode's trace, or that of a kind for its example's."""

    row: int
    vector: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of episodes: the task of its example, how its episodes ended, and their steps and retries."""

    number: int
    task: str
    outcomes: tuple[Outcome, ...]
    efforts: tuple[int, ...]


def unsorted(db: sqlite3.Connection, space: int, *, model: int, limit: int) -> list[Example]:
    """Return the newest complete episodes of a namespace that are of no kind yet, oldest first, by the row of their trace."""
    found = db.execute(
        f"SELECT e.trace, {_TASK_VECTOR.format(trace='e.trace')} AS vector FROM episodes e LEFT JOIN kind_episodes k ON k.trace = e.trace "
        "WHERE e.namespace_id = :space AND e.trace IS NOT NULL AND k.kind IS NULL AND vector IS NOT NULL "
        "ORDER BY e.trace DESC LIMIT :limit",
        {"model": model, "space": space, "limit": limit},
    )
    return [_example(*row) for row in reversed(found.fetchall())]


def examples(db: sqlite3.Connection, space: int, *, model: int) -> list[Example]:
    """Return the kinds of a namespace, each with its example's vector."""
    found = db.execute(
        f"SELECT k.id, {_TASK_VECTOR.format(trace='k.example')} AS vector FROM kinds k "
        "WHERE k.namespace_id = :space AND vector IS NOT NULL ORDER BY k.id",
        {"model": model, "space": space},
    )
    return [_example(*row) for row in found]


def _example(row: int, vector: bytes) -> Example:
    return Example(row=row, vector=np.frombuffer(vector, np.float16).astype(np.float32))


def join(db: sqlite3.Connection, joined: Mapping[int, int]) -> None:
    """Let episodes join kinds, by the rows of their traces; what is gone by now is left out."""
    db.executemany(
        "INSERT OR IGNORE INTO kind_episodes SELECT t.id, k.id FROM traces t, kinds k WHERE t.id = ? AND k.id = ?", list(joined.items())
    )


def found(db: sqlite3.Connection, space: int, example: int, members: Sequence[int]) -> None:
    """Begin a kind with these episodes, one of which is its example."""
    cursor = db.execute("INSERT INTO kinds (namespace_id, example) SELECT ?, id FROM traces WHERE id = ?", (space, example))
    if cursor.rowcount:
        assert cursor.lastrowid is not None
        join(db, dict.fromkeys(members, cursor.lastrowid))


def of_traces(db: sqlite3.Connection, rows: Sequence[int]) -> dict[int, Kind]:
    """Return the kinds that these traces are of, by row."""
    members = dict(
        db.execute(
            "SELECT trace, kind FROM kind_episodes WHERE trace IN (SELECT value FROM json_each(?))", (json.dumps(list(rows)),)
        ).fetchall()
    )
    kinds = {number: _kind(db, number) for number in set(members.values())}
    return {row: kinds[number] for row, number in members.items()}


def largest(db: sqlite3.Connection, limit: int) -> list[Kind]:
    """Return the kinds with the most episodes, in all namespaces."""
    numbers = db.execute("SELECT kind FROM kind_episodes GROUP BY kind ORDER BY count(*) DESC, kind LIMIT ?", (limit,)).fetchall()
    return [_kind(db, number) for (number,) in numbers]


def _kind(db: sqlite3.Connection, number: int) -> Kind:
    (task,) = db.execute("SELECT t.task FROM kinds k JOIN traces t ON t.id = k.example WHERE k.id = ?", (number,)).fetchone()
    episodes = db.execute(
        "SELECT t.outcome, e.effort FROM kind_episodes m JOIN traces t ON t.id = m.trace JOIN episodes e ON e.trace = m.trace "
        "WHERE m.kind = ? ORDER BY m.trace",
        (number,),
    ).fetchall()
    return Kind(
        number=number,
        task=task,
        outcomes=tuple(Outcome(outcome) for outcome, _ in episodes),
        efforts=tuple(effort for _, effort in episodes if effort),
    )


def counts(db: sqlite3.Connection) -> dict[str, int]:
    """Return how many kinds there are, and how many episodes are of one."""
    kinds, episodes = db.execute("SELECT (SELECT count(*) FROM kinds), (SELECT count(*) FROM kind_episodes)").fetchone()
    return {"kinds": int(kinds), "episodes": int(episodes)}
