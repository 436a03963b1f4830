"""Reading a short trace with what was recorded right before and after it.

A turn of a dialogue or a single lesson says little by itself: what "it" was stands in the entry before. So what stands
out among its neighbours in time lends it a part of that, half as much with each step. Only what stands out above the
other good traces counts (else whoever has many middling neighbours would rise), and only short traces borrow: a long
one holds its own context.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tracebank.retrieval.fusion import Ranked, by_score

# So many of the best traces lend; the last of them is what the others have to stand out from.
LENDING_TRACES = 30
REACH = 3
# Beyond an hour it is another piece of work.
WITHIN_MS = 3_600_000
# The task and two more: a lesson, a few sentences. What is longer than that says what it is about.
SHORT_CHUNKS = 3
# So many of those that no index proposed are looked at: they have little of their own, and scoring them takes time.
NEW_TRACES = 20


def lent(ranking: Sequence[Ranked], near: Mapping[int, Sequence[Sequence[int]]]) -> dict[int, float]:
    """Return what neighbours lend, by row: sum over the lending of (score - floor) / 2^steps.

    `near` holds for each lending row its neighbours before and its neighbours after, nearest first.
    """
    lending = ranking[:LENDING_TRACES]
    loans: defaultdict[int, float] = defaultdict(float)
    for found in lending:
        above = found.score - lending[-1].score
        for side in near.get(found.row, ()):
            for steps, row in enumerate(side, 1):
                loans[row] += above / 2**steps
    return {row: loan for row, loan in loans.items() if loan > 0}


def lifted(ranking: Sequence[Ranked], loans: Mapping[int, float]) -> list[Ranked]:
    """Return the ranking with the loans added, best first; a score stays at most 1."""
    return by_score([replace(f, score=min(1.0, f.score + loans[f.row]), context=loans[f.row]) if f.row in loans else f for f in ranking])
