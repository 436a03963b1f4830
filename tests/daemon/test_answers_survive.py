"""Answers that are kept survive a real engine's end, and are never older than what was acknowledged."""

from __future__ import annotations

from typing import Any

from clients import Client
from places import Place

QUESTION = "the upload that fails on Tuesdays"


def ask(client: Client) -> Any:
    """Ask the question."""
    return client.call("retrieve", query=QUESTION)


def hits(client: Client) -> int:
    """Return how many answers of its engine came from the cache."""
    return int(client.call("stats", section="caches")["caches"]["results"]["hits"])


def known(here: Place) -> Any:
    """Store a trace, ask for it, and end the engine as a person does. Returns the answer."""
    with Client(here) as client:
        client.greet()
        client.call("add_trace", task="Mend the upload that fails on Tuesdays", trace_id="first")
        answer = ask(client)
    assert here.run("stop").returncode == 0
    return answer


def test_the_first_answer_after_a_restart_is_a_hit(here: Place) -> None:
    """It is the same as before."""
    before = known(here)
    with Client(here) as client:
        client.greet()
        assert ask(client) == before
        assert hits(client) == 1
    assert len(here.starts) == 2


def test_after_a_kill_no_answer_is_older_than_what_was_acknowledged(here: Place) -> None:
    """What was on disk before the write is not served after it, however the engine has ended."""
    known(here)
    with Client(here) as client:
        client.greet()
        client.call("add_trace", task="The upload that fails on Tuesdays, again", trace_id="second")
        here.kill()
        client.call("add_trace", task="Something else", trace_id="third")
        assert {result["trace_id"] for result in ask(client)["results"]} >= {"first", "second"}
        assert hits(client) == 0
    assert len(here.starts) == 3
