"""Whatever is wrong with a call, its author reads the field, the limit, the value and what to do; nothing is stored."""

from __future__ import annotations

import json
from typing import Any

import pytest
from clients import Client
from homes import Home
from mcp.types import INVALID_PARAMS, INVALID_REQUEST, PARSE_ERROR
from talk import Talk

MIB = 1_048_576
ADD_ARGUMENTS = "task, content, outcome, lessons, tags, namespace, trace_id, parent_id, occurred_at, metadata"
OUTCOMES = "must be one of success, failure, partial, unknown, not"
TIME = "must be an RFC 3339 time such as 2026-03-01T09:30:00Z, not"

ADD_TRACE: dict[str, tuple[dict[str, Any], str]] = {
    "no task": ({"task": None}, "task: is required. What was attempted, or when this memory applies"),
    "empty task": ({"task": ""}, "task: must not be empty"),
    "blank task": ({"task": " \n"}, "task: must not be empty"),
    "long task": ({"task": "x" * 8_001}, "task: must be at most 8,000 characters, not 8,001: shorten it"),
    "task a number": ({"task": 5}, "task: must be a string, not a number"),
    "task a list": ({"task": ["a"]}, "task: must be a string, not a list"),
    "task with NUL": ({"task": "a\0b"}, "task: has a NUL character at position 1: remove it"),
    "content an object": ({"content": {"a": 1}}, "content: must be a string, not an object"),
    "content with NUL": ({"content": "\0"}, "content: has a NUL character at position 0: remove it"),
    "long content": ({"content": "x" * (MIB + 1)}, "content: must be at most 1,048,576 bytes of UTF-8, not 1,048,577: shorten it"),
    "content of many bytes": (
        {"content": "é" * (MIB // 2) + "x"},
        "content: must be at most 1,048,576 bytes of UTF-8, not 1,048,577: shorten it",
    ),
    "unknown outcome": ({"outcome": "won"}, f"outcome: {OUTCOMES} 'won'"),
    "outcome a number": ({"outcome": 3}, f"outcome: {OUTCOMES} 3"),
    "lessons a string": ({"lessons": "wait for the event"}, "lessons: must be a list, not a string"),
    "lessons a number": ({"lessons": 5}, "lessons: must be a list, not a number"),
    "lesson a number": (
        {"lessons": ["a", 5]},
        "lessons[1]: must be a string or an object of title, description and content, not a number",
    ),
    "lesson with a wrong key": (
        {"lessons": [{"titel": "a", "content": "b"}]},
        "lessons[0]: has the unknown key 'titel'; the keys are title, description, content",
    ),
    "lesson without content": ({"lessons": [{"title": "a"}]}, "lessons[0].content: must not be empty"),
    "many lessons": ({"lessons": ["a"] * 101}, "lessons: must have at most 100 items, not 101"),
    "tags a string": ({"tags": "python"}, "tags: must be a list, not a string"),
    "tags an object": ({"tags": {"python": True}}, "tags: must be a list, not an object"),
    "tag a number": ({"tags": [1]}, "tags[0]: must be a string, not a number"),
    "empty tag": ({"tags": [""]}, "tags[0]: must not be empty"),
    "namespace a number": ({"namespace": 5}, "namespace: must be a string, not a number"),
    "namespace of all": ({"namespace": "*"}, "namespace: '*' stands for all namespaces when searching; give it a name of its own"),
    "trace_id a number": ({"trace_id": 7}, "trace_id: must be a string, not a number"),
    "trace_id of two lines": (
        {"trace_id": "a\nb"},
        "trace_id: must be one line without control characters or outer spaces, not 'a\\nb'",
    ),
    "long trace_id": ({"trace_id": "x" * 201}, "trace_id: must be at most 200 characters, not 201: shorten it"),
    "parent_id a list": ({"parent_id": ["a"]}, "parent_id: must be a string, not a list"),
    "occurred_at no time": ({"occurred_at": "yesterday"}, f"occurred_at: {TIME} 'yesterday'"),
    "occurred_at a number": ({"occurred_at": 5}, f"occurred_at: {TIME} 5"),
    "metadata a list": ({"metadata": [1]}, "metadata: must be an object, not a list"),
    "metadata with depth": (
        {"metadata": {"a": {"b": 1}}},
        "metadata.a: must be a string, a finite number or a boolean, not {'b': 1}: metadata is flat",
    ),
    "unknown argument": ({"titel": "x"}, f"titel: is not an argument of add_trace; its arguments are {ADD_ARGUMENTS}"),
}

RETRIEVE: dict[str, tuple[dict[str, Any], str]] = {
    "no query": ({"query": None}, "query: is required. The task at hand in a sentence, or several: the best of each"),
    "empty query": ({"query": ""}, "query: must not be empty"),
    "no queries": ({"query": []}, "query: must not be an empty list"),
    "empty second query": ({"query": ["a", ""]}, "query[1]: must not be empty"),
    "query a number in a list": ({"query": [5]}, "query[0]: must be a string, not a number"),
    "long query": ({"query": "x" * 8_001}, "query: must be at most 8,000 characters, not 8,001: shorten it"),
    "many queries": ({"query": ["a"] * 17}, "query: must have at most 16 items, not 17"),
    "query with NUL": ({"query": "a\0"}, "query: has a NUL character at position 1: remove it"),
    "k 0": ({"k": 0}, "k: must be 1 to 50, not 0"),
    "k 51": ({"k": 51}, "k: must be 1 to 50, not 51"),
    "k huge": ({"k": 10**20}, "k: must be 1 to 50, not 100,000,000,000,000,000,000"),
    "k true": ({"k": True}, "k: must be a whole number from 1 to 50, not true"),
    "k a text": ({"k": "5x"}, "k: must be a whole number from 1 to 50, not '5x'"),
    "k a fraction": ({"k": 2.5}, "k: must be a whole number from 1 to 50, not 2.5"),
    "max_tokens 49": ({"max_tokens": 49}, "max_tokens: must be 50 to 100,000, not 49"),
    "max_tokens 100,001": ({"max_tokens": 100_001}, "max_tokens: must be 50 to 100,000, not 100,001"),
    "max_tokens a text": ({"max_tokens": "many"}, "max_tokens: must be a whole number from 50 to 100,000, not 'many'"),
    "no namespaces": ({"namespace": []}, "namespace: must not be an empty list: leave it out, or give '*' for all"),
    "namespace a number": ({"namespace": 5}, "namespace: must be a string or a list of strings, not a number"),
    "namespace a number in a list": ({"namespace": [5]}, "namespace: must be a string, not a number"),
    "unknown outcome": ({"outcome": "won"}, f"outcome: {OUTCOMES} 'won'"),
    "unknown outcome in a list": ({"outcome": ["success", "won"]}, f"outcome: {OUTCOMES} 'won'"),
    "tags a string": ({"tags": "python"}, "tags: must be a list, not a string"),
    "since no time": ({"since": "last week"}, f"since: {TIME} 'last week'"),
    "until a number": ({"until": 5}, f"until: {TIME} 5"),
    "since after until": (
        {"since": "2026-02-01", "until": "2026-01-01"},
        "since: must not be after until: '2026-02-01' is after '2026-01-01'",
    ),
    "a moment of a day after its beginning": (
        {"since": "2026-02-02T08:00:00Z", "until": "2026-02-01"},
        "since: must not be after until: '2026-02-02T08:00:00Z' is after '2026-02-01'",
    ),
    "unknown detail": ({"detail": "all"}, "detail: must be concise or full, not 'all'"),
    "cursor of nobody": ({"cursor": "nonsense"}, "cursor: is not one that retrieve returned: 'nonsense'; leave it out to start again"),
    "cursor a number": ({"cursor": 5}, "cursor: must be a string, not a number"),
    "unknown argument": (
        {"limit": 5},
        "limit: is not an argument of retrieve; its arguments are "
        "query, k, namespace, outcome, tags, since, until, metadata, max_tokens, detail, cursor",
    ),
}

COMPRESS_PROMPT: dict[str, tuple[dict[str, Any], str]] = {
    "no text": ({"text": None}, "text: is required. Up to 4 MiB"),
    "text a number": ({"text": 5}, "text: must be a string, not a number"),
    "text with NUL": ({"text": "a\0"}, "text: has a NUL character at position 1: remove it"),
    "long text": ({"text": "x" * (4 * MIB + 1)}, "text: must be at most 4,194,304 bytes of UTF-8, not 4,194,305: shorten it"),
    "large text": ({"text": "é" * (2 * MIB + 1)}, "text: must be at most 4,194,304 bytes of UTF-8, not 4,194,306: shorten it"),
    "max_tokens 0": ({"max_tokens": 0}, "max_tokens: must be 1 to 10,000,000, not 0"),
    "max_tokens a text": ({"max_tokens": "few"}, "max_tokens: must be a whole number from 1 to 10,000,000, not 'few'"),
    "keep_original 1": ({"keep_original": 1}, "keep_original: must be true or false, not 1"),
    "keep_original 0.0": ({"keep_original": 0.0}, "keep_original: must be true or false, not 0.0"),
    "both budgets": ({"max_tokens": 5, "ratio": 0.5}, "max_tokens: give max_tokens or ratio, not both"),
    "ratio 0": ({"ratio": 0}, "ratio: must be a number above 0 up to 1, not 0"),
    "ratio above 1": ({"ratio": 1.1}, "ratio: must be a number above 0 up to 1, not 1.1"),
    "ratio a text": ({"ratio": "half"}, "ratio: must be a number above 0 up to 1, not 'half'"),
    "head_ratio above 1": ({"head_ratio": 2}, "head_ratio: must be a number from 0 up to 1, not 2"),
    "unknown strategy": ({"strategy": "magic"}, "strategy: must be one of auto, head_tail, extract, code, not 'magic'"),
    "query a number": ({"query": 5}, "query: must be a string, not a number"),
    "keep a string": ({"keep": "a"}, "keep: must be a list, not a string"),
    "keep an empty string": ({"keep": ""}, "keep: must be a list, not a string"),
    "keep 0": ({"keep": 0}, "keep: must be a list, not a number"),
    "keep false": ({"keep": False}, "keep: must be a list, not a boolean"),
    "keep a number": ({"keep": [5]}, "keep[0]: must be a string, not a number"),
    "keep what is not there": ({"keep": ["zebra"]}, "keep: 'zebra' is not in the text: give it exactly as written there"),
}

SECTIONS = "engine, store, index, embedding, caches, latencies, tokens, compression, llm, learning, plugins, advice"
STATS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown section": ({"section": "cash"}, f"section: must be all or one of {SECTIONS}, not 'cash'"),
    "section a number": ({"section": 5}, f"section: must be all or one of {SECTIONS}, not 5"),
    "unknown argument": ({"part": "store"}, "part: is not an argument of stats; its arguments are section"),
}

CASES = [
    pytest.param(tool, {**needed, **arguments}, text, id=f"{tool}: {name}")
    for tool, needed, table in (
        ("add_trace", {"task": "A task that must not be stored"}, ADD_TRACE),
        ("retrieve", {"query": "anything"}, RETRIEVE),
        ("compress_prompt", {"text": "a b c"}, COMPRESS_PROMPT),
        ("stats", {}, STATS),
    )
    for name, (arguments, text) in table.items()
]


def stored(talk: Talk) -> int:
    """Return how many traces there are, in all namespaces."""
    count: int = talk.call("stats", section="store")["store"]["traces"]
    return count


@pytest.mark.parametrize(("tool", "arguments", "text"), CASES)
def test_a_wrong_argument_is_an_error_that_says_what_to_do(talk: Talk, tool: str, arguments: dict[str, Any], text: str) -> None:
    """The model reads the field, the limit and the value; the store is as before."""
    before = stored(talk)
    assert talk.refusal(tool, **arguments) == text
    assert stored(talk) == before


def test_both_eras_read_the_same_error(either: Talk) -> None:
    """It is a result of the tool with the mark of an error, no error of the protocol."""
    answer = either.result("add_trace", task="")
    assert answer.is_error
    assert answer.structured_content is None


def test_a_required_argument_left_out_is_told_by_name(talk: Talk) -> None:
    """Left out is the same as null."""
    assert talk.refusal("add_trace") == "task: is required. What was attempted, or when this memory applies"


def test_null_is_the_same_as_left_out(talk: Talk, namespace: str) -> None:
    """Some clients send every argument they know."""
    absent = dict.fromkeys(ADD_ARGUMENTS.split(", ")) | {"task": "Send all arguments", "namespace": namespace}
    assert talk.call("add_trace", **absent)["status"] == "created"
    nulls = dict.fromkeys(("k", "outcome", "tags", "since", "until", "max_tokens", "detail", "cursor"))
    assert len(talk.found(query="send arguments", namespace=namespace, **nulls)) == 1


def test_a_cursor_of_another_query_is_refused(talk: Talk, namespace: str) -> None:
    """A page of something else would look like an answer."""
    for number in range(3):
        talk.call("add_trace", task=f"Count the wombats, day {number}", namespace=namespace)
    cursor = talk.call("retrieve", query="wombats", k=1, namespace=namespace)["next_cursor"]
    refusal = talk.refusal("retrieve", query="ibexes", k=1, namespace=namespace, cursor=cursor)
    assert refusal == "cursor: belongs to another query: send it with the same query, namespace, outcome, tags, since, until and metadata"


def test_a_keep_that_does_not_fit_is_refused(talk: Talk) -> None:
    """What must survive and the budget contradict each other: the caller decides."""
    refusal = talk.refusal("compress_prompt", text="wombat " * 400, max_tokens=5, keep=["wombat " * 50])
    assert refusal.startswith("keep: needs ")
    assert refusal.endswith(", the budget is 5: raise max_tokens or keep less")


def test_an_unknown_namespace_is_an_empty_answer_that_lists_the_known_ones(talk: Talk, namespace: str) -> None:
    """A misspelt name is seen at once; it is no error, because a new project has no memories yet."""
    talk.call("add_trace", task="Something to find", namespace=namespace)
    answer = talk.call("retrieve", query="something", namespace="no-such-namespace")
    assert answer["results"] == []
    assert "no traces in namespace no-such-namespace; namespaces that have some: " in answer["searched"]["note"]
    listed = answer["searched"]["note"].rpartition(": ")[2].split(", ")
    assert set(listed) <= talk.call("stats", section="store")["store"]["namespaces"].keys()


@pytest.mark.parametrize(
    ("rest", "code"),
    [
        (rb',"method":"tools/call","params":{"name":"add_trace","arguments":{"task":"a \ud800"}}', INVALID_REQUEST),
        (rb',"method":"tools/call","params":{"name":"add_trace","arguments":{"task":"\udc00 a"}}', INVALID_REQUEST),
        (rb',"method":"tools/call","params":{"name":"retrieve","arguments":{"query":"\ud83d"}}', INVALID_REQUEST),
        (b"", INVALID_REQUEST),
        (b',"method":"tools/call","params":{"name":"stats","arguments":[1]}', INVALID_PARAMS),
    ],
    ids=["surrogate at the end", "surrogate at the beginning", "half an emoji", "no method", "arguments a list"],
)
def test_a_message_that_cannot_be_taken_is_answered_at_its_id(words_home: Home, rest: bytes, code: int) -> None:
    """A client waits for the answer to its call; the next call is served as if nothing had been."""
    with Client(words_home).greet() as client:
        before = client.call("stats", section="store")["store"]["traces"]
        client.send(b'{"jsonrpc":"2.0","id":41' + rest + b"}\n")
        assert client.answer(41)["error"]["code"] == code
        assert client.call("stats", section="store")["store"]["traces"] == before


def test_the_answer_to_half_a_character_says_so(words_home: Home) -> None:
    """Half an emoji comes of cutting a text by UTF-16 units: the message names what to look for."""
    with Client(words_home).greet() as client:
        for text in ("a \ud83d", "\udc00 a"):
            assert "surrogate" in client.answer(client.begin_call("add_trace", task=text))["error"]["message"]


@pytest.mark.parametrize("line", [b"no JSON", b"{", b'"\xff"', b"[" * 10_000], ids=["words", "half", "no UTF-8", "depth"])
def test_a_line_that_is_no_json_is_answered_and_the_next_one_served(words_home: Home, line: bytes) -> None:
    """One bad line must not end the session."""
    with Client(words_home).greet() as client:
        client.send(line + b"\n")
        assert client.answer(None)["error"]["code"] == PARSE_ERROR
        assert client.call("stats", section="store")


def test_an_unknown_tool_is_told(either: Talk) -> None:
    """A client with an old list of tools hears which one is not there, and which are."""
    offered = ", ".join(tool.name for tool in either.ask(either.client.list_tools).tools)
    assert either.refusal("remember") == f"name: there is no tool 'remember'; there are {offered}"
    assert "compress_prompt" in offered


def test_an_error_never_repeats_more_than_a_line_of_what_was_sent(talk: Talk) -> None:
    """A megabyte that is refused does not come back as an error of a megabyte."""
    huge = "x" * 100_000
    for arguments in ({"outcome": huge}, {"occurred_at": huge}, {"metadata": {huge: 1}}, {"lessons": [{huge: "a"}]}, {huge: 1}):
        assert len(talk.refusal("add_trace", task="a task", **arguments)) < 400, list(arguments)
    assert len(json.dumps(talk.refusal("retrieve", query="a", since=huge))) < 400
