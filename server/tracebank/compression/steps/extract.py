"""Extraction: keep the units that matter most, whole and in their order, and mark what is left out."""

from __future__ import annotations

from tracebank.compression.draft import Cut, Draft, Goal
from tracebank.compression.extract.choosing import Choice
from tracebank.compression.extract.ends import first_instructions, last_request
from tracebank.compression.extract.outline import Outline
from tracebank.compression.extract.relevance import SHARPNESS as RELEVANCE_SHARPNESS
from tracebank.compression.extract.relevance import relevance
from tracebank.compression.extract.rendering import Rendered, rendered
from tracebank.compression.extract.salience import SHARPNESS as SALIENCE_SHARPNESS
from tracebank.compression.extract.salience import salience
from tracebank.compression.extract.words import Scores
from tracebank.compression.segments import located, touching

_ROUNDS = 4
_NEAR_ENOUGH = 0.02
# Where whole units fill less of the budget than this, nobody asked and more is to be said, a cut of the middle says more.
_LEAST_FILLED = 0.7


def extracted(draft: Draft, goal: Goal) -> Cut | None:
    """Return the best units that fit, with their frames, or None where whole units do not fit well."""
    outline = Outline.of(draft.text, goal.tokenizer, located(draft.text, goal.protected) or ())
    best = _best(outline, goal, _worth(outline, draft, goal))
    if best is None or located(best.text, goal.protected) is None:
        return None
    return Cut(text=best.text, gaps=best.gaps)


def _worth(outline: Outline, draft: Draft, goal: Goal) -> Scores:
    """Return float64 [len(outline.leaves)], above 0."""
    if goal.query:
        share = goal.budget_tokens / max(1, draft.tokens)
        scores = relevance(outline, goal.query, kept_share=share, meaning=goal.meaning) ** RELEVANCE_SHARPNESS
    else:
        scores = salience(outline) ** SALIENCE_SHARPNESS
    worth: Scores = scores + 1e-9
    return worth


def _best(outline: Outline, goal: Goal, worth: Scores) -> Rendered | None:
    choice = _with_what_must_stay(outline, goal, worth)
    must = len(choice.order)
    best: Rendered | None = None
    best_tokens = 0
    for _ in range(_ROUNDS):
        choice.fill()
        attempt, tokens = _within(choice, goal, must)
        if attempt is not None and tokens > best_tokens:
            best, best_tokens = attempt, tokens
        room = goal.budget_tokens - tokens
        if attempt is None or room <= goal.budget_tokens * _NEAR_ENOUGH or choice.says_all():
            break
        # Tokens merge at the joints, so there is more room than the sum of the units says.
        choice.budget_tokens = choice.spent_tokens + room
    enough = best_tokens >= _LEAST_FILLED * goal.budget_tokens or goal.query or choice.says_all()
    return best if enough else None


def _with_what_must_stay(outline: Outline, goal: Goal, worth: Scores) -> Choice:
    """Return a choice of what is protected, then of the instructions and the request at the ends."""
    choice = Choice(outline, list(worth), goal.budget_tokens, goal.tokenizer.count(goal.mark(1)))
    for position in _protected(outline, goal):
        choice.take(position, framed=choice.fits(position))
    ends = first_instructions(outline, int(goal.head_share * goal.budget_tokens))
    ends += last_request(outline, int(goal.tail_share * goal.budget_tokens))
    for position in ends:
        if position not in choice.chosen and choice.fits(position):
            choice.take(position)
    return choice


def _protected(outline: Outline, goal: Goal) -> list[int]:
    spans = located(outline.text, goal.protected) or []
    return [
        position
        for position, unit in enumerate(outline.units)
        if unit.start < unit.end and any(first <= unit.start and unit.end <= last for first, last in touching(spans, unit.start, unit.end))
    ]


def _within(choice: Choice, goal: Goal, must: int) -> tuple[Rendered | None, int]:
    """Return the text and its exact tokens, giving up what was chosen last as long as it is too long."""
    while True:
        attempt = rendered(choice.outline, choice.chosen, goal.mark)
        tokens = goal.tokenizer.count(attempt.text)
        if tokens <= goal.budget_tokens:
            return (attempt if choice.order else None), tokens
        if len(choice.order) <= must:
            return None, tokens
        # One at a time would take a count for each: the excess tells about how many.
        excess = tokens - goal.budget_tokens
        while excess > 0 and len(choice.order) > must:
            excess -= choice.outline.tokens[choice.order[-1]]
            choice.drop_last()
