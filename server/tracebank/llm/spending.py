"""The day's cap on what language models may use: reserved before a call, settled after, durable in between.

A reservation that nobody settles (a kill, a lost connection) stays spent: the provider may well have done the work. So
the cap can be reached too early, and never by a restart too late. What the provider counts counts in the end; where it
counts more than was reserved, the calls under way can pass the cap by that difference.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from tracebank.errors import LlmCapError
from tracebank.store import Store, spending
from tracebank.store.spending import Spent

NANO = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What a call may use at most, taken from the day it began on."""

    day: str
    spent: Spent


class Spending:
    """What all providers together have used today (UTC), and may use at most."""

    def __init__(self, store: Store, *, daily_tokens: int, daily_usd: float, clock: Callable[[], float]) -> None:
        self._store, self._clock = store, clock
        self._cap = Spent(tokens=daily_tokens, nano_usd=round(daily_usd * NANO))

    def _today(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).date().isoformat()

    async def reserve(self, most: Spent) -> Reservation:
        """Set aside what a call may use at most; it is on disk when this returns.

        Raises: LlmCapError where the cap does not allow it, StoreError. Then nothing was set aside.
        """
        day = self._today()
        await self._store.write(partial(_reserve, day=day, most=most, cap=self._cap))
        return Reservation(day=day, spent=most)

    async def settle(self, reservation: Reservation, used: Spent) -> None:
        """Replace what was set aside by what was used. Raises: StoreError."""
        kept = reservation.spent
        change = Spent(tokens=used.tokens - kept.tokens, nano_usd=used.nano_usd - kept.nano_usd)
        await self._store.write(partial(spending.add, day=reservation.day, change=change))

    async def report(self) -> dict[str, Any]:
        """Return today's figures for `stats`."""
        day = self._today()
        used = await self._store.read(partial(spending.spent, day=day))
        return {
            "day": day,
            "tokens": used.tokens,
            "daily_tokens": self._cap.tokens,
            "usd": used.nano_usd / NANO,
            "daily_usd": self._cap.nano_usd / NANO,
        }


def _reserve(db: sqlite3.Connection, *, day: str, most: Spent, cap: Spent) -> None:
    used = spending.spent(db, day)
    if used.tokens + most.tokens > cap.tokens:
        raise LlmCapError(
            f"llm.daily_tokens is {cap.tokens}, {used.tokens} are used today and this call may need {most.tokens}: "
            "raise the cap, lower max_output_tokens, or wait for tomorrow (UTC)"
        )
    if used.nano_usd + most.nano_usd > cap.nano_usd:
        raise LlmCapError(
            f"llm.daily_usd is {cap.nano_usd / NANO:g}, {used.nano_usd / NANO:.4f} are spent today and this call may cost "
            f"{most.nano_usd / NANO:.4f}: raise the cap, lower max_output_tokens, or wait for tomorrow (UTC)"
        )
    spending.add(db, day, most)
