"""What a client reads before it calls anything: tools, resources, prompts, instructions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from clients import Client
from homes import Home
from mcp.types import Tool
from talk import Talk

TITLES = {
    "add_trace": "Remember a task",
    "complete_episode": "End an episode",
    "compress_prompt": "Shorten a prompt",
    "feedback": "Rate memories",
    "forget": "Forget memories",
    "log_steps": "Log steps",
    "retrieve": "Recall memories",
    "stats": "State of the memory",
}
# Those that write, and whether twice is as good as once.
WRITING = {
    "add_trace": False,
    "complete_episode": True,
    "feedback": False,
    "forget": True,
    "log_steps": False,
}
TOOLS_LIST_BYTES = 8_000


def tools_of(talk: Talk) -> dict[str, Tool]:
    """Return the listed tools by name."""
    return {tool.name: tool for tool in talk.ask(talk.client.list_tools).tools}


def schemas(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every schema inside a schema; what stands under `properties` and `$defs` is named, not a schema's word."""
    if isinstance(value, list):
        for item in value:
            yield from schemas(item)
    elif isinstance(value, dict):
        yield value
        for key, item in value.items():
            yield from schemas(list(item.values()) if key in ("properties", "$defs") else item)


def test_each_era_negotiates_its_own_protocol_version(talks: dict[str, Talk]) -> None:
    """An older client initializes, a newer one discovers: neither is turned into the other."""
    assert talks["legacy"].client.protocol_version == "2025-11-25"
    assert talks["auto"].client.protocol_version == "2026-07-28"


def test_the_server_says_who_it_is(either: Talk) -> None:
    """Name and title are Tracebank's own."""
    info = either.client.server_info
    assert info is not None
    assert (info.name, info.title) == ("tracebank", "Tracebank")
    assert info.version


def test_the_instructions_name_what_to_call_and_when_in_few_words(either: Talk) -> None:
    """They are paid for in every conversation: under 300 tokens at 3 characters a token."""
    instructions = either.client.instructions
    assert instructions is not None
    assert {"retrieve", "log_steps", "complete_episode", "add_trace", "feedback", "trace://{trace_id}"} <= {
        word.strip(".,:;") for word in instructions.split()
    }
    assert len(instructions) < 300 * 3


def test_every_tool_is_listed_with_its_title(either: Talk) -> None:
    """A person who allows a call reads the title."""
    assert {name: tool.title for name, tool in tools_of(either).items()} == TITLES


def test_annotations_tell_what_a_tool_does_to_the_memory(either: Talk) -> None:
    """Some write, and one of them destroys; nothing reaches out of the machine."""
    for name, tool in tools_of(either).items():
        annotations = tool.annotations
        assert annotations is not None
        # Silence says what the protocol takes for granted: it writes, it destroys, twice is not as good as once, it reaches out.
        assert (annotations.read_only_hint is True) is (name not in WRITING)
        assert annotations.open_world_hint is False
        if name in WRITING:
            assert (annotations.destructive_hint is not False) is (name == "forget")
            assert (annotations.idempotent_hint is True) is WRITING[name]


def test_every_tool_has_a_description_and_both_schemas(either: Talk) -> None:
    """An agent needs the one to choose, and its program the others to call and to read."""
    for tool in tools_of(either).values():
        assert tool.description
        assert tool.input_schema["type"] == "object"
        assert tool.output_schema is not None
        assert tool.output_schema["type"] == "object"


def test_every_list_says_what_is_in_it(either: Talk) -> None:
    """There are clients that refuse a tool whose lists do not."""
    arrays = [one for tool in tools_of(either).values() for one in schemas(tool.input_schema) if one.get("type") == "array"]
    assert arrays
    assert all("items" in array for array in arrays)


def test_the_schemas_say_nothing_that_only_costs_tokens(either: Talk) -> None:
    """No title repeats a name, and no default is null."""
    for tool in tools_of(either).values():
        for schema in schemas([tool.input_schema, tool.output_schema]):
            assert "title" not in schema or isinstance(schema["title"], dict), (tool.name, schema)
            assert schema.get("default", "none") is not None, (tool.name, schema)
            assert {"type": "null"} not in schema.get("anyOf", ()), (tool.name, schema)


@pytest.mark.parametrize(
    ("tool", "argument", "default"),
    [
        ("retrieve", "k", "5"),
        ("retrieve", "max_tokens", "2000"),
        ("compress_prompt", "ratio", "0.7"),
        ("compress_prompt", "head_ratio", "0.6"),
    ],
)
def test_the_schemas_tell_the_defaults(talk: Talk, tool: str, argument: str, default: str) -> None:
    """An agent that leaves an argument out knows what it gets."""
    assert f"default {default}" in tools_of(talk)[tool].input_schema["properties"][argument]["description"].lower()


@pytest.mark.parametrize("tool", TITLES)
def test_only_what_is_needed_is_required(talk: Talk, tool: str) -> None:
    """A call with the one necessary argument is a whole call."""
    required = {
        "add_trace": ["task"], "complete_episode": ["episode_id", "outcome"], "compress_prompt": ["text"],
        "feedback": ["trace_ids", "helpful"], "forget": [], "log_steps": [], "retrieve": ["query"], "stats": [],
    }  # fmt: skip
    assert tools_of(talk)[tool].input_schema.get("required", []) == required[tool]


def test_the_list_of_tools_is_small(words_home: Home) -> None:
    """A client sends it to the model in every conversation."""
    with Client(words_home).greet() as client:
        result = client.request("tools/list")
        assert len(json.dumps(result, separators=(",", ":"))) < TOOLS_LIST_BYTES


def test_resources_and_prompts_are_listed(either: Talk) -> None:
    """What can be read by address, and what a person can choose from a menu."""
    templates = either.ask(either.client.list_resource_templates).resource_templates
    assert {template.uri_template for template in templates} == {
        "trace://{+trace_id}",
        "episode://{+episode_id}/handoff",
        "prompt://{original_id}",
        "prompt://{original_id}/{part}",
        "tracebank://stats{?section}",
    }
    assert all(template.mime_type in ("application/json", "text/plain") and template.title for template in templates)
    prompts = {prompt.name: prompt for prompt in either.ask(either.client.list_prompts).prompts}
    assert prompts.keys() == {"recall", "reflect"}
    assert [(argument.name, argument.required) for argument in prompts["recall"].arguments or ()] == [("task", True)]
    assert [(argument.name, bool(argument.required)) for argument in prompts["reflect"].arguments or ()] == [("task", False)]
