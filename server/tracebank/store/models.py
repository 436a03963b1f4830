"""SQL for models: which one's vectors answer (`serving`), and which one's are being made to take their place (`next`)."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Model:
    """A model whose vectors the store knows. `settings` is the JSON of how it was loaded last."""

    id: int
    name: str
    settings: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to open: the model that answers, and the one that shall."""

    serving: Model
    next: Model | None


def plan(db: sqlite3.Connection, name: str, settings: str, *, clean: Callable[[Model], None] = lambda model: None) -> Plan:
    """Return what to open when the model of this name is wanted; what was begun for another than it is dropped.

    `clean(model)` is called before a change to it is begun: an index that is left of an earlier one lacks what came since.
    """
    wanted = _known(db, name, settings)
    present = _with_role(db, "serving")
    if present is None or present.id == wanted.id:
        serve(db, wanted.id)
        return Plan(wanted, None)
    if (begun := _with_role(db, "next")) is None or begun.id != wanted.id:
        drop_next(db)
        clean(wanted)
        db.execute("UPDATE models SET role = 'next' WHERE id = ?", (wanted.id,))
    return Plan(present, wanted)


def serve(db: sqlite3.Connection, model: int) -> None:
    """Let a model's vectors answer. What was still to be done for them is to be done for the sink `vectors` now."""
    if _with_role(db, "next") == (chosen := _by_id(db, model)):
        db.execute("DELETE FROM outbox WHERE sink = 'vectors'")
        db.execute("UPDATE outbox SET sink = 'vectors' WHERE sink = 'vectors_next'")
    drop_next(db)
    db.execute("UPDATE models SET role = CASE WHEN id = ? THEN 'serving' END", (chosen.id,))


def serving(db: sqlite3.Connection) -> Model:
    """Return the model whose vectors answer."""
    found = _with_role(db, "serving")
    assert found is not None
    return found


def drop_next(db: sqlite3.Connection) -> None:
    """Give up what was begun for another model. Its vectors stay, for the next time."""
    db.execute("UPDATE models SET role = NULL WHERE role = 'next'")
    db.execute("DELETE FROM outbox WHERE sink = 'vectors_next'")


def token_probe(db: sqlite3.Connection, model: int) -> bytes | None:
    """Return what a model said of the tokens of a known text when those that are kept were made."""
    found: bytes | None = db.execute("SELECT token_probe FROM models WHERE id = ?", (model,)).fetchone()[0]
    return found


def set_token_probe(db: sqlite3.Connection, model: int, codes: bytes | None) -> None:
    """Say what it says of them now; None: what is kept is of different directions, or not all there."""
    db.execute("UPDATE models SET token_probe = ? WHERE id = ?", (codes, model))


def _known(db: sqlite3.Connection, name: str, settings: str) -> Model:
    query = "INSERT INTO models (name, settings) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET settings = ?2 RETURNING id"
    return Model(int(db.execute(query, (name, settings)).fetchone()[0]), name, settings)


def _by_id(db: sqlite3.Connection, model: int) -> Model:
    return Model(*db.execute("SELECT id, name, settings FROM models WHERE id = ?", (model,)).fetchone())


def _with_role(db: sqlite3.Connection, role: str) -> Model | None:
    found = db.execute("SELECT id, name, settings FROM models WHERE role = ?", (role,)).fetchone()
    return Model(*found) if found else None
