"""What was asked, how often and how lately: from that follows what will be asked again.

Each time counts one, and half as much a week later. Weights that fade at one pace keep their order, so nothing has to be
counted anew as time passes: kept is the logarithm of a weight as of the beginning of time (forward decay, Cormode,
Shkapenyuk, Srivastava and Xu, ICDE 2009).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tracebank.answering.requests import Asked
from tracebank.answering.rows import asked_of, asked_row

HALF_LIFE_MS = 7 * 86_400_000
# Of twice as many the better half is kept.
REMEMBERED = 1_000
# Who asks once may never ask again.
LIKELY_TIMES = 2
# A longer question is a task of its own, and is seldom asked again word by word.
LONGEST_CHARS = 4_000


@dataclass(frozen=True, slots=True)
class _Use:
    times: int
    weight_log2: float


class History:
    """Requests for first pages, with how much they were used."""

    def __init__(self, *, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._uses: dict[Asked, _Use] = {}

    def __len__(self) -> int:
        return len(self._uses)

    def used(self, asked: Asked) -> None:
        """Note that somebody has asked. What lies behind a first page follows it, or is not wanted."""
        if asked.place.rows or sum(map(len, asked.query.texts)) > LONGEST_CHARS:
            return
        before, now = self._uses.get(asked), self._now_ms() / HALF_LIFE_MS
        # log2(2^before + 2^now), without the powers, which no float could hold.
        weight = now if before is None else max(before.weight_log2, now) + math.log2(1 + 2 ** -abs(before.weight_log2 - now))
        self._uses[asked] = _Use(before.times + 1 if before else 1, weight)
        if len(self._uses) >= 2 * REMEMBERED:
            self._uses = {each: self._uses[each] for each in self._by_weight()[:REMEMBERED]}

    def likely(self, limit: int) -> Sequence[Asked]:
        """Return what is most likely to be asked again, the likeliest first."""
        return [asked for asked in self._by_weight() if self._uses[asked].times >= LIKELY_TIMES][:limit]

    def known(self) -> list[tuple[Asked, int]]:
        """Return all requests with how often each was made, the likeliest first."""
        return [(asked, self._uses[asked].times) for asked in self._by_weight()]

    def forget(self, matches: Callable[[Asked], bool]) -> int:
        """Forget requests. Returns how many."""
        before = len(self._uses)
        self._uses = {asked: use for asked, use in self._uses.items() if not matches(asked)}
        return before - len(self._uses)

    def rows(self) -> list[Any]:
        """Return what is to be kept on disk, the likeliest first."""
        return [[asked_row(asked), self._uses[asked].times, self._uses[asked].weight_log2] for asked in self._by_weight()[:REMEMBERED]]

    def restore(self, rows: Sequence[Any]) -> None:
        """Take over what was kept. Raises: TypeError, ValueError, KeyError."""
        self._uses = {asked_of(row): _Use(times, weight) for row, times, weight in rows} | self._uses

    def _by_weight(self) -> list[Asked]:
        return sorted(self._uses, key=lambda asked: (-self._uses[asked].weight_log2, asked.query.texts))
