"""From how old a memory is to a prior for ranking it: of two that fit alike, the newer one.

What was done later knew more: names have changed, versions have moved on. The prior falls from 1 towards 1 - `SPREAD` and is
half way after each half-life. Ages are counted from the newest of those found, so that what nobody has added to for years is
ranked as on its last day, and an answer does not depend on when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping

from tracebank.learning.feedback import DAY_MS

# Twice as much moved what is found in a dialogue with its dates by .0017 (nDCG@10): more than telling equals apart may cost.
SPREAD = 0.01


def priors(occurred_at_ms: Mapping[int, int], *, half_life_days: float) -> dict[int, float]:
    """Return by row what a score is multiplied by: 1.0 for the newest, never less than 1 - `SPREAD`."""
    newest_ms = max(occurred_at_ms.values(), default=0)
    return {row: prior((newest_ms - at_ms) / DAY_MS, half_life_days=half_life_days) for row, at_ms in occurred_at_ms.items()}


def prior(age_days: float, *, half_life_days: float) -> float:
    """Return what a score is multiplied by at an age."""
    return 1.0 - SPREAD * (1.0 - float(0.5 ** (age_days / half_life_days)))
