"""Near-equal traces are shown once, with how many others."""

from __future__ import annotations

import pytest
from samples import trace

from tracebank.records import Lesson, Outcome, Trace
from tracebank.retrieval.duplicates import Distinct, near_equal

LONG = " ".join(
    f"the agent looked at file {name} and found what it was looking for" for name in "alpha beta gamma delta epsilon zeta".split()
)


def test_the_same_words_are_near_equal_whatever_their_case_marks_and_ids() -> None:
    """A second run is told in the same words."""
    a = trace("a", task="Deploy the service", content=LONG)
    assert near_equal(a, trace("b", task="deploy the Service!", content=LONG.replace(" and ", ", and "), tags=("other",)))


def test_a_few_words_may_differ_in_a_long_trace_and_none_in_a_short_one() -> None:
    """So many as one in twenty of both."""
    a = trace("a", task="Deploy the service", content=LONG)
    assert near_equal(a, trace("b", task="Deploy the service", content=LONG.replace("alpha", "omega")))
    assert not near_equal(a, trace("b", task="Deploy the service", content=LONG.replace("looked at file", "never opened")))
    assert not near_equal(trace("a", task="Deploy service alpha", content=""), trace("b", task="Deploy service beta", content=""))


@pytest.mark.parametrize(
    "other",
    [
        trace("b", task="Deploy", content=LONG, outcome=Outcome.FAILURE),
        trace("b", task="Deploy", content=LONG, namespace="elsewhere"),
        trace("b", task="Deploy", content=LONG + " in 8 s"),
        trace("b", task="Deploy", content=LONG, lessons=(Lesson(content="Look at the file again, and at every other file beside it."),)),
    ],
    ids=["outcome", "namespace", "number", "lesson"],
)
def test_what_differs_in_what_matters_is_shown(other: Trace) -> None:
    """How it ended, whose it is, a number, a lesson."""
    assert not near_equal(trace("a", task="Deploy", content=LONG + (" in 7 s" if "8 s" in other.content else "")), other)


@pytest.mark.parametrize("rest", ["", LONG.replace("alpha", "omega")], ids=["short", "long"])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Upgrade from 1.2 to 2.1", "Upgrade from 2.1 to 1.2"),
        ("Upgrade from 1 to 2 on Monday", "Upgrade from 2 to 1 on Monday"),
        ("Set the offset to -5", "Set the offset to 5"),
        ("Set the share to .5", "Set the share to 5"),
        ("Use tabs, never spaces", "Use spaces, never tabs"),
        ("Wait while a == b", "Wait while a != b"),
        ("React with 🎉", "React with 🔥"),
    ],
)
def test_opposites_in_the_same_words_are_not_near_equal(one: str, other: str, rest: str) -> None:
    """Order and signs say what words and numbers do not, however much else is the same."""
    content = LONG if rest else ""
    assert not near_equal(trace("a", task=one, content=content), trace("b", task=other, content=rest))
    assert near_equal(trace("a", task=one, content=content), trace("b", task=one, content=rest))


def test_runs_of_signs_are_compared_in_a_time_that_grows_with_them() -> None:
    """Progress dots of a test run, say: looked at from each of them, a page of two such memories would take minutes."""
    one, other = (trace(task="Run the specs", content="." * 300_000 + f"\n{'word ' * 400}") for _ in range(2))
    assert near_equal(one, other)


def test_the_first_of_each_is_kept_with_the_others_in_their_order() -> None:
    """The best comes first, so the best is kept."""
    values = [
        trace("a", content=LONG),
        trace("x", content="else"),
        trace("b", content=LONG),
        trace("c", content=LONG),
        trace("y", content=""),
    ]
    distinct: Distinct[Trace] = Distinct(lambda value: value)
    assert list(distinct) == []
    distinct.add(values[:3])
    distinct.add(values[3:])
    assert [(one.trace_id, [other.trace_id for other in others]) for one, others in distinct] == [("a", ["b", "c"]), ("x", []), ("y", [])]
    assert len(distinct) == 3
