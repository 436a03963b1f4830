"""Episodes and feedback as an agent sees them: over MCP, in both eras, words in and words out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from counting import tokens_in
from mcp.shared.exceptions import MCPError
from talk import Talk, text_of

from tracebank.protocol.server import INSTRUCTIONS

STEPS = [
    {"action": "run_tests()", "observation": "ModuleNotFoundError: No module named 'x'", "ok": False, "duration_ms": 900},
    {"action": "pip install x", "observation": "installed", "ok": True},
    {"action": "run_tests()", "observation": "12 passed", "ok": True, "thought": "That was it."},
]


def logged(talk: Talk, *steps: dict[str, Any], task: str = "Make the tests of the ledger pass") -> str:
    """Log an episode step by step and return its id."""
    episode_id = str(talk.call("log_steps", task=task)["episode_id"])
    for number, step in enumerate(steps, 1):
        assert talk.call("log_steps", episode_id=episode_id, steps=[step]) == {"episode_id": episode_id, "steps": number}
    return episode_id


def test_an_agent_logs_completes_recalls_and_rates(either: Talk) -> None:
    """The whole loop; the memory that comes of it tells what to do."""
    episode_id = logged(either, *STEPS)
    done = either.call("complete_episode", episode_id=episode_id, outcome="success")
    assert done["trace_id"] == episode_id
    assert 0.8 < done["reward"] <= 1
    assert set(done) == {"trace_id", "reward", "reward_parts", "reflection", "lessons", "patterns"}
    assert "do `pip install x` and repeat it" in done["lessons"][0]
    found = either.call("retrieve", query="the tests of the ledger do not pass", k=50)
    # The same was learned in the other era: of the two one is shown.
    (memory,) = [m for m in found["results"] if episode_id in (m["trace_id"], *m.get("near_equal", ()))]
    assert any("pip install x" in lesson for lesson in memory["lessons"])
    assert either.call("feedback", trace_ids=[episode_id], helpful=True, note="saved an hour") == {"updated": 1}


def test_the_text_of_a_completion_is_for_a_model_and_not_the_json_again(talk: Talk) -> None:
    """Short, with the reflection."""
    text = text_of(talk.result("complete_episode", episode_id=logged(talk, *STEPS), outcome="failure"))
    assert text.startswith("remembered as ")
    assert "Failed: `run_tests()` failed with" in text
    assert "{" not in text


def test_an_open_episode_can_be_read_and_handed_over(either: Talk) -> None:
    """By address; another session goes on with it."""
    episode_id = logged(either, *STEPS[:2])
    trace = json.loads(either.read(f"trace://{episode_id}"))
    assert trace["metadata"] == {"open": True, "steps": 2}
    assert "Step 2 (ok): pip install x" in trace["content"]
    handoff = either.read(f"episode://{episode_id}/handoff")
    assert "Goal: Make the tests of the ledger pass" in handoff
    assert f"log_steps with episode_id {episode_id}" in handoff
    assert tokens_in(either, handoff) < 400
    either.call("complete_episode", episode_id=episode_id, outcome="partial")
    with pytest.raises(MCPError, match=f"no open episode '{episode_id}': when it is complete, read trace://{episode_id}"):
        either.read(f"episode://{episode_id}/handoff")
    assert json.loads(either.read(f"trace://{episode_id}"))["outcome"] == "partial"
    with pytest.raises(MCPError, match="no open episode 'nobody': take the id from the answer of log_steps"):
        either.read("episode://nobody/handoff")


BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "nothing": ("log_steps", {}, "task: is required to start an episode: say what is attempted; or give the episode_id of an open one"),
    "empty task": ("log_steps", {"task": " "}, "task: must not be empty"),
    "unknown episode": ("log_steps", {"episode_id": "e", "steps": [{"action": "a"}]}, "episode_id: 'e' is not known: leave it out, and"),
    "no steps": ("log_steps", {"episode_id": "e"}, "steps: must not be empty: give what was done since the last call"),
    "steps no list": ("log_steps", {"task": "t", "steps": 5}, "steps: must be a list, not a number"),
    "too many steps": ("log_steps", {"task": "t", "steps": ["a"] * 201}, "steps: must have at most 200 items, not 201"),
    "step a number": (
        "log_steps",
        {"task": "t", "steps": [5]},
        "steps[0]: must be an object of action, observation, thought, ok, duration_",
    ),
    "no action": ("log_steps", {"task": "t", "steps": [{"ok": True}]}, "steps[0].action: is required: say what was done"),
    "unknown key": (
        "log_steps",
        {"task": "t", "steps": [{"action": "a", "result": 1}]},
        "steps[0]: has the unknown key 'result'; the keys",
    ),
    "ok a word": ("log_steps", {"task": "t", "steps": ["a", {"action": "a", "ok": "no"}]}, "steps[1].ok: must be true or false, not 'no'"),
    "endless": (
        "log_steps",
        {"task": "t", "steps": [{"action": "a", "duration_ms": -1}]},
        "steps[0].duration_ms: must be milliseconds from 0",
    ),
    "long": (
        "log_steps",
        {"task": "t", "steps": [{"action": "a" * 8_001}]},
        "steps[0].action: must be at most 8,000 characters, not 8,001",
    ),
    "no outcome": ("complete_episode", {"episode_id": "e"}, "outcome: is required."),
    "wrong outcome": (
        "complete_episode",
        {"episode_id": "e", "outcome": "won"},
        "outcome: must be one of success, failure, partial, unknown",
    ),
    "no episode": (
        "complete_episode",
        {"episode_id": "e", "outcome": "success"},
        "episode_id: 'e' is not known: take it from the answer of",
    ),
    "reward": (
        "complete_episode",
        {"episode_id": "e", "outcome": "success", "reward": 2},
        "reward: must be a number from 0 up to 1, not 2",
    ),
    "lessons": ("complete_episode", {"episode_id": "e", "outcome": "success", "lessons": "x"}, "lessons: must be a list, not a string"),
    "no ids": ("feedback", {"trace_ids": [], "helpful": True}, "trace_ids: must not be an empty list: give the ids of the memories"),
    "unknown id": (
        "feedback",
        {"trace_ids": ["x"], "helpful": True},
        "trace_ids[0]: 'x' is not known; take the id from a result of retrieve",
    ),
    "helpful": ("feedback", {"trace_ids": ["x"], "helpful": "very"}, "helpful: must be true or false, not 'very'"),
    "note": ("feedback", {"trace_ids": ["x"], "helpful": True, "note": "x" * 2_001}, "note: must be at most 2,000 characters, not 2,001"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_with_field_limit_value_and_next_step(talk: Talk, case: str) -> None:
    """And nothing is begun, ended or recorded."""
    before = talk.call("stats", section="learning")["learning"]
    tool, arguments, message = BAD[case]
    assert talk.refusal(tool, **arguments).startswith(message)
    assert talk.call("stats", section="learning")["learning"] == before


def test_instructions_and_prompts_teach_the_loop_in_few_words(talk: Talk) -> None:
    """What every conversation pays for."""
    reflect = talk.prompt("reflect")
    assert {"complete_episode", "add_trace", "feedback"} <= {word.strip(".,:;") for word in reflect.split()}
    task = "quagga"
    own_words = talk.prompt("recall", task=task).replace(text_of(talk.result("retrieve", query=task)), "").replace(task, "")
    assert len(own_words) < 200
    assert tokens_in(talk, INSTRUCTIONS) + tokens_in(talk, reflect) + tokens_in(talk, own_words) < 300
