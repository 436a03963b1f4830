"""Reading what is asked, once."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from samples import LIMITS

from tracebank.answering.requests import Requests
from tracebank.errors import InputError
from tracebank.settings import RetrievalSettings

MONDAY = round(datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp() * 1000)
DAY_MS = 86_400_000


class Calendar:
    """A clock that stands until it is set."""

    now_ms = MONDAY

    def __call__(self) -> int:
        """Return the time."""
        return self.now_ms


def requests(calendar: Calendar | None = None) -> Requests:
    """Return a reader of requests on a Monday."""
    return Requests(limits=LIMITS, defaults=RetrievalSettings(), now_ms=calendar or Calendar())


def test_the_same_request_is_read_once() -> None:
    """By the same client or by another of its namespace; of another namespace it is another."""
    read = requests().read
    first = read({"query": "upload", "k": 3}, "one")
    assert read({"query": "upload", "k": 3}, "one") is first
    assert read({"query": "upload", "k": 3}, "two").query.namespaces == ("two",)


def test_requests_that_mean_the_same_are_equal() -> None:
    """Whether a default is said or not."""
    read = requests().read
    assert read({"query": "upload"}, "one") == read({"k": 5, "query": ["upload"], "namespace": "one"}, "two")
    assert read({"query": "upload"}, "one") != read({"query": "upload", "k": 4}, "one")


def test_what_python_takes_for_equal_is_told_apart() -> None:
    """True is no number of results, though 1 was one before."""
    reader = requests()
    reader.read({"query": "upload", "k": 1}, "one")
    with pytest.raises(InputError, match=r"^k: must be a whole number"):
        reader.read({"query": "upload", "k": True}, "one")


def test_yesterday_is_another_day_tomorrow() -> None:
    """A request with a date in words is read anew every day."""
    reader = requests(calendar := Calendar())
    monday = reader.read({"query": "what failed yesterday"}, "one")
    calendar.now_ms += DAY_MS
    tuesday = reader.read({"query": "what failed yesterday"}, "one")
    assert tuesday.periods == tuple((first + DAY_MS, behind + DAY_MS) for first, behind in monday.periods)
    assert len(monday.periods) == 1


def test_a_request_covers_the_namespaces_it_searches() -> None:
    """All of them, where it names none."""
    read = requests().read
    assert read({"query": "upload", "namespace": "*"}, "one").covers("any")
    assert read({"query": "upload", "namespace": ["a", "b"]}, "one").covers("b")
    assert not read({"query": "upload"}, "one").covers("b")


def test_values_of_metadata_that_python_takes_for_equal_are_told_apart() -> None:
    """True, 1 and 1.0 are three values, and so three questions."""
    read = requests().read
    questions = {read({"query": "upload", "metadata": {"n": value}}, "one") for value in (True, 1, 1.0)}
    assert len(questions) == len({question.subject for question in questions}) == 3
