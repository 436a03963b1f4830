"""What can be seen in steps: tools, errors, recoveries, dead ends, loops."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracebank.learning.analysis import Observed, error_kind, error_line, failed, observe, one_line, tool_of
from tracebank.records import Outcome
from tracebank.steps import Step

MISSING = "Traceback (most recent call last):\n  File x\nModuleNotFoundError: No module named 'freezegun'\n"


def steps(*told: tuple[str, str, bool]) -> list[Step]:
    """Return steps of (action, observation, ok)."""
    return [Step(action=action, observation=observation, ok=ok) for action, observation, ok in told]


def seen(*told: tuple[str, str, bool], outcome: Outcome = Outcome.SUCCESS) -> Observed:
    """Return what such steps show."""
    return observe(steps(*told), outcome=outcome)


def test_each_step_is_looked_at_a_few_times_however_many_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """An episode of 5,000 failures is followed up in a moment."""
    calls = 0

    def counted(action: str) -> str:
        nonlocal calls
        calls += 1
        return tool_of(action)

    monkeypatch.setattr("tracebank.learning.analysis.tool_of", counted)
    seen(*[(f"run_{number}()", "ValueError", False) for number in range(300)])
    assert calls <= 3 * 300


@pytest.mark.parametrize(
    ("action", "tool"),
    [
        ("run_tests(path='billing')", "run_tests"),
        ("git commit -m 'x'", "git commit"),
        ("pytest tests/x.py", "pytest"),
        ("click [Submit]", "click"),
        ("search: flights to Rome", "search"),
        ('{"tool": "browse", "url": "a"}', "browse"),
        ('{"not json', '{"not'),
        ("Open the settings", "Open"),
        ("open the settings", "open"),
        ("x", "x"),
    ],
)
def test_the_tool_is_read_from_the_beginning_of_an_action(action: str, tool: str) -> None:
    """Whatever way an agent writes its calls."""
    assert tool_of(action) == tool


@pytest.mark.parametrize(
    ("ok", "observation", "expected"),
    [
        (True, "Error: but the agent says it went well", False),
        (False, "fine", True),
        (None, "ValueError: x", True),
        (None, "json.decoder.JSONDecodeError: x", True),
        (None, "error: no such file", True),
        (None, "Building\nfailed", True),
        (None, "no error was found", False),
        (None, "failures: 0 and all is well\nbut look at\nerrors in the middle\nyes", False),
        (None, "", False),
    ],
)
def test_a_step_has_failed_if_its_agent_says_so_or_else_if_its_answer_looks_so(ok: bool | None, observation: str, expected: bool) -> None:
    """Only the first and the last line are looked at: a log in between may tell of anything."""
    assert failed(Step(action="a", observation=observation, ok=ok)) is expected


def test_the_most_telling_line_of_an_error_is_the_last_that_names_one() -> None:
    """A traceback ends with it; where none names one it is the first line."""
    assert error_line(MISSING) == "ModuleNotFoundError: No module named 'freezegun'"
    assert error_line("\n  it did not work\nat all") == "it did not work"
    assert error_line("") == ""


def test_errors_are_alike_when_they_differ_in_numbers_paths_and_names_only() -> None:
    """So that two episodes can have had the same trouble."""
    assert error_kind("KeyError: 'a' in /x/y.py line 12") == error_kind("KeyError: 'b' in /z.py line 7")
    assert error_kind("KeyError: 'a'") != error_kind("ValueError: 'a'")


def test_what_was_done_before_the_same_action_worked_is_what_it_needed() -> None:
    """Each error of an action has its own recovery."""
    found = seen(
        ("run_tests()", MISSING, False), ("pip install freezegun", "ok", True),
        ("run_tests()", "2 failed", False), ("edit(a)", "ok", True), ("run_tests()", "ok", True),
    )  # fmt: skip
    assert [(r.how, r.fix, r.mistake.error) for r in found.recoveries] == [
        ("prepared", ("pip install freezegun",), "ModuleNotFoundError: No module named 'freezegun'"),
        ("prepared", ("edit(a)",), "2 failed"),
    ]
    assert (found.errors, found.recovered, found.retries, found.dead_ends) == (2, 2, 2, ())


def test_another_form_of_the_action_that_worked_is_what_to_use() -> None:
    """If it came soon after; much later it is another matter."""
    near = seen(("search(query=a)", "Error: no query", False), ("search(q=a)", "found", True), ("end()", "", True))
    assert [(r.how, r.fix) for r in near.recoveries] == [("changed", ("search(q=a)",))]
    between = [(f"look({i})", "", True) for i in range(5)]
    far = seen(("search(query=a)", "Error: no query", False), *between, ("search(q=b)", "found", True))
    assert [m.action for m in far.dead_ends] == ["search(query=a)"]


def test_an_action_that_worked_when_repeated_unchanged_needed_nothing() -> None:
    """It was a passing trouble."""
    found = seen(("fetch(a)", "timed out", False), ("fetch(a)", "page", True))
    assert [(r.how, r.fix) for r in found.recoveries] == [("repeated", ())]


def test_an_action_that_was_given_up_for_another_one_is_replaced_by_it() -> None:
    """Only if the tool that failed was not used again, and the episode went on well."""
    found = seen(("use_api(a)", "HTTP 403", False), ("scrape(a)", "page", True))
    assert [(r.how, r.fix) for r in found.recoveries] == [("replaced", ("scrape(a)",))]
    ended_badly = seen(("use_api(a)", "HTTP 403", False), ("scrape(a)", "page", True), ("save()", "Error", False))
    assert [m.action for m in ended_badly.dead_ends] == ["use_api(a)", "save()"]


@pytest.mark.parametrize("outcome", [Outcome.FAILURE, Outcome.UNKNOWN])
def test_what_is_looked_at_before_giving_up_replaces_nothing(outcome: Outcome) -> None:
    """Nor where nobody knows yet how it ends: an agent that looks around after a failure has not solved it."""
    told = [("kubectl apply -f app.yaml", "error: no matches for kind Ingress", False), ("ls", "app.yaml", True)]
    found = seen(*told, outcome=outcome)
    assert ([m.action for m in found.dead_ends], found.recovered) == ([told[0][0]], 0)
    assert not seen(*told, outcome=Outcome.PARTIAL).dead_ends


def test_what_never_worked_is_a_dead_end_however_often_it_was_tried() -> None:
    """With the number of times."""
    found = seen(("deploy()", "denied", False), ("look()", "", True), ("deploy()", "denied", False))
    assert [(m.action, m.times) for m in found.dead_ends] == [("deploy()", 2)]
    assert (found.retries, found.recovered) == (1, 0)


def test_the_same_answer_again_and_again_is_a_loop() -> None:
    """Twice may be a check; an action whose answers differ makes progress."""
    assert seen(*[("poll()", "pending", True)] * 3).loops == (("poll()", 3),)
    assert not seen(*[("poll()", "pending", True)] * 2).loops
    assert not seen(*[("poll()", f"{i} %", True) for i in range(5)]).loops


def test_waiting_for_a_person_is_no_effort() -> None:
    """Neither its steps nor its time count."""
    own = [Step(action="edit(a)", ok=True, duration_ms=5.0), Step(action="ask_user(which one?)", ok=True, duration_ms=1e6)]
    found = observe(own, outcome=Outcome.SUCCESS, waiting_actions=("ask_user",))
    assert (found.steps, found.duration_ms, found.effort, found.route) == (1, 5.0, 1, ("edit(a)",))


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["", "Error 1", "x\ny"]), st.booleans()), max_size=30))
def test_every_failure_is_recovered_or_a_dead_end(told: list[tuple[str, str, bool]]) -> None:
    """Whatever the steps are, the counts agree with each other."""
    found = seen(*told)
    assert found.errors == sum(not ok for *_, ok in told)
    assert 0 <= found.recovered <= found.errors
    assert found.errors == sum(r.mistake.times for r in found.recoveries) + sum(m.times for m in found.dead_ends)
    assert found.recovered == sum(r.mistake.times for r in found.recoveries)
    assert 0 <= found.retries <= found.steps


@given(st.text(max_size=400), st.integers(2, 50))
def test_one_line_is_one_and_no_longer_than_asked(text: str, chars: int) -> None:
    """Whatever is in it."""
    line = one_line(text, chars)
    assert len(line) <= chars
    assert "\n" not in line
