"""From what memories were worth to a prior for ranking them.

The evidence on a memory is a Beta posterior: Beta(1, 1) when nothing is known, then each event adds its weight to one
side, halved with every half-life that has passed. Its mean moves the score by at most `SPREAD`: a memory that helped is
preferred among those that fit about as well, and none is lifted over one that fits much better, or ever lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tracebank.retrieval.fusion import Ranked, by_score
from tracebank.store.feedback import Evidence

SPREAD = 0.1
DAY_MS = 24 * 3_600_000
# What an agent says counts whole. That an episode succeeded after reading a memory says little about that one.
SAID_WEIGHT, USED_WEIGHT = 1.0, 0.2


def posterior(evidence: Iterable[Evidence], *, now_ms: int, half_life_days: float) -> tuple[float, float]:
    """Return alpha and beta of the Beta distribution of "this memory helps"."""
    alpha = beta = 1.0
    for event in evidence:
        weight = event.weight * 0.5 ** (max(0, now_ms - event.at_ms) / DAY_MS / half_life_days)
        alpha, beta = (alpha + weight, beta) if event.helpful else (alpha, beta + weight)
    return alpha, beta


def prior(alpha: float, beta: float) -> float:
    """Return what a score is multiplied by: 1.0 exactly where alpha and beta are equal, else within `SPREAD` of it."""
    return 1.0 + SPREAD * (alpha - beta) / (alpha + beta)


def weigh(ranking: Sequence[Ranked], priors: Mapping[int, float]) -> tuple[Ranked, ...]:
    """Return the ranking with each score multiplied by its trace's prior, best first; unknown traces keep theirs."""
    if not priors:
        return tuple(ranking)
    return tuple(by_score([r.scored(min(1.0, r.score * priors[r.row])) if r.row in priors else r for r in ranking]))
