"""JSON by a schema: what is read, and what is said of what is not."""

from __future__ import annotations

import re

import pytest
from llm.conftest import ClientOf, provider_settings
from llm.provider import Raw, Reply, Status, serving

from tracebank.errors import InputError, LlmUnavailableError
from tracebank.llm import Request
from tracebank.llm.structured import check_schema, is_strict, parsed

LESSONS = {
    "type": "array",
    "maxItems": 3,
    "items": {
        "type": "object",
        "properties": {"title": {"type": "string"}, "content": {"type": "string", "maxLength": 20}},
        "required": ["title", "content"],
        "additionalProperties": False,
    },
}


@pytest.mark.parametrize("text", ['[{"title": "a", "content": "b"}]', '\n```json\n[{"title": "a", "content": "b"}]\n```\n'])
def test_json_is_read_also_from_a_fence(text: str) -> None:
    """Models like to put one around it."""
    assert parsed(text, LESSONS) == [{"title": "a", "content": "b"}]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Here you are: []", "the answer is not JSON (Expecting value: line 1 column 1 (char 0))"),
        ('[{"title": "a"', "the answer is not JSON ("),
        ("[" * 1_500, "the answer is not JSON (it is nested too deeply)"),
        ("[" * 900 + "]" * 900, "the answer is not JSON (it is nested too deeply)"),
        ("[NaN]", "the answer is not JSON (NaN is no number of JSON)"),
        ("[-Infinity]", "the answer is not JSON (-Infinity is no number of JSON)"),
        ("[1e999]", "the answer is not JSON (1e999 is no number of JSON)"),
        ('[{"title": "a"}]', "does not match the schema at $[0]: 'content' is a required property"),
        ('[{"title": "a", "content": 7}]', "does not match the schema at $[0].content: 7 is not of type 'string'"),
        ('{"title": "a"}', "does not match the schema at $: {'title': 'a'} is not of type 'array'"),
    ],
)
def test_what_does_not_match_is_told_with_its_place(text: str, says: str) -> None:
    """So that the model, and the person, can mend it."""
    with pytest.raises(ValueError, match=re.escape(says)):
        parsed(text, LESSONS)


def test_a_long_wrong_answer_makes_no_long_message() -> None:
    """The message goes back into a prompt."""
    with pytest.raises(ValueError, match="does not match") as caught:
        parsed(f'[{{"title": "a", "content": "{"x" * 5_000}"}}]', LESSONS)
    assert len(str(caught.value)) < 400


def test_a_schema_that_is_none_is_refused() -> None:
    """Before anything is sent."""
    with pytest.raises(InputError, match=r"schema: is not a JSON Schema: 'liste' is not valid"):
        check_schema({"type": "liste"})
    check_schema(LESSONS)


def test_strict_is_a_closed_object_with_all_its_properties_required() -> None:
    """At every depth."""
    inner = LESSONS["items"]
    closed = {"type": "object", "properties": {"items": LESSONS}, "required": ["items"], "additionalProperties": False}
    assert is_strict(closed)
    assert is_strict(inner)  # type: ignore[arg-type]
    assert not is_strict(LESSONS)
    assert not is_strict(closed | {"required": []})
    assert not is_strict(closed | {"properties": {"items": {"type": "array", "items": {"type": "object"}}}})


@pytest.mark.anyio
async def test_half_characters_and_nul_in_an_answer_become_marks(client_of: ClientOf) -> None:
    """JSON can hold them, and what cannot be stored or sent on must not get in."""
    async with serving() as provider:
        client = client_of(provider_settings(provider), breaker_failures=99)
        provider.meets(Reply("a\ud800b\x00c"), Reply('{"title": "\\ud83d\\u0000"}'))
        assert (await client.query(Request(prompt="one"))).text == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c"
        assert (await client.query(Request(prompt="two", schema={"type": "object"}))).value == {"title": "\N{REPLACEMENT CHARACTER}" * 2}
        told = '{"error": {"message": "half \\ud800"}}'
        for meets in (Status(500, body=told.encode()), Raw(told.encode())):
            provider.meets(*[meets] * 4)
            with pytest.raises(LlmUnavailableError, match="half \N{REPLACEMENT CHARACTER}"):
                await client.query(Request(prompt="three"))
