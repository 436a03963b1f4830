"""The cursor from one page to the next."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from samples import LIMITS

from tracebank.errors import InputError
from tracebank.records import Query
from tracebank.retrieval import Ranked
from tracebank.retrieval.cursor import BEGINNING, REMEMBERED, Place, cursor_at, place_of
from tracebank.retrieval.request import parse_query
from tracebank.settings import RetrievalSettings


def query(**raw: Any) -> Query:
    """Return a checked request."""
    return parse_query({"query": "how", **raw}, limits=LIMITS, defaults=RetrievalSettings(), namespace="mine")


def test_a_cursor_leads_to_its_place_in_the_same_query() -> None:
    """The size of a page may change on the way; what is searched may not."""
    place = Place(0.123456789, (2**40, 7))
    cursor = cursor_at(query(), place)
    assert place_of(query(cursor=cursor)) == place
    assert place_of(query(cursor=cursor, k=50, max_tokens=50, detail="full")) == place
    assert place_of(query()) == BEGINNING
    for other in ({"query": "why"}, {"namespace": "other"}, {"tags": ["a"]}, {"outcome": "success"}, {"until": "2026-01-01"}):
        with pytest.raises(InputError, match=r"^cursor: belongs to another query: send it with the same query, namespace"):
            place_of(query(**{**other, "cursor": cursor}))


def test_the_longest_cursor_there_can_be_is_taken() -> None:
    """The best of as many questions as can be asked were shown ahead of their turn, in rows as large as rows can be."""
    rows = [2**63 - 1 - i for i in range(REMEMBERED + LIMITS.queries)]
    place = Place(0.123456789, tuple(rows[:REMEMBERED]), tuple(rows[REMEMBERED:]))
    assert place_of(query(cursor=cursor_at(query(), place))) == place


def ranking_of(*rows: float) -> list[Ranked]:
    """Return traces in this order: each has its number for a row, and a tenth of it for a score; what is behind the point raises that."""
    return [Ranked(row=int(row), score=row / 10, dense=0.0, lexical=0.0, whole=0.0, passages=()) for row in rows]


def behind(ranking: list[Ranked], shown: int) -> Place:
    """Return the place behind the first ones."""
    place = Place.behind(ranking, {found.row for found in ranking[:shown]})
    assert place is not None
    return place


def test_what_was_shown_before_its_turn_is_remembered_until_that_has_come() -> None:
    """And the page goes on where there is a gap."""
    ranking = ranking_of(9, 8, 7, 6, 5)
    place = Place.behind(ranking, {9, 8, 6})
    assert place == Place(0.8, (8, 9), (6,))
    cursor = cursor_at(query(), place)
    assert place_of(query(cursor=cursor)) == place
    assert Place.behind(ranking, {9, 8, 7, 6}) == Place(0.6, (6, 7, 8))
    assert Place.behind(ranking, {9, 8, 7, 6, 5}) is None


@pytest.mark.parametrize(
    ("now", "left"),
    [
        ((9, 8, 7, 6, 5), (6, 5)),
        ((10, 9, 8, 7, 6, 5), (6, 5)),
        ((7, 6, 5), (6, 5)),
        ((6, 5), (6, 5)),
        ((10, 9, 6, 5), (6, 5)),
        ((9, 8, 7), ()),
        ((), ()),
        ((9.5, 8.5, 7.5, 6.5, 5.5), (6, 5)),
        ((8.4, 7.4, 6.4, 5.4), (6, 5)),
    ],
    ids=[
        "as before", "one more", "two forgotten", "all shown forgotten", "the last forgotten", "others forgotten", "all forgotten",
        "all score more", "all score more, one forgotten",
    ],
)  # fmt: skip
def test_a_page_goes_on_behind_those_that_were_shown(now: tuple[float, ...], left: tuple[int, ...]) -> None:
    """Whatever was stored and forgotten since; where they are all gone, behind the score of the last one."""
    place = behind(ranking_of(9, 8, 7, 6, 5), 3)
    assert tuple(found.row for found in ranking_of(*now)[place.index_in(ranking_of(*now)) :]) == left
    assert BEGINNING.index_in(ranking_of(*now)) == 0


@pytest.mark.parametrize(("shown", "moved"), [(shown, moved) for shown in (1, 2, 3, 5, 8) for moved in range(shown)])
@pytest.mark.parametrize("place_now", [0, 4, 11])
def test_one_that_moves_takes_no_other_along(shown: int, moved: int, place_now: int) -> None:
    """By feedback, or an update: nothing that has not been shown is left out, and little is told twice."""
    before = [Ranked(row=row, score=1 - row / 20, dense=0.0, lexical=0.0, whole=0.0, passages=()) for row in range(1, 13)]
    place = behind(before, shown)
    now = [found for found in before if found is not before[moved]]
    now.insert(place_now, before[moved]._replace(score=1 - (place_now + 1) / 20))
    told = [found.row for found in now[place.index_in(now) :]]
    unseen = {found.row for found in before[shown:]}
    assert unseen <= set(told)
    assert len(told) <= len(unseen) + 1 + (shown == 1)


def test_ties_with_one_that_was_forgotten_are_told() -> None:
    """Of equals those that were stored later follow."""
    tied = [Ranked(row=row, score=0.5, dense=0.0, lexical=0.0, whole=0.0, passages=()) for row in (2, 4, 6, 8)]
    place = behind(tied, 2)
    assert [found.row for found in tied[2:][place.index_in(tied[2:]) :]] == [6, 8]


def _encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize(
    "cursor",
    [
        "x", "!!!!", "深い", "AAAA", _encoded(7), _encoded([7]), _encoded({}), _encoded(["7", 1, "x"]), _encoded([5, 1, "x"]),
        _encoded([0.5, "1", "x"]), _encoded([0.5, 1.5, "x"]), _encoded([0.5, True, "x"]), _encoded([0.5, "x"]), _encoded([0.5]),
        _encoded([0.5, 1, ["2"], "x"]), _encoded([0.5, [2], "x"]), _encoded([0.5, [2], 1, "x"]),
        _encoded([14, 0.5, 1, "x"]), _encoded(None), "[" * 150, base64.urlsafe_b64encode(b"\xff\xfe").decode(),
        "A" * 300, _encoded([0.5, *range(1_000), "x"]), base64.urlsafe_b64encode(b"[" * 99_999).decode(),
    ],
)  # fmt: skip
def test_a_cursor_that_is_none_of_ours_is_refused(cursor: str) -> None:
    """Whatever it holds, it is an error of the argument and says what to do."""
    with pytest.raises(InputError, match=r"^cursor: is not one that retrieve returned: .*; leave it out to start again"):
        place_of(query(cursor=cursor))
