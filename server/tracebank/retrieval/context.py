"""Reading a short trace with what was recorded right before and after it.

A turn of a dialogue or a single lesson says little by itself: what "it" was stands in the entry before. So it rises
towards the best of its neighbours in time, half as far with each step. Never up to it, and never by what many middling
neighbours add up to: among entries about one subject that lie side by side, the one that answers stays first. Only what
stands out above the other good traces lends, and only short traces borrow: a long one holds its own context.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from tracebank.retrieval.fusion import Ranked, by_score

# So many of the best traces lend; the last of them is what the others have to stand out from.
LENDING_TRACES = 30
REACH = 3
# Of the way up to a neighbour: to the next one, and from there half of it with each step.
NEAREST_SHARE = 0.7
# Beyond an hour it is another piece of work.
WITHIN_MS = 3_600_000
# The task and two more: a lesson, a few sentences. What is longer than that says what it is about.
SHORT_CHUNKS = 3
# So many of those that no index proposed are looked at: they have little of their own, and scoring them takes time.
NEW_TRACES = 20

Neighbours = Mapping[int, Sequence[Sequence[int]]]


def lent(lending: Mapping[int, float], near: Neighbours, own: Mapping[int, float]) -> dict[int, float]:
    """Return what neighbours lend, by row: the most of share / 2^(steps - 1) * (lender's score - own score).

    `lending` holds the scores of those that lend, `near` for each of them its neighbours before and its neighbours after, nearest
    first, `own` the scores that are known. Whoever is below the last of the lending, or unknown, is lifted as from there.
    """
    if not lending:
        return {}
    floor = min(lending.values())
    loans: defaultdict[int, float] = defaultdict(float)
    for lender, score in lending.items():
        for side in near.get(lender, ()):
            for steps, row in enumerate(side):
                loan = NEAREST_SHARE / 2**steps * (score - max(floor, own.get(row, floor)))
                if loan > loans[row]:
                    loans[row] = loan
    return {row: loan for row, loan in loans.items() if loan > 0}


def lifted(ranking: Sequence[Ranked], near: Neighbours, borrowers: Collection[int]) -> list[Ranked]:
    """Return the ranking, best first, with what the best of it lend to the borrowers in it."""
    scores = {found.row: found.score for found in ranking}
    loans = lent({found.row: found.score for found in ranking[:LENDING_TRACES]}, near, scores)
    return by_score([_with(found, loans[found.row]) if found.row in borrowers and found.row in loans else found for found in ranking])


def _with(found: Ranked, loan: float) -> Ranked:
    return found._replace(score=found.score + loan, context=loan)
