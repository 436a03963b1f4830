"""What was asked, how often and how lately."""

from __future__ import annotations

import json

import pytest

from tracebank.answering import history
from tracebank.answering.history import HALF_LIFE_MS, History
from tracebank.answering.requests import Asked
from tracebank.records import Filters, Outcome, Query
from tracebank.retrieval.cursor import BEGINNING, Place


class Clock:
    """A clock that stands until it is set."""

    now_ms = 1_790_000_000_000

    def __call__(self) -> int:
        """Return the time."""
        return self.now_ms


def asked(text: str, behind: int = 0, namespace: str = "default") -> Asked:
    """Return what is asked."""
    filters = Filters(outcomes=(Outcome.SUCCESS,), tags=("a",), since_ms=7)
    query = Query(texts=(text, "too"), k=5, namespaces=(namespace,), filters=filters, max_tokens=2_000, detail="concise")
    return Asked(query=query, place=Place(0.5, (behind,)) if behind else BEGINNING, periods=((1, 2),))


def texts(known: History, limit: int = 10) -> list[str]:
    """Return what is likely, by its text."""
    return [each.query.texts[0] for each in known.likely(limit)]


def test_what_is_asked_often_and_lately_is_likely() -> None:
    """Three times two weeks ago count less than twice today; once is not enough."""
    clock = Clock()
    known = History(now_ms=clock)
    for _ in range(3):
        known.used(asked("old"))
    clock.now_ms += 2 * HALF_LIFE_MS
    for text in ("new", "once", "new"):
        known.used(asked(text))
    assert texts(known) == ["new", "old"]
    assert texts(known, 1) == ["new"]
    for _ in range(2):
        known.used(asked("old"))
    assert texts(known) == ["old", "new"]


def test_times_are_weighed_as_they_fade() -> None:
    """Once now and twice a half-life ago weigh the same; one more tells them apart."""
    clock = Clock()
    known = History(now_ms=clock)
    known.used(asked("before"))
    known.used(asked("before"))
    clock.now_ms += HALF_LIFE_MS
    known.used(asked("now"))
    weights = {row[0]["query"]["texts"][0]: row[2] for row in known.rows()}
    assert weights["before"] == pytest.approx(weights["now"])


def test_pages_behind_the_first_are_not_noted() -> None:
    """Who wants them asks for the first one first."""
    known = History(now_ms=Clock())
    for _ in range(3):
        known.used(asked("more", behind=5))
    assert len(known) == 0


def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The better half stays."""
    monkeypatch.setattr(history, "REMEMBERED", 10)
    known = History(now_ms=Clock())
    for _ in range(2):
        known.used(asked("often"))
    for i in range(50):
        known.used(asked(f"{i}"))
        assert len(known) < 20
    assert texts(known) == ["often"]


def test_it_survives_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked is read back as it was, filters and periods included."""
    known = History(now_ms=Clock())
    for _ in range(2):
        known.used(asked("upload"))
    restored = History(now_ms=Clock())
    restored.restore(json.loads(json.dumps(known.rows())))
    assert restored.likely(1) == [asked("upload")]
    assert restored.rows() == known.rows()


def test_requests_are_forgotten() -> None:
    """Those of one namespace, and no others."""
    known = History(now_ms=Clock())
    for namespace in ("one", "two"):
        for _ in range(2):
            known.used(asked(namespace, namespace=namespace))
    known.forget(lambda each: each.covers("one"))
    assert texts(known) == ["two"]
