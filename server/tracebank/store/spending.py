"""What language models have used, by day. A reservation counts as spent until it is settled, so a kill never under-counts."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Tokens in and out, and their price in billionths of a US dollar."""

    tokens: int = 0
    nano_usd: int = 0


def spent(db: sqlite3.Connection, day: str) -> Spent:
    """Return what a day has used so far, reservations included."""
    row = db.execute("SELECT tokens, nano_usd FROM llm_spending WHERE day = ?", (day,)).fetchone()
    return Spent(tokens=row[0], nano_usd=row[1]) if row else Spent()


def add(db: sqlite3.Connection, day: str, change: Spent) -> None:
    """Add to what a day has used; a negative change gives back what was reserved."""
    db.execute(
        "INSERT INTO llm_spending (day, tokens, nano_usd) VALUES (?, ?, ?) "
        "ON CONFLICT (day) DO UPDATE SET tokens = tokens + excluded.tokens, nano_usd = nano_usd + excluded.nano_usd",
        (day, change.tokens, change.nano_usd),
    )
