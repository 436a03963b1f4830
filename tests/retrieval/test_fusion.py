"""The mathematics of ranking."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from types import MappingProxyType

import pytest

from tracebank.index import WordHits
from tracebank.retrieval.fusion import Fused, Missing, Ranked, by_score, fuse, merge
from tracebank.scores import Scores, chunk_number


def ranked(row: int, score: float, *passages: tuple[int, float]) -> Ranked:
    """Return a trace that was found."""
    return Ranked(row=row, score=score, dense=0.0, lexical=0.0, whole=0.0, passages=passages)


def chunks(scores: Mapping[tuple[int, int], float]) -> Scores:
    """Return scores of chunks by (row, ordinal)."""
    return Scores.by({chunk_number(*chunk): score for chunk, score in scores.items()})


def hits(scores: Mapping[tuple[int, int], float] = MappingProxyType({}), traces: Mapping[int, float] = MappingProxyType({})) -> WordHits:
    """Return what an index of words found."""
    return WordHits(chunks(scores), Scores.by(traces))


def test_a_score_is_the_best_chunk_the_task_once_more_and_the_whole_trace_over_the_highest() -> None:
    """(max over chunks of cosine / 2 + bm25 / 2, plus a quarter of the task's, plus bm25 of the trace / 2) / 1.75."""
    dense = chunks({(1, 0): 0.8, (1, 1): 0.2, (2, 0): 0.5})
    words = hits({(1, 1): 0.9, (2, 0): 0.3}, {1: 0.6, 3: 0.9})
    first, second, third = fuse(dense, words)
    assert (first.row, second.row, third.row) == (1, 2, 3)
    assert first.score == pytest.approx((0.5 * 0.2 + 0.5 * 0.9 + 0.25 * 0.4 + 0.5 * 0.6) / 1.75)
    assert (first.dense, first.lexical, first.whole) == (0.2, 0.9, 0.6)
    assert first.passages == ((1, pytest.approx(0.55 / 1.75)), (0, pytest.approx(0.4 / 1.75)))
    assert second.score == pytest.approx(1.25 * (0.25 + 0.15) / 1.75)
    assert (third.score, third.passages) == (pytest.approx(0.45 / 1.75), ())


def test_by_words_alone_the_highest_score_is_1_too() -> None:
    """What is missing must not lower what is there."""
    (found,) = fuse(None, hits({(1, 0): 1.0}, {1: 1.0}))
    assert (found.score, found.dense) == (1.0, 0.0)
    (with_meaning,) = fuse(chunks({(1, 0): 1.0}), hits({(1, 0): 1.0}, {1: 1.0}))
    assert with_meaning.score == 1.0


def test_where_the_last_part_is_to_come_the_others_leave_room_for_it() -> None:
    """So that who is never given it needs no new score."""
    dense, words = chunks({(1, 0): 1.0}), hits({(1, 0): 1.0}, {1: 1.0})
    (found,) = fuse(dense, words, tokens=True)
    assert found.score == pytest.approx(1.75 / 2.75)
    assert found.passages == ((0, pytest.approx(1 / 2.75)),)


def test_a_negative_cosine_counts_as_none() -> None:
    """Opposite in meaning is no worse than unrelated, a score is never below 0, and what a model that fails makes is no match."""
    found = {f.row: f for f in fuse(chunks({(1, 0): -0.4, (2, 0): 0.0, (3, 0): math.nan}), WordHits())}
    assert [(found[row].score, found[row].dense) for row in (1, 2, 3)] == [(0.0, 0.0)] * 3


def test_equals_are_in_the_order_they_were_stored_and_their_passages_in_reading_order() -> None:
    """Results never depend on chance."""
    dense = {(row, i): 0.5 for row in (3, 1, 2) for i in (2, 0, 1)}
    for seed in range(3):
        shuffled = [chunk_number(*chunk) for chunk in random.Random(seed).sample(list(dense), len(dense))]
        found = fuse(Scores.of(shuffled, [0.5] * len(dense)), WordHits())
        assert [f.row for f in found] == [1, 2, 3]
        assert [i for i, _ in found[0].passages] == [0, 1, 2]


@pytest.mark.parametrize("seed", range(20))
def test_scores_lie_between_0_and_1_and_fall(seed: int) -> None:
    """Whatever was found."""
    rng = random.Random(seed)
    keys = [(rng.randint(1, 9), rng.randint(0, 4)) for _ in range(30)]
    dense = chunks({key: rng.uniform(-1, 1) for key in keys[:20]})
    words = hits({key: rng.random() for key in keys[10:]}, {rng.randint(1, 12): rng.random() for _ in range(6)})
    for found in (fuse(dense, words), fuse(None, words)):
        scores = [f.score for f in found]
        assert scores == sorted(scores, reverse=True)
        assert all(0 <= score <= 1 for score in scores)
        assert len({f.row for f in found}) == len(found)
        for f in found:
            assert [score for _, score in f.passages] == sorted((score for _, score in f.passages), reverse=True)


def test_of_several_questions_a_trace_keeps_its_best_score_and_all_its_passages() -> None:
    """Each passage with its best score."""
    merged = merge([
        [ranked(1, 0.9, (0, 0.4), (1, 0.2)), ranked(2, 0.1)],
        [ranked(2, 0.95, (3, 0.9)), ranked(1, 0.3, (2, 0.3), (1, 0.3))],
    ])  # fmt: skip
    assert [(f.row, f.score, f.passages) for f in merged] == [(2, 0.95, ((3, 0.9),)), (1, 0.9, ((0, 0.4), (1, 0.3), (2, 0.3)))]


def test_merging_one_or_no_ranking_only_sorts_it() -> None:
    """Best first; of equals, the one that was stored first."""
    assert [f.row for f in merge([[ranked(2, 0.5), ranked(1, 0.5), ranked(3, 0.9)]])] == [3, 1, 2]
    assert merge([]) == merge([[]]) == merge([[], []]) == by_score([]) == []


def test_what_a_full_list_lacks_is_taken_for_its_lowest_score() -> None:
    """A trace that each side has in its middle may be better than who is first on one; a list that is not full is complete."""
    dense, lexical, wholes = {(1, 0): 0.9, (2, 0): 0.6}, {(3, 0): 0.9, (2, 0): 0.5}, {3: 0.8, 2: 0.7}
    missing = Missing.beyond(chunks(dense), hits(lexical, wholes), whole=False, full=2)
    assert missing == Missing(cosine=0.6, chunk=0.5, whole=0.7)
    cut = Fused(chunks(dense), hits(lexical, wholes), missing=missing)
    exact = chunks({**dense, (3, 0): 0.6}), hits({**lexical, (1, 0): 0.5}, {**wholes, 1: 0.7})
    assert cut.scores == pytest.approx({f.row: f.score for f in fuse(*exact)})
    assert (
        Missing.beyond(chunks(dense), hits(lexical, wholes), whole=True, full=3)
        == Missing.beyond(None, WordHits(), whole=True, full=1)
        == Missing()
    )


def test_values_are_made_of_those_that_are_asked_for() -> None:
    """In their order, and none above a bound."""
    fused = Fused(chunks({(1, 0): 0.9, (2, 0): 0.6, (3, 0): 0.1}), WordHits())
    assert list(fused.rows) == [1, 2, 3]
    assert [(f.row, f.score) for f in (fused.ranked(row, at_most=0.2) for row in (3, 1))] == [(3, fused.scores[3]), (1, 0.2)]
