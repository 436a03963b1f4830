"""Dates in questions."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tracebank.retrieval import Ranked
from tracebank.retrieval.dates import periods_in, preferred

DAY_MS = 86_400_000


def ms(text: str) -> int:
    """Return a day's beginning."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


NOW_MS = ms("2026-09-23T15:30:00")  # a Wednesday


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("what did we try on 2026-05-08?", "2026-05-08", "2026-05-08"),
        ("the outage of 8 May", "2026-05-08", "2026-05-08"),
        ("the outage of the 8th of May, 2025", "2025-05-08", "2025-05-08"),
        ("the outage of May 8th", "2026-05-08", "2026-05-08"),
        ("on Dec. 24 somebody deployed", "2025-12-24", "2025-12-24"),
        ("the release of December 2024", "2024-12-01", "2024-12-31"),
        ("what broke in February?", "2026-02-01", "2026-02-28"),
        ("what broke last November", "2025-11-01", "2025-11-30"),
        ("what we learned in 2025", "2025-01-01", "2025-12-31"),
        ("what failed today", "2026-09-23", "2026-09-23"),
        ("what failed Yesterday", "2026-09-22", "2026-09-22"),
        ("the job that ran last night", "2026-09-22", "2026-09-22"),
        ("the incident last Friday", "2026-09-18", "2026-09-18"),
        ("the incident on Wednesday", "2026-09-16", "2026-09-16"),
        ("last week's migration", "2026-09-14", "2026-09-20"),
        ("this week", "2026-09-21", "2026-09-27"),
        ("last month", "2026-08-01", "2026-08-31"),
        ("this month", "2026-09-01", "2026-09-30"),
        ("last year", "2025-01-01", "2025-12-31"),
        ("two days ago", "2026-09-21", "2026-09-21"),
        ("three weeks ago", "2026-08-30", "2026-09-05"),
        ("a month ago", "2026-08-09", "2026-09-08"),
        ("in the past 3 days", "2026-09-20", "2026-09-23"),
        ("5 hours ago", "2026-09-23", "2026-09-23"),
        ("72 hours ago", "2026-09-20", "2026-09-20"),
        ("in the past 72 hours", "2026-09-20", "2026-09-23"),
        ("in the past 5 hours", "2026-09-22", "2026-09-23"),
        ("what changed in May", "2026-05-01", "2026-05-31"),
        ("what changed in may, or later", "2026-05-01", "2026-05-31"),
        ("it broke last May", "2026-05-01", "2026-05-31"),
        ("what did we do last may?", "2026-05-01", "2026-05-31"),
        ("what failed last may in the build", "2026-05-01", "2026-05-31"),
        ("what broke this may in prod", "2026-05-01", "2026-05-31"),
        ("the outage of 8 may, with redis", "2026-05-08", "2026-05-08"),
        ("the 8 may outage", "2026-05-08", "2026-05-08"),
        ("until may 8 we had it", "2026-05-08", "2026-05-08"),
        ("the release of may 2024", "2024-05-01", "2024-05-31"),
        ("the outage of 3 May was long", "2026-05-03", "2026-05-03"),
        ("the outage on 3rd may was long", "2026-05-03", "2026-05-03"),
        ("it may have been on may 3rd or so", "2026-05-03", "2026-05-03"),
        ("what failed on May 3rd", "2026-05-03", "2026-05-03"),
        ("what failed since March", "2026-03-01", "2026-09-23"),
        ("everything since may", "2026-05-01", "2026-09-23"),
        ("what was learned since 2024", "2024-01-01", "2026-09-23"),
        ("since the 8th of May", "2026-05-08", "2026-09-23"),
        ("since 2026-05-08 it fails", "2026-05-08", "2026-09-23"),
        ("since last week", "2026-09-14", "2026-09-23"),
        ("since Monday", "2026-09-21", "2026-09-23"),
        ("since yesterday", "2026-09-22", "2026-09-23"),
    ],
)
def test_a_period_is_read_as_a_person_means_it(text: str, first: str, last: str) -> None:
    """As of now; from the first day to the last, in UTC."""
    found = periods_in(text, NOW_MS)
    assert found == [(ms(first), ms(last) + DAY_MS)]


@pytest.mark.parametrize(
    "text",
    [
        "fix the flaky test",
        "it may march on",
        "this may be a cache problem",
        "THIS MAY BE A CACHE PROBLEM",
        "step 3 may fail",
        "port 22 may be blocked",
        "the last may be too long",
        "it may 3 times be too few",
        "since then",
        "version 2025-13-40",
        "the 31 of June",
        "HTTP 404 in 3000 ms",
        "port 2025",
        "RFC 2026",
        "on mondays",
    ],
)
def test_what_names_no_time_is_not_read_as_one(text: str) -> None:
    """Words and numbers that only look like it, and days that no calendar has."""
    assert periods_in(text, NOW_MS) == []


def test_several_periods_are_all_read_and_each_once() -> None:
    """In the order of time."""
    found = periods_in("yesterday, on 2026-09-22 and in May 2026", NOW_MS)
    assert found == [(ms("2026-05-01"), ms("2026-06-01")), (ms("2026-09-22"), ms("2026-09-23"))]


def test_what_happened_then_is_preferred_among_those_that_fit_about_as_well() -> None:
    """By a tenth: it never passes one that fits much better, and no score is above 1."""
    found = [Ranked(row=row, score=score, dense=0, lexical=0, whole=0, passages=()) for row, score in ((1, 0.98), (2, 0.6), (3, 0.57))]
    moments = {1: ms("2026-09-22"), 2: ms("2026-01-01"), 3: ms("2026-09-22") + 5}
    ranking = preferred(found, periods_in("yesterday", NOW_MS), moments)
    assert [(f.row, f.score) for f in ranking] == [(1, 1.0), (3, pytest.approx(0.627)), (2, 0.6)]
    assert preferred(found, periods_in("yesterday", NOW_MS), {}) == tuple(found)
