"""The day's cap on what language models may use: reserved before a call, settled after, durable in between.

Calls that begin together share a commit, and nobody waits for a settlement to be on disk: what is reserved next is
written with it or after it.

A reservation that nobody settles (a kill, a lost connection) stays spent: the provider may well have done the work. So
the cap can be reached too early, and never by a restart too late. What the provider counts counts in the end; where it
counts more than was reserved, the calls under way can pass the cap by that difference.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from tracebank.errors import LlmCapError, StoreError
from tracebank.store import Store, spending
from tracebank.store.spending import Spent

log = logging.getLogger(__name__)

NANO = 1_000_000_000
# Within this time a settlement is written, where no other call takes it along.
SETTLE_S = 0.5
# And so long after a write that failed it is tried again.
RETRY_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What a call may use at most, taken from the day it began on."""

    day: str
    spent: Spent


class Spending:
    """What all providers together have used today (UTC), and may use at most. It belongs to one event loop."""

    def __init__(self, store: Store, *, daily_tokens: int, daily_usd: float, clock: Callable[[], float]) -> None:
        self._store, self._clock = store, clock
        self._cap = Spent(tokens=daily_tokens, nano_usd=round(daily_usd * NANO))
        self._asked: list[tuple[Reservation, asyncio.Future[None]]] = []
        self._changes: dict[str, Spent] = {}
        self._writing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def _today(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).date().isoformat()

    async def reserve(self, most: Spent) -> Reservation:
        """Set aside what a call may use at most; it is on disk when this returns.

        Raises: LlmCapError where the cap does not allow it, StoreError. Then, or when cancelled, nothing stays set aside.
        """
        reservation = Reservation(day=self._today(), spent=most)
        granted = asyncio.get_running_loop().create_future()
        self._asked.append((reservation, granted))
        self._write_soon()
        try:
            await granted
        except asyncio.CancelledError:
            # Cancelled in the turn after the grant: nothing is sent for it either.
            if not granted.cancelled() and granted.exception() is None:
                self._give_back(reservation, Spent())
            raise
        return reservation

    async def settle(self, reservation: Reservation, used: Spent) -> None:
        """Replace what was set aside by what was used. It is on disk soon; a kill before that leaves too much spent."""
        self._give_back(reservation, used)

    async def settled(self) -> None:
        """Write everything down, and wait until it is."""
        if self._changes:
            self._write_soon()
        while self._writing is not None:
            await asyncio.wait([self._writing])

    async def report(self) -> dict[str, Any]:
        """Return today's figures for `stats`."""
        await self.settled()
        day = self._today()
        used = await self._store.read(partial(spending.spent, day=day))
        return {
            "day": day,
            "tokens": used.tokens,
            "daily_tokens": self._cap.tokens,
            "usd": used.nano_usd / NANO,
            "daily_usd": self._cap.nano_usd / NANO,
        }

    def _give_back(self, reservation: Reservation, used: Spent) -> None:
        kept = reservation.spent
        change = Spent(tokens=used.tokens - kept.tokens, nano_usd=used.nano_usd - kept.nano_usd)
        # The next call takes it along: a commit of its own would be one that this call has to wait for.
        self._change(reservation.day, change, within_s=SETTLE_S)

    def _change(self, day: str, change: Spent, *, within_s: float) -> None:
        before = self._changes.get(day, Spent())
        self._changes[day] = Spent(tokens=before.tokens + change.tokens, nano_usd=before.nano_usd + change.nano_usd)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(within_s, self._write_soon)

    def _write_soon(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        """Write what there is to be written, all of it at once, until there is nothing more that cannot wait."""
        try:
            while self._asked or (self._changes and self._timer is None):
                asked, self._asked = self._asked, []
                changes, self._changes = self._changes, {}
                reservations = [reservation for reservation, _ in asked]
                try:
                    refusals = await self._store.write(partial(_together, changes=changes, reservations=reservations, cap=self._cap))
                except Exception as error:
                    # What was reserved before stays spent until then, which is safe.
                    log.warning("what language models have used could not be written down: %s", error)
                    for day, change in changes.items():
                        self._change(day, change, within_s=RETRY_S)
                    refusal = error if isinstance(error, StoreError) else StoreError(f"no spending could be reserved: {error}")
                    refusals = [refusal] * len(asked)
                self._answer(asked, refusals)
        finally:
            self._writing = None

    def _answer(self, asked: Sequence[tuple[Reservation, asyncio.Future[None]]], refusals: Sequence[Exception | None]) -> None:
        for (reservation, granted), refusal in zip(asked, refusals, strict=True):
            if granted.cancelled():
                # Nothing was sent for it.
                if refusal is None:
                    self._give_back(reservation, Spent())
            elif refusal is None:
                granted.set_result(None)
            else:
                granted.set_exception(refusal)


def _together(
    db: sqlite3.Connection, *, changes: Mapping[str, Spent], reservations: Sequence[Reservation], cap: Spent
) -> list[Exception | None]:
    """Write settlements, then reservations in their order. Returns for each None, or why it was not granted."""
    for day, change in changes.items():
        spending.add(db, day, change)
    return [_reserved(db, reservation, cap) for reservation in reservations]


def _reserved(db: sqlite3.Connection, reservation: Reservation, cap: Spent) -> LlmCapError | None:
    used, most = spending.spent(db, reservation.day), reservation.spent
    if used.tokens + most.tokens > cap.tokens:
        return LlmCapError(
            f"llm.daily_tokens is {cap.tokens}, {used.tokens} are used today and this call may need {most.tokens}: "
            "raise the cap, lower max_output_tokens, or wait for tomorrow (UTC)"
        )
    if used.nano_usd + most.nano_usd > cap.nano_usd:
        return LlmCapError(
            f"llm.daily_usd is {cap.nano_usd / NANO:g}, {used.nano_usd / NANO:.4f} are spent today and this call may cost "
            f"{most.nano_usd / NANO:.4f}: raise the cap, lower max_output_tokens, or wait for tomorrow (UTC)"
        )
    spending.add(db, reservation.day, most)
    return None
