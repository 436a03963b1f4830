"""retrieve: the best memories first, in the namespaces and with the filters asked for, inside the token budget."""

from __future__ import annotations

import re
from typing import Any

import pytest
from counting import tokens_in
from talk import Talk, text_of

TRACES: dict[str, dict[str, Any]] = {
    "wombat-1": {"task": "Feed the wombat", "outcome": "success", "tags": ["zoo", "food"], "occurred_at": "2026-01-01T00:00:00Z"},
    "wombat-2": {"task": "Feed the wombat at night", "outcome": "failure", "tags": ["zoo", "night"], "occurred_at": "2026-02-01T00:00:00Z"},
    "wombat-3": {"task": "Weigh the wombat", "outcome": "partial", "tags": ["zoo"], "occurred_at": "2026-03-01T00:00:00Z"},
    "wombat-4": {"task": "Draw a wombat", "tags": ["art"], "occurred_at": "2026-04-01T12:00:00+02:00"},
    "yak-1": {"task": "Shear the yak", "outcome": "success", "tags": ["zoo"], "occurred_at": "2026-05-01T00:00:00Z"},
}


@pytest.fixture(scope="module")
def zoo(talks: dict[str, Talk]) -> str:
    """Return a namespace with the traces above."""
    for trace_id, trace in TRACES.items():
        talks["auto"].call("add_trace", trace_id=trace_id, namespace="zoo", **trace)
    return "zoo"


def test_a_memory_is_returned_with_what_makes_it_useful(either: Talk, zoo: str) -> None:
    """Id, task, outcome, score, lessons, excerpt, tags, namespace and time, in structure; the same for a model in text."""
    result = either.result("retrieve", query="feed the wombat", namespace=zoo, k=1)
    assert result.structured_content is not None
    (memory,) = result.structured_content["results"]
    assert 0 < memory.pop("score") <= 1
    assert memory == {
        "trace_id": "wombat-1", "namespace": zoo, "lessons": [], "excerpt": "",
        **TRACES["wombat-1"],
    }  # fmt: skip
    assert '<memory id="wombat-1" outcome="success"' in text_of(result)
    assert "Task: Feed the wombat" in text_of(result)


def test_the_best_comes_first_and_every_score_is_from_0_to_1(either: Talk, zoo: str) -> None:
    """Higher is better."""
    results = either.call("retrieve", query="feed the wombat at night", namespace=zoo, k=50)["results"]
    scores = [memory["score"] for memory in results]
    assert results[0]["trace_id"] == "wombat-2"
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)


def test_k_is_the_most_that_comes(talk: Talk, zoo: str) -> None:
    """One, or all that match."""
    assert len(talk.found(query="wombat", namespace=zoo, k=1)) == 1
    assert sorted(talk.found(query="wombat", namespace=zoo, k=50)) == ["wombat-1", "wombat-2", "wombat-3", "wombat-4"]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"outcome": "success"}, ["wombat-1"]),
        ({"outcome": ["failure", "partial"]}, ["wombat-2", "wombat-3"]),
        ({"outcome": "unknown"}, ["wombat-4"]),
        ({"tags": ["zoo"]}, ["wombat-1", "wombat-2", "wombat-3"]),
        ({"tags": ["zoo", "night"]}, ["wombat-2"]),
        ({"tags": ["night", "art"]}, []),
        ({"since": "2026-03-01"}, ["wombat-3", "wombat-4"]),
        ({"until": "2026-02-01T00:00:00Z"}, ["wombat-1", "wombat-2"]),
        ({"since": "2026-02-01T00:00:00Z", "until": "2026-03-01T00:00:00Z"}, ["wombat-2", "wombat-3"]),
        ({"since": "2026-04-01", "until": "2026-04-01"}, ["wombat-4"]),
        ({"until": "2026-04-01T00:00:00Z"}, ["wombat-1", "wombat-2", "wombat-3"]),
        ({"since": "2026-04-01T10:00:00Z"}, ["wombat-4"]),
        ({"since": "2026-04-01T10:00:00.001Z"}, []),
        ({"outcome": "success", "tags": ["food"], "until": "2026-01-01"}, ["wombat-1"]),
    ],
    ids=str,
)
def test_a_filter_lets_through_what_it_says(talk: Talk, zoo: str, filters: dict[str, Any], expected: list[str]) -> None:
    """One outcome of several, all of the tags, from and to a moment or day, both inclusive; filters are all to be met."""
    assert sorted(talk.found(query="wombat", namespace=zoo, **filters)) == expected


def test_of_near_equal_memories_one_comes_and_names_the_others(either: Talk) -> None:
    """They take no room from others, and are still there to be read; a failure comes as a warning."""
    space = "near-equal"
    for name, outcome in (("a", "success"), ("b", "success"), ("c", "success"), ("warning", "failure"), ("else", "success")):
        task = "Build the hammock" if name == "else" else "Build the bookshelf" + "!" * (name == "b")
        either.call("add_trace", trace_id=name, namespace=space, task=task, outcome=outcome)
    result = either.result("retrieve", query="build the bookshelf", namespace=space, k=3)
    assert result.structured_content is not None
    found = {memory["trace_id"]: memory.get("near_equal") for memory in result.structured_content["results"]}
    (best,) = {"a", "b", "c"} & found.keys()
    assert sorted([best, *(found[best] or [])]) == ["a", "b", "c"]
    assert {name: others for name, others in found.items() if name != best} == {"warning": None, "else": None}
    assert "Warning, this failed: Build the bookshelf" in text_of(result)
    assert 'near_equal="2 more"' in text_of(result)


def test_a_date_in_the_question_prefers_what_happened_then(either: Talk) -> None:
    """Of memories that fit equally well, though no text of theirs says when it was."""
    for month in range(1, 7):
        trace = {"task": f"Rotate the keys of gateway {month}", "occurred_at": f"2026-{month:02}-10T09:00:00Z"}
        either.call("add_trace", trace_id=f"month-{month}", namespace="dated", **trace)
    assert either.found(query="rotate the keys of a gateway in April 2026", namespace="dated", k=1) == ["month-4"]
    assert either.found(query="what was rotated on 2026-02-10", namespace="dated", k=1) == ["month-2"]


def test_several_queries_are_answered_together(either: Talk, zoo: str) -> None:
    """Each memory once, as the question that it answers best sees it."""
    found = either.found(query=["feed the wombat", "shear the yak"], namespace=zoo, k=50)
    assert set(found[:2]) == {"wombat-1", "yak-1"}
    assert len(set(found)) == len(found)


def test_an_id_is_shown_as_it_is_given_back(either: Talk) -> None:
    """Whatever signs are in it, as long as none of them ends the quotes."""
    trace_id = "R&D-1's > 'a;b' p<200"
    either.call("add_trace", task="Calibrate the spectrometer", trace_id=trace_id, namespace="R&D")
    text = text_of(either.result("retrieve", query="calibrate the spectrometer", namespace=["R&D", "zoo"], k=1))
    (shown, namespace), *_ = re.findall(r'<memory id="([^"]+)" namespace="([^"]+)"', text)
    assert (shown, namespace) == (trace_id, "R&D")
    assert either.call("feedback", trace_ids=[shown], helpful=True) == {"updated": 1}


def test_of_several_questions_each_has_its_best_on_the_page(either: Talk) -> None:
    """Also where one alone would fill it; in the text they come before there is more of any, and a single question is as ever."""
    herons = {f"heron-{kind}": f"Count the {kind} herons of the lake, all of them" for kind in ("grey", "white", "purple", "old", "young")}
    for trace_id, task in {**herons, "printer": "Printer: paper jam in tray two", "visa": "Renew a visa by post"}.items():
        content = "\n".join(f"{task}, said page {i}." for i in range(30))
        either.call("add_trace", task=task, content=content, namespace="several", trace_id=trace_id)
    asked = {
        "query": ["count all of the herons of the lake", "why does a tray so often make trouble", "what else was sent by post"],
        "namespace": "several",
    }
    result = either.result("retrieve", **asked, k=4, max_tokens=400)
    assert result.structured_content is not None
    found = [memory["trace_id"] for memory in result.structured_content["results"]]
    assert len(set(found[:3]) & set(herons)) == 1
    assert {"printer", "visa"} < set(found[:3])
    assert found[3] in herons
    assert {"printer", "visa"} <= set(re.findall(r'<memory id="([^"]+)"', text_of(result)))
    assert set(either.found(query=asked["query"][0], namespace="several", k=5)) == set(herons)


def test_namespaces_are_isolated(either: Talk, namespace: str) -> None:
    """What one project remembers another does not see, unless it asks for it by name, or for all."""
    red, blue = f"{namespace} red", f"{namespace} blue"
    either.call("add_trace", task="Polish the axolotl", namespace=red, trace_id=red)
    either.call("add_trace", task="Polish the axolotl", namespace=blue, trace_id=blue)
    assert either.found(query="axolotl", namespace=red) == [red]
    assert either.found(query="axolotl", namespace=blue) == [blue]
    assert sorted(either.found(query="axolotl", namespace=[red, blue])) == sorted([red, blue])
    assert {red, blue} <= set(either.found(query="axolotl", namespace="*", k=50))
    assert either.found(query="axolotl") == []


def test_the_answer_says_where_it_searched_and_how(talk: Talk, zoo: str) -> None:
    """Without its model, this engine says that it searched by words alone, and why."""
    searched = talk.call("retrieve", query="wombat", namespace=[zoo, "nowhere"])["searched"]
    assert searched["namespaces"] == [zoo]
    assert searched["meaning"] is False
    assert "meaning is off" in searched["note"]


def test_the_text_names_the_namespace_where_several_were_searched(talk: Talk, zoo: str) -> None:
    """A model must not mix up projects."""
    assert f'namespace="{zoo}"' in text_of(talk.result("retrieve", query="yak", namespace=[zoo, "default"]))
    assert "namespace=" not in text_of(talk.result("retrieve", query="yak", namespace=zoo))


def test_detail_full_adds_the_parts_of_the_score_and_all_lessons(either: Talk, namespace: str) -> None:
    """Concise is what a model needs, full what a person asks who wonders why."""
    lessons = [f"Lesson number {number}" for number in range(9)]
    either.call("add_trace", task="Teach the heron", lessons=lessons, namespace=namespace)
    concise, full = (
        either.call("retrieve", query="teach the heron", namespace=namespace, detail=detail)["results"][0] for detail in ("concise", "full")
    )
    assert "parts" not in concise
    assert full["parts"].keys() == {"dense", "lexical", "whole", "context", "tokens"}
    assert concise["lessons"] == lessons[:4]
    assert full["lessons"] == lessons


@pytest.mark.parametrize("query", ["count herons again", ["count herons again", "herons", "count"]], ids=["one", "several"])
@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_pages_follow_each_other_without_gap_or_repetition(either: Talk, namespace: str, k: int, query: str | list[str]) -> None:
    """Page by page it is the same ranking as in one answer, and the last page has no cursor."""
    for number in range(7):
        either.call("add_trace", task="Count herons " + "again " * number, namespace=namespace, trace_id=f"heron-{number}")
    arguments: dict[str, Any] = {"query": query, "namespace": namespace}
    everything = either.found(**arguments, k=50)
    assert len(everything) == 7
    found: list[str] = []
    page = either.call("retrieve", **arguments, k=k)
    while len(found) <= len(everything):
        found += [memory["trace_id"] for memory in page["results"]]
        if "next_cursor" not in page:
            break
        page = either.call("retrieve", **arguments, k=k, cursor=page["next_cursor"])
    assert found == everything


@pytest.mark.parametrize("max_tokens", [50, 51, 80, 120, 300, 1_000, 5_000, 100_000])
def test_the_text_keeps_the_budget_and_its_count_is_exact(talk: Talk, namespace: str, max_tokens: int) -> None:
    """`tokens` is the count of the text part, by the tokenizer that the stats name."""
    for number in range(12):
        story = " ".join(f"On day {day} the heron took {day * number} fish from pond {day % 7}." for day in range(80))
        lessons = [f"Herons of pond {number} fish at dawn, so come before.", "Count twice. " * 20]
        talk.call("add_trace", task=f"Count herons at pond {number}", content=story, lessons=lessons, namespace=namespace)
    result = talk.result("retrieve", query="herons that take fish from a pond", namespace=namespace, k=12, max_tokens=max_tokens)
    assert result.structured_content is not None
    tokens = result.structured_content["tokens"]
    assert tokens <= max_tokens
    assert tokens == tokens_in(talk, text_of(result))
    assert len(result.structured_content["results"]) == 12


def test_a_larger_budget_shows_more(talk: Talk, namespace: str) -> None:
    """The budget is used, not only kept."""
    story = " ".join(f"On day {day} the bittern hid in reed bed {day % 7}." for day in range(200))
    talk.call("add_trace", task="Find the bittern", content=story, namespace=namespace)
    tokens = [talk.call("retrieve", query="bittern in the reed", namespace=namespace, max_tokens=n)["tokens"] for n in (100, 300, 900)]
    assert tokens == sorted(set(tokens))
    assert tokens[2] > 450


def test_the_excerpt_is_the_passage_that_answers(talk: Talk, namespace: str) -> None:
    """Not the head of a long text."""
    filler = " ".join(f"Nothing of note happened on day {day}." for day in range(300))
    talk.call("add_trace", task="Keep a diary", content=f"{filler} The ibis swallowed the key. {filler}", namespace=namespace)
    (memory,) = talk.call("retrieve", query="what did the ibis swallow", namespace=namespace, max_tokens=300)["results"]
    assert "The ibis swallowed the key." in memory["excerpt"]


def test_a_question_of_no_words_finds_nothing_and_is_no_error(talk: Talk, zoo: str) -> None:
    """Signs alone have no meaning that words can find."""
    for query in ("???", "🦖", "…"):
        assert talk.found(query=query, namespace=zoo) == []


def test_the_same_question_after_a_write_sees_the_write(either: Talk, namespace: str) -> None:
    """A kept answer never hides what is new, from this client or another."""
    question = {"query": "where is the egret", "namespace": namespace}
    either.call("add_trace", task="Look for the egret", namespace=namespace, trace_id="first")
    assert either.found(**question) == ["first"]
    assert either.found(**question) == ["first"]
    either.call("add_trace", task="Look for the egret again", namespace=namespace, trace_id="second")
    assert set(either.found(**question)) == {"first", "second"}
