"""Which memories' lessons are told: those of memories that fit the question themselves.

A passage is evidence and a reader judges it; a lesson is advice and is followed, so one from another kind of task misleads.
What stands beside a good memory in time is shown for its passages, and has its place on the page on loan: its lessons are
told only where its own match is at least half as good as the best one's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tracebank.retrieval.fusion import Ranked

FITTING_SHARE = 0.5


def unfitting(shown: Iterable[Ranked], ranking: Sequence[Ranked]) -> frozenset[int]:
    """Return the rows of those shown whose lessons are left out, by what else was found for the same question."""
    least = FITTING_SHARE * max((own_score(ranked) for ranked in ranking), default=0.0)
    return frozenset(ranked.row for ranked in shown if own_score(ranked) < least)


def own_score(ranked: Ranked) -> float:
    """Return a score without what neighbours in time lent to it."""
    return ranked.score - ranked.context
