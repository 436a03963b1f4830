"""Attempts and their drafts, each with what the judge says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tracebank.errors import TracebankError
from tracebank.records import Outcome

# From here on a draft that the judge would not use as it is counts as half of a success.
PARTIAL_SCORE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a judge says: 0 to 1, whether the draft can be used as it is, and what would have to change."""

    score: float
    satisfied: bool
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An answer. `verdict` None: nobody could be asked. `cut`: it ends where the output tokens did."""

    text: str
    verdict: Verdict | None = None
    cut: bool = False

    @property
    def worth(self) -> tuple[bool, bool, float]:
        """Return what drafts are compared by; one that was not judged comes behind those that were."""
        return (True, self.verdict.satisfied, self.verdict.score) if self.verdict else (False, False, 0.0)

    @property
    def outcome(self) -> Outcome:
        """Return how it would be remembered."""
        if self.verdict is None:
            return Outcome.UNKNOWN
        if self.verdict.satisfied:
            return Outcome.SUCCESS
        return Outcome.PARTIAL if self.verdict.score >= PARTIAL_SCORE else Outcome.FAILURE


@dataclass(slots=True)
class Attempt:
    """A line of drafts, each made from the best before it. `error` is what ended it early."""

    number: int
    drafts: list[Draft] = field(default_factory=list)
    error: TracebankError | None = None

    @property
    def best(self) -> Draft:
        """Return the best draft, of equals the latest. There must be one."""
        return max(reversed(self.drafts), key=lambda draft: draft.worth)


def best_of(attempts: Sequence[Attempt], preferred: int | None = None) -> Draft:
    """Return the best draft of all attempts that have one.

    Side by side more is seen than one by one: `preferred`, the number of an attempt, wins among those that the judge
    was equally content with.
    """
    ranked = sorted((a for a in attempts if a.drafts), key=lambda a: (*(-part for part in a.best.worth), a.number))
    finalists = [a for a in ranked if a.best.worth[:2] == ranked[0].best.worth[:2]]
    return next((a for a in finalists if a.number == preferred), ranked[0]).best
