"""SQL for what tells a store from all others, and from copies of itself that are older."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple


class Identity(NamedTuple):
    """A number by chance, in hexadecimal, and the last one that the outbox has given out: that never goes back."""

    store: str
    last_seq: int


def identity(db: sqlite3.Connection) -> Identity:
    """Return which store this is, as of now."""
    query = "SELECT hex(id), coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'outbox'), 0) FROM identity"
    return Identity(*db.execute(query).fetchone())


def renew(db: sqlite3.Connection) -> Identity:
    """Make this store another one than those that it is a copy of, or that are copies of it."""
    db.execute("UPDATE identity SET id = randomblob(16)")
    return identity(db)
