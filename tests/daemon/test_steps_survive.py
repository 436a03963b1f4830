"""Real engines are killed while steps are logged: what was acknowledged is there afterwards."""

from __future__ import annotations

import json

import pytest
from clients import Client, RefusedError
from places import Place

LATE = {"TRACEBANK_LEARNING__FLUSH_S": "3000", "TRACEBANK_LEARNING__FLUSH_STEPS": "10000"}


def content_of(client: Client, trace_id: str) -> str:
    """Return the content of a trace, or of an open episode."""
    result = client.request("resources/read", {"uri": f"trace://{trace_id}"})
    return str(json.loads(result["contents"][0]["text"])["content"])


def test_steps_that_no_commit_has_seen_survive_a_kill(here: Place) -> None:
    """Nothing was stored but the journal; the next engine takes it up, and the episode goes on."""
    with Client(here, **LATE) as client:
        client.greet()
        episode = client.call("log_steps", task="Survive", steps=[{"action": "first"}])["episode_id"]
        assert client.call("log_steps", episode_id=episode, steps=[{"action": "second"}])["steps"] == 2
        learning = client.call("stats", section="learning")["learning"]
        assert (learning["buffered_steps"], learning["open_episodes"]) == (2, 1)
        here.kill()
        assert client.call_again("log_steps", episode_id=episode, steps=[{"action": "third"}])["steps"] == 3
        done = client.call("complete_episode", episode_id=episode, outcome="success")
        assert done["trace_id"] == episode
        assert [word in content_of(client, episode) for word in ("first", "second", "third")] == [True] * 3
    assert here.exported() == {episode}
    assert len(here.starts) == 2


def test_of_many_steps_in_flight_at_a_kill_none_that_was_acknowledged_is_lost(here: Place) -> None:
    """Of several sessions; those without an answer are to be retried."""
    with Client(here) as one, Client(here) as other:
        calls = []
        for client in (one, other):
            client.greet()
            episode = client.call("log_steps", task="Survive")["episode_id"]
            messages = [
                client.message(
                    "tools/call", {"name": "log_steps", "arguments": {"episode_id": episode, "steps": [{"action": f"do <{n}>"}]}}
                )
                for n in range(80)
            ]
            client.send(*messages)
            calls.append((client, episode, messages))
        for client, _, messages in calls:
            client.answer(messages[20]["id"])
        here.kill()
        for client, episode, messages in calls:
            answers = [client.answer(message["id"]) for message in messages]
            acknowledged = [f"do <{n}>" for n, answer in enumerate(answers) if "result" in answer]
            assert all("result" in answer or answer["error"]["data"] == {"retry": True} for answer in answers)
            content = content_of(client, episode)
            assert acknowledged
            assert [action for action in acknowledged if action not in content] == []
        assert len(here.starts) == 2


def test_a_kill_between_the_trace_and_the_answer_leaves_one_complete_episode(here: Place) -> None:
    """Whoever calls again gets the answer that was lost on the way."""
    here.sabotage("""
from tracebank.learning.episodes import Episodes
store = Episodes._store_trace
async def fatal(self, *args, **named):
    await store(self, *args, **named)
    die()
Episodes._store_trace = fatal
""")
    with Client(here) as client:
        client.greet()
        episode = client.call("log_steps", task="Survive", steps=[{"action": "a"}])["episode_id"]
        with pytest.raises(RefusedError, match="Retry this call"):
            client.call("complete_episode", episode_id=episode, outcome="success")
        done = client.call("complete_episode", episode_id=episode, outcome="success")
        assert (done["trace_id"], done["reward_parts"]["outcome"]) == (episode, 1)
    assert here.exported() == {episode}
