"""SQL for lessons that belong together. Groups refer to lessons and never change them; they go when the lessons do."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from tracebank.records import Lesson, Outcome

GroupKind = Literal["equal", "contrary"]
LessonKey = tuple[int, int]  # (row of the trace, ordinal of the lesson)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownLesson:
    """A lesson and where it comes from; the vectors [dim] are those of its first chunk and of its task's, where there are any."""

    key: LessonKey
    trace_id: str
    outcome: Outcome
    lesson: Lesson
    vector: NDArray[np.float32] | None = field(default=None, compare=False)
    task_vector: NDArray[np.float32] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Lessons of several traces that say the same, or the contrary in the same situation."""

    number: int
    kind: GroupKind
    members: tuple[KnownLesson, ...]


_FIRST_VECTOR = (
    "(SELECT e.vector FROM chunks c JOIN embeddings e ON e.model = :model AND e.text_hash = c.text_hash "
    "WHERE c.trace = l.trace AND c.part = '{part}' AND c.item = {item} ORDER BY c.ordinal LIMIT 1)"
)


def newest(db: sqlite3.Connection, space: int, *, model: int | None, limit: int) -> list[KnownLesson]:
    """Return the newest lessons of a namespace with their vectors, oldest first."""
    lesson_vector, task_vector = _FIRST_VECTOR.format(part="lesson", item="l.ordinal"), _FIRST_VECTOR.format(part="task", item="0")
    found = db.execute(
        f"SELECT l.trace, l.ordinal, t.trace_id, t.outcome, l.title, l.description, l.content, {lesson_vector}, {task_vector} "
        "FROM lessons l JOIN traces t ON t.id = l.trace WHERE t.namespace_id = :space ORDER BY l.trace DESC, l.ordinal LIMIT :limit",
        {"model": model, "space": space, "limit": limit},
    )
    return [
        KnownLesson(
            key=(row, ordinal), trace_id=trace_id, outcome=Outcome(outcome),
            lesson=Lesson(title=title, description=description, content=content), vector=_vector(own), task_vector=_vector(of_task),
        )
        for row, ordinal, trace_id, outcome, title, description, content, own, of_task in reversed(found.fetchall())
    ]  # fmt: skip


def _vector(raw: bytes | None) -> NDArray[np.float32] | None:
    return None if raw is None else np.frombuffer(raw, np.float16).astype(np.float32)


def replace(
    db: sqlite3.Connection,
    space: int,
    groups: Sequence[tuple[GroupKind, Sequence[LessonKey]]],
    *,
    among: Collection[LessonKey],
    now_ms: int,
) -> None:
    """Make these the groups `among` the lessons of a namespace that were looked at, except what somebody has undone.

    A lesson that was not looked at stays with its like. Groups that are there already stay: one made anew would make every kept answer
    of the namespace unusable.
    """
    undone, present = list(_members(db, space, undone=True).values()), _members(db, space, undone=False)
    older = [(kind, members) for kind, members in present.values() if len(members) > 1 and not members <= set(among)]
    found = [(kind, set(members)) for kind, members in groups]
    joined = [(kind, set(members)) for kind, members in groups]
    left: list[tuple[str, set[LessonKey]]] = []
    for kind, members in older:
        shared = [len(seen & members) if other == kind == "equal" else 0 for other, seen in found]
        if any(shared):
            # Those that most of their like belong to.
            joined[shared.index(max(shared))][1].update(members - set(among))
        else:
            left.append((kind, members))
    again = [(kind, members) for kind, members in joined if not any(kind == other and members <= before for other, before in undone)]
    wanted = {(kind, frozenset(members)) for kind, members in (*again, *left)}
    known = {(kind, frozenset(members)): number for number, (kind, members) in present.items()}
    gone = present.keys() - {known[group] for group in wanted & known.keys()}
    db.executemany("DELETE FROM lesson_groups WHERE id = ?", [(number,) for number in gone])
    for new_kind, new_members in sorted((kind, sorted(members)) for kind, members in wanted - known.keys()):
        _make(db, space, new_kind, new_members, now_ms)


def _members(db: sqlite3.Connection, space: int, *, undone: bool) -> dict[int, tuple[str, set[LessonKey]]]:
    """Return kind and lessons of the groups that are in force, or of those that were undone, by number."""
    found: dict[int, tuple[str, set[LessonKey]]] = {}
    for number, kind, row, ordinal in db.execute(
        "SELECT g.id, g.kind, m.trace, m.ordinal FROM lesson_groups g LEFT JOIN grouped_lessons m ON m.lesson_group = g.id "
        "WHERE g.namespace_id = ? AND (g.undone_at_ms IS NOT NULL) = ?",
        (space, undone),
    ):
        members = found.setdefault(number, (kind, set()))[1]
        if row is not None:
            members.add((row, ordinal))
    return found


def _make(db: sqlite3.Connection, space: int, kind: str, members: Sequence[LessonKey], now_ms: int) -> None:
    cursor = db.execute("INSERT INTO lesson_groups (namespace_id, kind, made_at_ms) VALUES (?, ?, ?)", (space, kind, now_ms))
    db.executemany(
        "INSERT INTO grouped_lessons SELECT ?, trace, ordinal FROM lessons WHERE trace = ? AND ordinal = ?",
        [(cursor.lastrowid, *key) for key in members],
    )


def undo(db: sqlite3.Connection, *, now_ms: int) -> int:
    """Take all groups back; they are not made again. Returns how many there were."""
    return db.execute("UPDATE lesson_groups SET undone_at_ms = ? WHERE undone_at_ms IS NULL", (now_ms,)).rowcount


def of_traces(db: sqlite3.Connection, rows: Sequence[int]) -> list[Group]:
    """Return the groups that a lesson of these traces belongs to, and that still have at least two lessons."""
    return _groups(
        db,
        "AND g.id IN (SELECT lesson_group FROM grouped_lessons WHERE trace IN (SELECT value FROM json_each(?)))",
        (json.dumps(list(rows)),),
    )


def every(db: sqlite3.Connection) -> list[Group]:
    """Return all groups that are in force."""
    return _groups(db, "", ())


def _groups(db: sqlite3.Connection, where: str, arguments: tuple[str, ...]) -> list[Group]:
    found: dict[int, tuple[str, list[KnownLesson]]] = {}
    for number, kind, row, ordinal, trace_id, outcome, title, description, content in db.execute(
        "SELECT g.id, g.kind, m.trace, m.ordinal, t.trace_id, t.outcome, l.title, l.description, l.content FROM lesson_groups g "
        "CROSS JOIN grouped_lessons m ON m.lesson_group = g.id JOIN lessons l ON l.trace = m.trace AND l.ordinal = m.ordinal "
        f"JOIN traces t ON t.id = m.trace WHERE g.undone_at_ms IS NULL {where} ORDER BY g.id, m.trace, m.ordinal",
        arguments,
    ):
        lesson = Lesson(title=title, description=description, content=content)
        member = KnownLesson(key=(row, ordinal), trace_id=trace_id, outcome=Outcome(outcome), lesson=lesson)
        found.setdefault(number, (kind, []))[1].append(member)
    return [Group(number=n, kind=cast(GroupKind, kind), members=tuple(members)) for n, (kind, members) in found.items() if len(members) > 1]


def counts(db: sqlite3.Connection) -> Mapping[str, int]:
    """Return how many groups of each kind are in force."""
    return dict(db.execute("SELECT kind, count(*) FROM lesson_groups WHERE undone_at_ms IS NULL GROUP BY kind ORDER BY kind").fetchall())
