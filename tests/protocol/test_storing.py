"""What an agent stores is what it gets back: every field, every character, any size up to the limit."""

from __future__ import annotations

import json
import uuid
from typing import Any
from urllib.parse import quote

import pytest
from talk import Talk, text_of

MIB = 1_048_576
WHOLE: dict[str, Any] = {
    "task": "Find out why the café's 注文 pipeline drops orders 🦖",
    "content": "1. Looked.\n\n2. Found.\t<memory> & \"quotes\" \\ {braces}\u2028end",
    "outcome": "partial",
    "lessons": ["Count both ends.", {"title": "Ordering", "description": "queues", "content": "Number the messages."}],
    "tags": ["queues", "naïve"],
    "parent_id": "the one before",
    "occurred_at": "2026-03-01T09:30:00Z",
    "metadata": {"attempts": 2, "share": 0.5, "merged": True, "branch": "größe"},
}  # fmt: skip


def whole(talk: Talk, trace_id: str) -> dict[str, Any]:
    """Return a trace as its resource gives it."""
    trace: dict[str, Any] = json.loads(talk.read(f"trace://{quote(trace_id, safe='')}"))
    return trace


def test_a_trace_comes_back_as_it_was_stored(either: Talk, namespace: str) -> None:
    """Every field of the contract, in the form in which it went in."""
    added = either.call("add_trace", **WHOLE, namespace=namespace, trace_id=namespace)
    assert (added["trace_id"], added["status"]) == (namespace, "created")
    assert added["tokens"] > 0
    # The task, two lessons and the content.
    assert added["chunks"] == 4
    assert whole(either, namespace) == {**WHOLE, "namespace": namespace, "trace_id": namespace}


def test_the_same_id_again_updates_and_the_same_trace_again_changes_nothing(talk: Talk, namespace: str) -> None:
    """A client that repeats a call after a lost answer does no harm."""
    trace = {"task": "Repeat a call", "trace_id": namespace, "namespace": namespace}
    assert talk.call("add_trace", **trace)["status"] == "created"
    assert talk.call("add_trace", **trace)["status"] == "unchanged"
    assert talk.call("add_trace", **trace, content="More was learned.")["status"] == "updated"
    assert whole(talk, namespace)["content"] == "More was learned."
    assert talk.found(query="repeat a call", namespace=namespace) == [namespace]


def test_a_trace_without_an_id_gets_one_in_the_order_of_time(talk: Talk, namespace: str) -> None:
    """A UUID of version 7; two adds are two traces."""
    ids = [talk.call("add_trace", task="No id", namespace=namespace)["trace_id"] for _ in range(2)]
    assert [uuid.UUID(trace_id).version for trace_id in ids] == [7, 7]
    assert sorted(set(ids)) == ids


def test_a_trace_is_found_at_once_by_who_stored_it(either: Talk, namespace: str) -> None:
    """An agent finds what it just wrote, whether or not the model is there."""
    for number in range(3):
        trace_id = f"{namespace} {number}"
        either.call("add_trace", task=f"Feed wombat number {number}", namespace=namespace, trace_id=trace_id)
        assert trace_id in either.found(query="feed the wombat", namespace=namespace)


@pytest.mark.parametrize("content", ['{"a": 1}', "[1, 2]", '"text"', "null", "5", " \n", "a\r\nb\rc", "\ufeffbom", "e\u0301"])
def test_content_is_kept_character_by_character(talk: Talk, namespace: str, content: str) -> None:
    """Content that happens to be JSON is text; white space and marks stay as they are."""
    talk.call("add_trace", task="Keep it verbatim", content=content, namespace=namespace, trace_id=namespace)
    assert whole(talk, namespace).get("content", "") == content


def test_a_task_that_is_json_is_text(talk: Talk, namespace: str) -> None:
    """Only arguments that cannot be text are ever decoded."""
    talk.call("add_trace", task='["a"]', namespace=namespace, trace_id=namespace)
    assert whole(talk, namespace)["task"] == '["a"]'


def test_lists_and_objects_sent_as_json_strings_are_accepted(talk: Talk, namespace: str) -> None:
    """Some clients send every argument as a string."""
    talk.call(
        "add_trace", task="Sent as strings", namespace=namespace, trace_id=namespace,
        lessons='["a", {"title": "b", "content": "c"}]', tags='["x", "y"]', metadata='{"n": 1}',
    )  # fmt: skip
    stored = whole(talk, namespace)
    assert stored["lessons"] == ["a", {"title": "b", "description": "", "content": "c"}]
    assert (stored["tags"], stored["metadata"]) == (["x", "y"], {"n": 1})
    assert talk.found(query="sent", k="1", tags='["x"]', max_tokens="50", namespace=namespace) == [namespace]


@pytest.mark.parametrize("unit", ["wombat ", "wombat", "é", "文"], ids=["a word", "a word without end", "letters", "signs"])
def test_a_mebibyte_of_one_thing_is_stored_found_and_fetched_whole(talk: Talk, namespace: str, unit: str) -> None:
    """The longest content there may be, byte by byte."""
    content = (unit * MIB).encode()[:MIB].decode(errors="ignore")
    talk.call("add_trace", task="Keep the longest log", content=content, namespace=namespace, trace_id=namespace)
    answer = talk.call("retrieve", query="the longest log", namespace=namespace, max_tokens=500)
    assert [memory["trace_id"] for memory in answer["results"]] == [namespace]
    assert answer["tokens"] <= 500
    assert whole(talk, namespace)["content"] == content


def test_a_mebibyte_of_a_word_is_found_by_the_word(talk: Talk, namespace: str) -> None:
    """However often it stands there."""
    content = ("numbat " * MIB)[:MIB]
    talk.call("add_trace", task="A log", content=content, namespace=namespace, trace_id=namespace)
    assert talk.found(query="numbat", namespace=namespace, max_tokens=50) == [namespace]


def test_the_text_part_is_for_a_model_and_short(either: Talk, namespace: str) -> None:
    """It says what was done to which trace, once."""
    result = either.result("add_trace", task="Say it briefly", namespace=namespace, trace_id=namespace)
    assert text_of(result) == f"created {namespace}"


def test_no_tool_says_the_same_json_twice(either: Talk, namespace: str) -> None:
    """The structured content is for programs, the text for a model, and a model pays by the token."""
    calls = {
        "add_trace": {"task": "Say it once", "namespace": namespace},
        "retrieve": {"query": "say", "namespace": namespace},
        "compress_prompt": {"text": "Say it once."},
        "stats": {},
    }
    for tool, arguments in calls.items():
        result = either.result(tool, **arguments)
        assert not result.is_error
        assert result.structured_content
        with pytest.raises(json.JSONDecodeError):
            json.loads(text_of(result))
