"""What an episode was worth, 0 to 1, with the parts that it comes from. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from tracebank.learning.analysis import Observed
from tracebank.records import Outcome

# The outcome outweighs all else together: an elegant failure stays below a clumsy success.
WEIGHTS: Mapping[str, float] = {"outcome": 0.60, "efficiency": 0.15, "errors": 0.10, "recovery": 0.10, "novelty": 0.05}
CREDIT: Mapping[Outcome, float | None] = {Outcome.SUCCESS: 1.0, Outcome.PARTIAL: 0.5, Outcome.FAILURE: 0.0, Outcome.UNKNOWN: None}
UNKNOWN_CREDIT = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """The weighted mean of its parts, each 0 to 1."""

    value: float
    parts: Mapping[str, float]


def reward(outcome: Outcome, observed: Observed, *, like_efforts: Sequence[int], similarity: float) -> Reward:
    """Return the reward of an episode.

    Args:
        outcome: How it ended.
        observed: What its steps show.
        like_efforts: Steps and retries of earlier episodes of the like; efficiency is their median over this one's.
        similarity: That of the most similar task known before, 0 to 1; what is new teaches more.
    """
    credit = CREDIT[outcome]
    parts = {
        "outcome": UNKNOWN_CREDIT if credit is None else credit,
        "efficiency": _efficiency(observed, like_efforts),
        "errors": 1 - observed.errors / observed.steps if observed.steps else 1.0,
        "recovery": observed.recovered / observed.errors if observed.errors else 1.0,
        "novelty": 1 - min(1.0, max(0.0, similarity)),
    }
    return Reward(
        value=round(sum(WEIGHTS[name] * part for name, part in parts.items()), 4), parts={n: round(p, 4) for n, p in parts.items()}
    )


def _efficiency(observed: Observed, like_efforts: Sequence[int]) -> float:
    if not observed.effort:
        return 1.0
    # With nothing to compare with, only what was done in vain counts.
    usual = median(like_efforts) if like_efforts else observed.steps
    return min(1.0, usual / observed.effort)
