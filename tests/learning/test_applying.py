"""Whose lessons are told: those of memories that fit by themselves."""

from __future__ import annotations

from tracebank.learning.applying import FITTING_SHARE, own_score, unfitting
from tracebank.retrieval.fusion import Ranked


def ranked(row: int, own: float, lent: float = 0.0) -> Ranked:
    """Return a trace with a match of its own, and what its neighbours lent."""
    return Ranked(row=row, score=own + lent, dense=0, lexical=0, whole=0, passages=(), context=lent)


def test_a_place_on_loan_brings_no_lessons() -> None:
    """It stands high for what its neighbours say, and its own match is less than half of the best one's."""
    ranking = [ranked(1, 0.8), ranked(2, 0.2, 0.4), ranked(3, 0.5)]
    assert unfitting(ranking, ranking) == {2}
    assert own_score(ranking[1]) < FITTING_SHARE * 0.8


def test_what_matches_half_as_well_is_told_whoever_lent_to_it() -> None:
    """A neighbour's loan takes nothing away."""
    ranking = [ranked(1, 0.8), ranked(2, 0.41, 0.3)]
    assert not unfitting(ranking, ranking)


def test_a_later_page_is_measured_by_the_best_of_all() -> None:
    """Its own best may be far behind."""
    ranking = [ranked(1, 0.8), ranked(2, 0.3), ranked(3, 0.2)]
    assert unfitting(ranking[1:], ranking) == {2, 3}


def test_where_all_match_weakly_all_are_told_and_where_nothing_was_found_nothing_is() -> None:
    """The measure is the best there is, not a number."""
    weak = [ranked(1, 0.1), ranked(2, 0.08)]
    assert not unfitting(weak, weak)
    assert not unfitting([], [])
