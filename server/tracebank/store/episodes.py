"""SQL for episodes and the steps of open ones. Functions of a connection; transactions are the caller's."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tracebank.steps import Step
from tracebank.store import traces

# What stands between the parts of a step in the transcript of its episode, at most.
MARKUP_BYTES = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """Some steps of one episode, as they were acknowledged together. `first` is the ordinal of the first of them."""

    episode_id: str
    namespace: str
    task: str
    started_at_ms: int
    at_ms: int
    first: int
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenEpisode:
    """An episode that its agent has not ended, as the store knows it."""

    episode_id: str
    namespace: str
    task: str
    started_at_ms: int
    updated_at_ms: int
    steps: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """What is kept of an episode beside its trace: `effort` is its steps and retries, `result` the answer to its agent.

    `keep_steps`: where its agent has not ended it, and may still do so.
    """

    episode_id: str
    effort: int
    result: dict[str, Any]
    keep_steps: bool = False


def put(db: sqlite3.Connection, records: Iterable[StepRecord]) -> None:
    """Store steps. Doing it again changes nothing; steps of an episode that is complete are in its trace already."""
    for record in records:
        episode = _open_row(db, record)
        if episode is not None:
            db.executemany(
                "INSERT OR REPLACE INTO steps VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(episode, i, s.action, s.observation, s.thought, s.ok, s.duration_ms) for i, s in enumerate(record.steps, record.first)],
            )


def _open_row(db: sqlite3.Connection, record: StepRecord) -> int | None:
    found = db.execute("SELECT id, trace FROM episodes WHERE episode_id = ?", (record.episode_id,)).fetchone()
    if found is None:
        space = traces.namespace_id(db, record.namespace)
        cursor = db.execute(
            "INSERT INTO episodes (episode_id, namespace_id, task, started_at_ms, updated_at_ms) VALUES (?, ?, ?, ?, ?)",
            (record.episode_id, space, record.task, record.started_at_ms, record.at_ms),
        )
        return int(cursor.lastrowid or 0)
    if found[1] is not None:
        return None
    db.execute("UPDATE episodes SET updated_at_ms = max(updated_at_ms, ?) WHERE id = ?", (record.at_ms, found[0]))
    return int(found[0])


_STEP_BYTES = " + ".join([*(f"length(CAST(s.{part} AS BLOB))" for part in ("action", "observation", "thought")), str(MARKUP_BYTES)])


def open_episodes(db: sqlite3.Connection) -> list[OpenEpisode]:
    """Return the open episodes, oldest first."""
    return _episodes(db, "e.trace IS NULL")


def tagged(db: sqlite3.Connection, episode_id: str, tag: str) -> tuple[OpenEpisode, int] | None:
    """Return an episode that is closed, and the row of its trace, where that has a tag; None where there is no such episode."""
    found = db.execute(
        "SELECT e.trace FROM episodes e JOIN tags g ON g.trace = e.trace WHERE e.episode_id = ? AND g.tag = ?", (episode_id, tag)
    ).fetchone()
    return (_episodes(db, "e.episode_id = ?", episode_id)[0], int(found[0])) if found else None


def _episodes(db: sqlite3.Connection, where: str, *arguments: str) -> list[OpenEpisode]:
    found = db.execute(
        "SELECT e.episode_id, n.name, e.task, e.started_at_ms, e.updated_at_ms, coalesce(max(s.ordinal) + 1, 0), "
        f"coalesce(sum({_STEP_BYTES}), 0) "
        "FROM episodes e JOIN namespaces n ON n.id = e.namespace_id LEFT JOIN steps s ON s.episode = e.id "
        f"WHERE {where} GROUP BY e.id ORDER BY e.id",
        arguments,
    )
    return [
        OpenEpisode(episode_id=i, namespace=n, task=t, started_at_ms=a, updated_at_ms=u, steps=count, bytes=size)
        for i, n, t, a, u, count, size in found
    ]


def steps_of(db: sqlite3.Connection, episode_id: str) -> list[Step]:
    """Return the steps of an episode that its agent has not ended, in order."""
    found = db.execute(
        "SELECT action, observation, thought, ok, duration_ms FROM steps "
        "WHERE episode = (SELECT id FROM episodes WHERE episode_id = ?) ORDER BY ordinal",
        (episode_id,),
    )
    return [
        Step(action=a, observation=o, thought=t, ok=None if ok is None else bool(ok), duration_ms=duration_ms)
        for a, o, t, ok, duration_ms in found
    ]


def close(db: sqlite3.Connection, closing: Closing, trace: int) -> None:
    """Mark an episode as complete, in the transaction that stores its trace."""
    if not closing.keep_steps:
        db.execute("DELETE FROM steps WHERE episode = (SELECT id FROM episodes WHERE episode_id = ?)", (closing.episode_id,))
    db.execute(
        "UPDATE episodes SET trace = ?, effort = ?, result = ? WHERE episode_id = ?",
        (trace, closing.effort, json.dumps(closing.result, ensure_ascii=False), closing.episode_id),
    )


def result_of(db: sqlite3.Connection, episode_id: str) -> dict[str, Any] | None:
    """Return the answer that a complete episode was given; None where there is no such episode."""
    found = db.execute("SELECT result FROM episodes WHERE episode_id = ? AND trace IS NOT NULL", (episode_id,)).fetchone()
    return dict(json.loads(found[0])) if found else None


def outcome_of(db: sqlite3.Connection, episode_id: str) -> str | None:
    """Return the outcome of a complete episode's trace; None where there is no such episode."""
    found = db.execute("SELECT t.outcome FROM episodes e JOIN traces t ON t.id = e.trace WHERE e.episode_id = ?", (episode_id,)).fetchone()
    return str(found[0]) if found else None


def drop(db: sqlite3.Connection, episode_id: str) -> None:
    """Delete an open episode with its steps."""
    db.execute("DELETE FROM steps WHERE episode = (SELECT id FROM episodes WHERE episode_id = ?)", (episode_id,))
    db.execute("DELETE FROM episodes WHERE episode_id = ? AND trace IS NULL", (episode_id,))


def efforts(db: sqlite3.Connection, rows: Sequence[int]) -> dict[int, int]:
    """Return steps and retries of the complete episodes among these traces that had steps, by row of the trace."""
    found = db.execute(
        "SELECT trace, effort FROM episodes WHERE trace IN (SELECT value FROM json_each(?)) AND effort > 0",
        (json.dumps(list(rows)),),
    )
    return dict(found.fetchall())


def counts(db: sqlite3.Connection) -> dict[str, int]:
    """Return how many episodes are open and complete."""
    opened, complete = db.execute("SELECT count(*) FILTER (WHERE trace IS NULL), count(trace) FROM episodes").fetchone()
    return {"open": int(opened), "complete": int(complete)}
