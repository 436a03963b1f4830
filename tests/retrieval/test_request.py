"""Checking a request to `retrieve`."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from samples import LIMITS

from tracebank.errors import InputError
from tracebank.records import Filters, Outcome, Query, parse_time
from tracebank.retrieval import Ranked
from tracebank.retrieval.request import BEGINNING, Place, cursor_at, parse_filters, parse_query, place_of
from tracebank.settings import RetrievalSettings

DEFAULTS = RetrievalSettings(k=7, max_tokens=700)


def query(**raw: Any) -> Query:
    """Return a checked request."""
    return parse_query({"query": "how", **raw}, limits=LIMITS, defaults=DEFAULTS, namespace="mine")


def test_a_question_alone_is_a_request() -> None:
    """The rest comes from the settings and from the client."""
    assert query() == Query(texts=("how",), k=7, namespaces=("mine",), filters=Filters(), max_tokens=700, detail="concise")
    names = ("k", "namespace", "outcome", "tags", "since", "until", "max_tokens", "detail", "cursor")
    assert query(**dict.fromkeys(names)) == query()


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        ({"query": None}, "query: is required: describe the task at hand in a sentence"),
        ({"query": ""}, "query: must not be empty"),
        ({"query": []}, "query: must not be an empty list"),
        ({"query": 5}, "query: must be a string or a list of strings, not a number"),
        ({"query": ["a", ""]}, "query[1]: must not be empty"),
        ({"query": ["a", 1]}, "query[1]: must be a string, not a number"),
        ({"query": ["a"] * 17}, "query: must have at most 16 items, not 17"),
        ({"query": "x" * 8_001}, "query: must be at most 8,000 characters, not 8,001: shorten it"),
        ({"query": "\ud800"}, "query: has a lone surrogate (half a character) at position 0: send valid Unicode"),
        ({"k": 0}, "k: must be 1 to 50, not 0"),
        ({"k": 51}, "k: must be 1 to 50, not 51"),
        ({"k": "5"}, "k: must be a whole number from 1 to 50, not '5'"),
        ({"max_tokens": 49}, "max_tokens: must be 50 to 100,000, not 49"),
        ({"max_tokens": 100_001}, "max_tokens: must be 50 to 100,000, not 100,001"),
        ({"detail": "short"}, "detail: must be concise or full, not 'short'"),
        ({"namespace": []}, "namespace: must not be an empty list: leave it out, or give '*' for all"),
        ({"namespace": [""]}, "namespace: must not be empty"),
        ({"namespace": 3}, "namespace: must be a list, not a number"),
        ({"outcome": "won"}, "outcome: must be one of success, failure, partial, unknown, not 'won'"),
        ({"outcome": ["success", "won"]}, "outcome: must be one of success, failure, partial, unknown, not 'won'"),
        ({"tags": "a"}, "tags: must be a list, not a string"),
        ({"since": "soon"}, "since: must be an RFC 3339 time such as 2026-03-01T09:30:00Z, not 'soon'"),
        ({"since": "2026-02-02", "until": "2026-02-01"}, "since: must not be after until: '2026-02-02' is after '2026-02-01'"),
        ({"cursor": ""}, "cursor: must not be empty"),
        ({"cursor": 5}, "cursor: must be a string, not a number"),
        (
            {"limit": 5},
            "'limit': is not an argument; the arguments are "
            "query, k, namespace, outcome, tags, since, until, metadata, max_tokens, detail, cursor",
        ),
    ],
)  # fmt: skip
def test_bad_arguments_are_told_by_field_and_problem(raw: dict[str, Any], error: str) -> None:
    """With the limits and the value."""
    with pytest.raises(InputError) as caught:
        query(**raw)
    assert str(caught.value) == error


@pytest.mark.parametrize(("name", "low", "high"), [("k", 1, 50), ("max_tokens", 50, 100_000)])
def test_bounds_themselves_are_allowed(name: str, low: int, high: int) -> None:
    """Both ends."""
    assert getattr(query(**{name: low}), name) == low
    assert getattr(query(**{name: high}), name) == high


def test_namespaces_are_one_several_or_all() -> None:
    """A star anywhere means all; equal names count once."""
    assert query(namespace="a").namespaces == ("a",)
    assert query(namespace=["b", "a", "b"]).namespaces == ("b", "a")
    assert query(namespace="*").namespaces == query(namespace=["a", "*"]).namespaces == ()


def test_equal_questions_count_once() -> None:
    """In their order."""
    assert query(query=["b", "a", "b"]).texts == ("b", "a")


def test_filters_are_read_with_both_ends_of_time() -> None:
    """An outcome may be one or several; one moment is a range, too."""
    filters = parse_filters(
        {"outcome": ["failure", "success", "failure"], "tags": [" a", "a"], "since": "2026-02-01", "until": "2026-02-01"}, LIMITS
    )
    moment = parse_time("t", "2026-02-01")
    assert filters == Filters(outcomes=(Outcome.FAILURE, Outcome.SUCCESS), tags=("a",), since_ms=moment, until_ms=moment)
    assert parse_filters({"outcome": "partial"}, LIMITS).outcomes == (Outcome.PARTIAL,)


def test_a_cursor_leads_to_its_place_in_the_same_query() -> None:
    """The size of a page may change on the way; what is searched may not."""
    place = Place(14, 0.123456789, (2**40, 7))
    cursor = cursor_at(query(), place)
    assert place_of(query(cursor=cursor)) == place
    assert place_of(query(cursor=cursor, k=50, max_tokens=50, detail="full")) == place
    assert place_of(query()) == BEGINNING
    for other in ({"query": "why"}, {"namespace": "other"}, {"tags": ["a"]}, {"outcome": "success"}, {"until": "2026-01-01"}):
        with pytest.raises(InputError, match=r"^cursor: belongs to another query: send it with the same query, namespace"):
            place_of(query(**{**other, "cursor": cursor}))


def ranking_of(*rows: float) -> list[Ranked]:
    """Return traces in this order: each has its number for a row, and a tenth of it for a score; what is behind the point raises that."""
    return [Ranked(row=int(row), score=row / 10, dense=0.0, lexical=0.0, whole=0.0, passages=()) for row in rows]


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
    place = Place.after(ranking_of(9, 8, 7, 6, 5), 3)
    assert tuple(found.row for found in ranking_of(*now)[place.index_in(ranking_of(*now)) :]) == left
    assert BEGINNING.index_in(ranking_of(*now)) == 0


@pytest.mark.parametrize(("shown", "moved"), [(shown, moved) for shown in (1, 2, 3, 5, 8) for moved in range(shown)])
@pytest.mark.parametrize("place_now", [0, 4, 11])
def test_one_that_moves_takes_no_other_along(shown: int, moved: int, place_now: int) -> None:
    """By feedback, or an update: nothing that has not been shown is left out, and little is told twice."""
    before = [Ranked(row=row, score=1 - row / 20, dense=0.0, lexical=0.0, whole=0.0, passages=()) for row in range(1, 13)]
    place = Place.after(before, shown)
    now = [found for found in before if found is not before[moved]]
    now.insert(place_now, before[moved]._replace(score=1 - (place_now + 1) / 20))
    told = [found.row for found in now[place.index_in(now) :]]
    unseen = {found.row for found in before[shown:]}
    assert unseen <= set(told)
    assert len(told) <= len(unseen) + 1 + (shown == 1)


def test_ties_with_one_that_was_forgotten_are_told() -> None:
    """Of equals those that were stored later follow."""
    tied = [Ranked(row=row, score=0.5, dense=0.0, lexical=0.0, whole=0.0, passages=()) for row in (2, 4, 6, 8)]
    place = Place.after(tied, 2)
    assert [found.row for found in tied[2:][place.index_in(tied[2:]) :]] == [6, 8]


def _encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize(
    "cursor",
    [
        "x", "!!!!", "深い", "AAAA", _encoded(7), _encoded([7]), _encoded({}), _encoded(["7", 0.5, 1, "x"]), _encoded([0, 0.5, 1, "x"]),
        _encoded([-5, 0.5, 1, "x"]), _encoded([1.5, 0.5, 1, "x"]), _encoded([1, "x", 1, "x"]), _encoded([1, 0.5, True, "x"]),
        _encoded([1, 0.5, "x"]), _encoded([1, 0.5]), _encoded(None), "[" * 150, base64.urlsafe_b64encode(b"\xff\xfe").decode(),
    ],
)  # fmt: skip
def test_a_cursor_that_is_none_of_ours_is_refused(cursor: str) -> None:
    """Whatever it holds, it is an error of the argument and says what to do."""
    with pytest.raises(InputError, match=r"^cursor: is not one that retrieve returned: .*; leave it out to start again"):
        place_of(query(cursor=cursor))
