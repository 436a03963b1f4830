"""Pauses and the breaker, as the pure things they are."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest
from llm.conftest import NOON, Time

from tracebank.errors import LlmCapError, LlmRefusedError, LlmUnavailableError
from tracebank.llm.breaker import Breaker
from tracebank.llm.faults import retry_after_s
from tracebank.llm.retrying import Patience, pause_s

PATIENCE = Patience(attempts=9, first_s=1.0, most_s=10.0)


def test_pauses_are_uniform_up_to_a_bound_that_doubles_and_ends() -> None:
    """Full jitter: from nothing to 1, 2, 4, 8, then 10 seconds, evenly."""
    rng = random.Random(3)
    for failed, most in enumerate([1.0, 2.0, 4.0, 8.0, 10.0, 10.0], start=1):
        pauses = sorted(pause_s(PATIENCE, failed, None, rng) for _ in range(2_000))
        assert 0 <= pauses[0] < 0.02 * most
        assert 0.98 * most < pauses[-1] <= most
        assert pauses[1_000] == pytest.approx(most / 2, rel=0.1)


def test_the_same_chance_gives_the_same_pauses() -> None:
    """Randomness is handed in."""
    twice = [[pause_s(PATIENCE, n, None, random.Random(n)) for n in range(1, 5)] for _ in range(2)]
    assert twice[0] == twice[1]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("3", 3.0), ("", None), ("soon", None), ("-5", None), ("Wed, 25 Nov 2026 12:00:30 -0000", 30.0),
        ("9" * 400, 86_400.0), ("Wed, 25 Nov 2099 12:00:30 -0000", 86_400.0), (f"Mon, 01 Jan 2024 00:00:00 +{'9' * 20}", None),
    ],
)  # fmt: skip
def test_retry_after_is_read_where_it_can_be(value: str, expected: float | None) -> None:
    """What is no time is no wish, and nobody is left alone for more than a day."""
    assert retry_after_s({"retry-after": value}, now=datetime.fromtimestamp(NOON, UTC)) == expected


def breaker_of(time: Time) -> Breaker:
    """Return one that opens at the second failure, for ten seconds."""
    return Breaker("tiny", failures=2, pause_s=10, clock=time.clock)


def fail(breaker: Breaker, error: Exception) -> None:
    """Let a call end in an error."""
    with pytest.raises(type(error)), breaker.guard():
        raise error


DOWN = LlmUnavailableError("tiny", "down", again=True)
LIMITED = LlmUnavailableError("tiny", "too many requests", status=429, again=True)


def test_only_failures_in_a_row_open_it(time: Time) -> None:
    """An answer in between, even one that is of no use, starts the count again; rate limits and caps do not count."""
    breaker = breaker_of(time)
    for error in (DOWN, LlmRefusedError("tiny", "no"), DOWN, LIMITED, LlmCapError("enough")):
        fail(breaker, error)
        assert breaker.state == "closed"
    fail(breaker, DOWN)
    assert (breaker.state, breaker.openings) == ("open", 1)
    with pytest.raises(LlmUnavailableError, match="it is left alone after failures, for another 10 s"), breaker.guard():
        pytest.fail("a call went through an open breaker")


def test_half_open_lets_one_through_which_decides(time: Time) -> None:
    """The others wait; a failure opens it again, a cancelled one decides nothing, a success closes it."""
    breaker = breaker_of(time)
    fail(breaker, DOWN)
    fail(breaker, DOWN)
    time.now += 11
    with breaker.guard(), pytest.raises(LlmUnavailableError), breaker.guard():
        pytest.fail("two probes at once")
    assert breaker.state == "closed"
    fail(breaker, DOWN)
    fail(breaker, DOWN)
    time.now += 11
    fail(breaker, LIMITED)
    assert breaker.state == "open"
    time.now += 11
    fail(breaker, KeyboardInterrupt())  # type: ignore[arg-type]
    assert breaker.state == "half_open"
    with breaker.guard():
        pass
    assert breaker.state == "closed"


def test_a_call_from_before_does_not_close_it(time: Time) -> None:
    """It tells of the past."""
    breaker = breaker_of(time)
    with breaker.guard():
        breaker.hold(60)
    assert breaker.state == "open"
