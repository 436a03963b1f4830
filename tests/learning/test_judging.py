"""Reward, reflection, patterns and the prior of feedback: the mathematics and the words, without an engine."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracebank.learning.analysis import Observed, observe
from tracebank.learning.feedback import DAY_MS, SPREAD, posterior, prior, weigh
from tracebank.learning.patterns import hints, patterns_of
from tracebank.learning.reflection import MAX_LESSONS, Attempt, Reflection, merge, reflect_on_steps
from tracebank.learning.reward import WEIGHTS, reward
from tracebank.learning.summary import handoff, summary, transcript
from tracebank.records import Lesson, Outcome
from tracebank.retrieval.fusion import Ranked
from tracebank.steps import Step
from tracebank.store.feedback import Evidence
from tracebank.store.patterns import Pattern, PatternKey

NOTHING = Observed(steps=4, errors=0, retries=0, recovered=0, duration_ms=0, recoveries=(), dead_ends=(), loops=(), route=())
STEPS = (
    Step(action="run_tests()", observation="ModuleNotFoundError: No module named 'x'", ok=False, duration_ms=1200.0),
    Step(action="pip install x", observation="installed", ok=True, thought="It is not there."),
    Step(action="run_tests()", observation="12 passed", ok=True),
    Step(action="deploy()", observation="PermissionError: not allowed", ok=False),
)


def attempt(*steps: Step, outcome: Outcome = Outcome.FAILURE, task: str = "Release the billing service") -> Attempt:
    """Return an attempt at a task."""
    return Attempt(task=task, outcome=outcome, steps=steps, observed=observe(steps, outcome=outcome))


# -- reward -----------------------------------------------------------------------------------------------------------


def test_the_weights_of_a_reward_sum_to_one_and_the_outcome_has_the_most() -> None:
    """So it lies between 0 and 1, and no failure is worth more than a success."""
    assert sum(WEIGHTS.values()) == pytest.approx(1)
    assert WEIGHTS["outcome"] > 0.5


@given(st.integers(0, 50), st.data(), st.lists(st.integers(0, 100), max_size=5), st.floats(-1, 2), st.sampled_from(Outcome))
def test_a_reward_lies_between_0_and_1_and_so_does_each_of_its_parts(
    steps: int, data: st.DataObject, efforts: list[int], similarity: float, outcome: Outcome
) -> None:
    """Whatever was seen."""
    errors = data.draw(st.integers(0, steps))
    recovered = data.draw(st.integers(0, errors))
    observed = replace(NOTHING, steps=steps, errors=errors, retries=data.draw(st.integers(0, steps)), recovered=recovered)
    found = reward(outcome, observed, like_efforts=efforts, similarity=similarity)
    assert 0 <= found.value <= 1
    assert all(0 <= part <= 1 for part in found.parts.values())
    assert found.parts.keys() == WEIGHTS.keys()


def test_fewer_steps_than_earlier_episodes_are_worth_more() -> None:
    """The median counts: one odd episode changes nothing."""
    quick, slow = (replace(NOTHING, steps=n) for n in (4, 12))
    efforts = [6, 6, 6, 1_000]
    assert reward(Outcome.SUCCESS, quick, like_efforts=efforts, similarity=0).parts["efficiency"] == 1
    assert reward(Outcome.SUCCESS, slow, like_efforts=efforts, similarity=0).parts["efficiency"] == 0.5


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"outcome": Outcome.SUCCESS}, {"outcome": Outcome.PARTIAL}),
        ({"outcome": Outcome.PARTIAL}, {"outcome": Outcome.UNKNOWN}),
        ({"outcome": Outcome.UNKNOWN}, {"outcome": Outcome.FAILURE}),
        ({"errors": 2, "recovered": 2}, {"errors": 2, "recovered": 1}),
        ({}, {"errors": 1, "recovered": 1}),
        ({}, {"retries": 2}),
        ({"similarity": 0.1}, {"similarity": 0.9}),
    ],
)
def test_each_part_moves_the_reward_its_way(better: dict[str, object], worse: dict[str, object]) -> None:
    """Outcome, recoveries, errors, retries, novelty."""

    def value(changes: dict[str, object]) -> float:
        told = {"outcome": Outcome.SUCCESS, "similarity": 0.5, **changes}
        seen = {name: told.pop(name) for name in ("errors", "recovered", "retries") if name in told}
        observed = replace(NOTHING, **seen)  # type: ignore[arg-type]
        return reward(told["outcome"], observed, like_efforts=(), similarity=told["similarity"]).value  # type: ignore[arg-type]

    assert value(better) > value(worse)


# -- reflection -------------------------------------------------------------------------------------------------------


def test_lessons_name_the_action_the_error_and_what_helped() -> None:
    """Advice that can be followed, the most useful first."""
    lessons = [lesson.content for lesson in reflect_on_steps(attempt(*STEPS)).lessons]
    assert lessons == [
        "When `run_tests()` fails with “ModuleNotFoundError: No module named 'x'”, do `pip install x` and repeat it: that worked. "
        "Where it is a precondition, do it first.",
        "Do not rely on `deploy()`: it failed with “PermissionError: not allowed”, and nothing that was tried made it work.",
    ]


def test_a_success_without_errors_teaches_the_way_it_took() -> None:
    """Not only mistakes are worth remembering."""
    found = reflect_on_steps(attempt(STEPS[1], STEPS[2], outcome=Outcome.SUCCESS))
    assert [lesson.content for lesson in found.lessons] == ["What worked: `pip install x`, then `run_tests()`."]
    assert not found.failed


def test_a_failure_without_an_error_teaches_to_check_the_result() -> None:
    """The last answer is quoted: it did not look like a failure."""
    (lesson,) = reflect_on_steps(attempt(STEPS[2])).lessons
    assert "`run_tests()`" in lesson.content
    assert "“12 passed”" in lesson.content


def test_a_trace_has_at_most_three_lessons_however_much_went_wrong() -> None:
    """An agent reads them all: more would be less."""
    wrong = [Step(action=f"try_{i}()", observation=f"Error: kind {'abcdefgh'[i]}", ok=False) for i in range(8)]
    assert len(reflect_on_steps(attempt(*wrong)).lessons) == MAX_LESSONS
    assert len(merge([reflect_on_steps(attempt(*wrong))] * 2, known=()).lessons) == MAX_LESSONS


def test_what_the_agent_says_itself_is_not_said_again() -> None:
    """In whatever case and spacing; the first reflector's lessons come first."""
    deeper = Reflection(worked=("A.",), lessons=(Lesson(content="Wait for  the event."), Lesson(content="New.")))
    plain = Reflection(worked=("A.", "B."), lessons=(Lesson(content="new"), Lesson(content="Other.")))
    found = merge([deeper, plain], known=[Lesson(content="wait for the event")])
    assert [lesson.content for lesson in found.lessons] == ["New.", "Other."]
    assert found.worked == ("A.", "B.")


def test_an_episode_without_steps_teaches_nothing_and_fails_nowhere() -> None:
    """It may have been abandoned before it began."""
    for outcome in Outcome:
        empty = attempt(outcome=outcome)
        assert reflect_on_steps(empty) == Reflection()
        assert summary(empty) == f"Outcome: {outcome} after 0 steps."
        assert "nothing has been done yet" in handoff("e1", empty)


# -- text -------------------------------------------------------------------------------------------------------------


def test_a_transcript_has_every_word_of_the_steps() -> None:
    """Verbatim, whatever is in them."""
    text = transcript(STEPS)
    for step in STEPS:
        assert step.action in text
        assert step.observation in text
        assert step.thought in text
    assert "Step 1 (failed, 1,200 ms): run_tests()" in text


def test_a_handoff_tells_goal_what_worked_what_failed_facts_and_next_steps() -> None:
    """Another agent can go on from it, and its length does not grow with the episode."""
    text = handoff("e1", attempt(*STEPS))
    for part in (
        "Goal: Release the billing",
        "Worked: `pip install x`",
        "Failed: `deploy()`",
        "Facts: `run_tests()`",
        "Next: ",
        "log_steps",
    ):
        assert part in text
    long = [Step(action=f"look({i})", observation="words " * 500, ok=i % 3 > 0) for i in range(300)]
    assert len(handoff("e1", attempt(*long))) < 8_000


# -- patterns ---------------------------------------------------------------------------------------------------------


def test_patterns_are_made_of_tools_and_masked_errors_only() -> None:
    """What belongs to one trace alone is not in them."""
    told = (
        Step(action="run(secret=1)", observation="Error: user 'ann' at /home/ann, code 17", ok=False),
        Step(action="fix(secret=2)", observation="hidden", ok=True),
        Step(action="run(secret=1)", observation="ok", ok=True),
        Step(action="end(secret=3)", observation="ok", ok=True),
    )
    keys = patterns_of(told, observe(told, outcome=Outcome.SUCCESS))
    assert keys == [
        PatternKey(kind="recovery", context="run fails (Error: user * at *, code *)", choice="fix → run"),
        PatternKey(kind="sequence", context="fix → run", choice="end"),
        PatternKey(kind="decision", context="the start", choice="run"),
        PatternKey(kind="decision", context="run fails", choice="fix"),
    ]


def pattern(kind: str, context: str, choice: str, *, seen: int, judged: int, credit: float) -> Pattern:
    """Return a pattern with its counts."""
    return Pattern(key=PatternKey(kind=kind, context=context, choice=choice), seen=seen, judged=judged, credit=credit)  # type: ignore[arg-type]


def test_what_was_seen_once_or_never_helped_is_not_told() -> None:
    """A single case is no pattern."""
    once = pattern("recovery", "a fails", "b → a", seen=1, judged=1, credit=1)
    vain = pattern("recovery", "a fails", "c → a", seen=5, judged=5, credit=0)
    open_ = pattern("sequence", "a → b", "c", seen=5, judged=0, credit=0)
    assert hints([once, vain, open_]) == []
    assert hints([replace(once, seen=3, judged=3, credit=2.5)]) == ["when a fails: b → a (2.5 of 3 episodes succeeded)"]


def test_a_decision_is_told_where_another_choice_is_clearly_worse() -> None:
    """With only one choice there is nothing to decide."""
    good = pattern("decision", "a fails", "b", seen=4, judged=4, credit=4)
    bad = pattern("decision", "a fails", "c", seen=1, judged=1, credit=0)
    assert hints([good, bad]) == ["after a fails, choose b (4 of 4 episodes succeeded)"]
    assert hints([good]) == []
    assert hints([good, replace(bad, credit=1)]) == []


# -- feedback ---------------------------------------------------------------------------------------------------------


def event(*, helpful: bool, age_days: float = 0.0, weight: float = 1.0) -> Evidence:
    """Return feedback of that age at time 0."""
    return Evidence(at_ms=-round(age_days * DAY_MS), helpful=helpful, weight=weight)


def worth(*events: Evidence) -> float:
    """Return the prior that these events make, with a half-life of 100 days."""
    return prior(*posterior(events, now_ms=0, half_life_days=100))


def test_a_memory_of_which_nothing_is_known_keeps_its_score_exactly() -> None:
    """And so does one of which as much good as bad is known."""
    assert worth() == 1.0
    assert worth(event(helpful=True), event(helpful=False)) == 1.0


@given(st.lists(st.builds(event, helpful=st.booleans(), age_days=st.floats(-10, 5_000), weight=st.floats(0, 1)), max_size=200))
def test_a_prior_stays_near_one(events: list[Evidence]) -> None:
    """No feedback lifts a memory over one that fits much better, or loses it."""
    assert 1 - SPREAD < worth(*events) < 1 + SPREAD


def test_what_helped_rises_and_the_more_often_the_higher() -> None:
    """A posterior, not a counter: each further event moves it less."""
    values = [worth(*[event(helpful=True)] * n) for n in range(5)]
    gains = [b - a for a, b in pairwise(values)]
    assert all(gain > 0 for gain in gains)
    assert gains == sorted(gains, reverse=True)
    assert worth(event(helpful=False)) == pytest.approx(2 - worth(event(helpful=True)))


def test_feedback_counts_half_after_its_half_life() -> None:
    """Slowly it is forgotten, and never quite."""
    alpha, beta = posterior([event(helpful=True, age_days=100)], now_ms=0, half_life_days=100)
    assert (alpha, beta) == (1.5, 1.0)
    assert worth(event(helpful=True, age_days=10_000)) == pytest.approx(1.0)


def test_weighing_orders_by_the_product_and_changes_nothing_where_nothing_is_known() -> None:
    """Equals stay in the order of their rows, and no score leaves 0 to 1."""
    ranking = tuple(
        Ranked(row=row, score=score, dense=0, lexical=0, whole=0, passages=()) for row, score in ((1, 0.99), (2, 0.5), (3, 0.49))
    )
    assert weigh(ranking, {}) == ranking
    assert [(r.row, r.score) for r in weigh(ranking, {3: 1.08, 1: 1.05})] == [(1, 1.0), (3, pytest.approx(0.5292)), (2, 0.5)]
