"""With its model: memories are found by what they mean. The one engine of these tests that loads it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from homes import Home, home
from talk import Connect, Talk

pytestmark = pytest.mark.slow

TRACES = {
    "twice": "The customer was charged two times for one order",
    "stuck": "Two database transactions wait for each other forever",
    "tests": "A unit test fails every now and then",
    "bread": "Bake sourdough with a crisp crust",
}


@pytest.fixture(scope="module")
def meaning_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Return a home where everything above can be found by meaning: `import` returns when it can."""
    directory = tmp_path_factory.mktemp("meaning")
    file = directory / "traces.jsonl"
    lines = (json.dumps({"trace_id": trace_id, "task": task}) for trace_id, task in TRACES.items())
    file.write_text("\n".join(lines), encoding="utf-8")
    with home(directory, meaning=True) as opened:
        imported = opened.run("import", str(file))
        assert imported.code == 0, imported
        assert imported.errors.strip() == "4 traces imported and searchable"
        yield opened


@pytest.fixture(scope="module")
def deep(connect: Connect, meaning_home: Home) -> Iterator[Talk]:
    """Return a client there."""
    with connect(meaning_home) as opened:
        yield opened


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("somebody paid double", "twice"),
        ("deadlock", "stuck"),
        ("intermittent assertion errors", "tests"),
        ("recipe for a loaf", "bread"),
    ],
)
def test_a_memory_is_found_in_other_words(deep: Talk, query: str, expected: str) -> None:
    """No word is shared; the answer says that meaning took part."""
    answer = deep.call("retrieve", query=query, k=1, detail="full")
    (memory,) = answer["results"]
    assert memory["trace_id"] == expected
    assert memory["parts"]["dense"] > 0
    assert memory["parts"]["lexical"] == 0
    assert answer["searched"] == {"namespaces": ["default"], "meaning": True}


def test_a_new_trace_is_found_by_meaning_at_once_by_who_stored_it(deep: Talk, namespace: str) -> None:
    """Its client's next search waits for it."""
    deep.call("add_trace", task="The lighthouse lamp burnt out", namespace=namespace, trace_id=namespace)
    (memory,) = deep.call("retrieve", query="broken bulb", namespace=namespace, detail="full")["results"]
    assert memory["parts"]["dense"] > 0


def test_the_stats_tell_of_the_model(deep: Talk) -> None:
    """It is ready, with its dimension, and nothing waits."""
    deep.call("retrieve", query="whatever was asked")
    figures = deep.call("stats")
    assert figures["embedding"]["state"] == "ready"
    assert figures["embedding"]["dim"] == 384
    assert figures["index"]["meaning"] is True
    assert figures["latencies"]["retrieve"].keys() == {"count", "p50_ms", "p95_ms", "p99_ms", "max_ms"}


def test_a_question_asked_again_touches_neither_model_nor_index(deep: Talk) -> None:
    """The answer is kept, and counted as kept."""
    question = "who paid double, and when"
    first = deep.call("retrieve", query=question)
    before = deep.call("stats")
    assert deep.call("retrieve", query=question) == first
    after = deep.call("stats")
    assert after["caches"]["results"]["hits"] == before["caches"]["results"]["hits"] + 1
    assert after["latencies"]["search"]["count"] == before["latencies"]["search"]["count"]
    assert after["latencies"]["embed_query"]["count"] == before["latencies"]["embed_query"]["count"]


def test_the_doctor_finds_everything_well(meaning_home: Home) -> None:
    """With the model there, and an engine that serves others meanwhile."""
    examined = meaning_home.run("doctor", "--json")
    assert examined.code == 0, examined
    assert all(finding["well"] for finding in json.loads(examined.out))


def test_a_prompt_keeps_what_answers_the_question_by_meaning(deep: Talk) -> None:
    """The engine's model reads its sentences: this question shares no word with the answer."""
    topics = ("harbour", "glacier", "violin", "orchard", "furnace", "library", "volcano", "railway", "monastery", "lighthouse")
    text = "\n\n".join([*(f"The {topic} was closed on Sundays." for topic in topics), "A physician cured her illness.", "It rained."])
    compressed = deep.call("compress_prompt", text=text, ratio=0.3, query="doctor healing the sick")
    assert "physician" in compressed["text"]
