"""SQL for patterns: what was seen in several episodes, counted by triggers as evidence comes and goes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

Kind = Literal["sequence", "recovery", "decision"]


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class PatternKey:
    """What makes two observations the same pattern: in this context, this was chosen."""

    kind: Kind
    context: str
    choice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """A pattern and its counts: `credit` of the `judged` episodes among the `seen` ones (success 1, partial ½, failure 0)."""

    key: PatternKey
    seen: int
    judged: int
    credit: float

    @property
    def rate(self) -> float:
        """Return the success rate of the judged episodes; 0 where there is none."""
        return self.credit / self.judged if self.judged else 0.0


_COLUMNS = "p.kind, p.context, p.choice, p.seen, p.judged, p.credit"


def add(db: sqlite3.Connection, space: int, keys: Iterable[PatternKey], *, trace: int, credit: float | None) -> None:
    """Count the patterns of one episode, each once, in place of those counted of it before. `credit` None: nobody knows how it ended."""
    db.execute("DELETE FROM pattern_evidence WHERE trace = ?", (trace,))
    for key in sorted(set(keys)):
        db.execute("INSERT OR IGNORE INTO patterns (namespace_id, kind, context, choice) VALUES (?, ?, ?, ?)", (space, *_parts(key)))
        db.execute(
            "INSERT OR IGNORE INTO pattern_evidence SELECT id, ?, ? FROM patterns "
            "WHERE namespace_id = ? AND kind = ? AND context = ? AND choice = ?",
            (trace, credit, space, *_parts(key)),
        )


def _parts(key: PatternKey) -> tuple[str, str, str]:
    return key.kind, key.context, key.choice


def of_traces(db: sqlite3.Connection, rows: Sequence[int], *, min_seen: int) -> list[Pattern]:
    """Return the patterns that these traces are evidence of and that were seen in so many episodes, with their rivals.

    A rival is another choice at the same decision: it belongs to the comparison, whoever made it and however seldom.
    """
    found = db.execute(
        f"SELECT DISTINCT {_COLUMNS} FROM pattern_evidence v CROSS JOIN patterns o ON o.id = v.pattern "
        "CROSS JOIN patterns p ON p.namespace_id = o.namespace_id AND p.kind = o.kind AND p.context = o.context "
        "WHERE v.trace IN (SELECT value FROM json_each(?)) AND (p.id = o.id OR p.kind = 'decision') AND o.seen >= ?",
        (json.dumps(list(rows)), min_seen),
    )
    return [_pattern(row) for row in found]


def _pattern(row: tuple[str, str, str, int, int, float]) -> Pattern:
    kind, context, choice, seen, judged, credit = row
    return Pattern(key=PatternKey(kind=cast(Kind, kind), context=context, choice=choice), seen=seen, judged=judged, credit=credit)


def counts(db: sqlite3.Connection) -> dict[str, int]:
    """Return how many patterns there are of each kind."""
    return dict(db.execute("SELECT kind, count(*) FROM patterns GROUP BY kind ORDER BY kind").fetchall())
