"""Checking a request to `retrieve`."""

from __future__ import annotations

from typing import Any

import pytest
from samples import LIMITS

from tracebank.errors import InputError
from tracebank.records import Filters, Outcome, Query, parse_time
from tracebank.retrieval.request import parse_filters, parse_query
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
        ({"namespace": 3}, "namespace: must be a string or a list of strings, not a number"),
        ({"outcome": 3}, "outcome: must be a string or a list of strings, not a number"),
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
    """An outcome may be one or several; one day is a range, too, and so is a moment."""
    filters = parse_filters(
        {"outcome": ["failure", "success", "failure"], "tags": [" a", "a"], "since": "2026-02-01", "until": "2026-02-01"}, LIMITS
    )
    first, last = parse_time("t", "2026-02-01"), parse_time("t", "2026-02-01T23:59:59.999Z")
    assert filters == Filters(outcomes=(Outcome.FAILURE, Outcome.SUCCESS), tags=("a",), since_ms=first, until_ms=last)
    hour = parse_filters({"until": "2026-03-01-09"}, LIMITS).until_ms
    assert hour == parse_filters({"until": "2026-03-01T09:00Z"}, LIMITS).until_ms
    moment = parse_filters({"since": "2026-02-01T08:00Z", "until": "2026-02-01T08:00Z"}, LIMITS)
    assert moment.since_ms == moment.until_ms
    assert parse_filters({"outcome": "partial"}, LIMITS).outcomes == (Outcome.PARTIAL,)
