"""`reason` over MCP: offered where there is a language model, withheld where there is none, told in words and in figures."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from clients import HELLO, Client
from homes import Home, home
from talk import ERAS, Connect, Era, Talk, text_of
from test_listing import TITLES, TOOLS_LIST_BYTES, tools_of

PROVIDER = Path(__file__).parents[1] / "llm" / "provider.py"
TASK = "Count the apples"


@contextmanager
def parrot() -> Iterator[str]:
    """Serve a language model that repeats what it is asked; yields its address."""
    with subprocess.Popen([sys.executable, str(PROVIDER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        yield str(json.loads(child.stdout.readline())["base_url"])
        child.communicate()


@pytest.fixture(scope="module")
def reasoning_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Return a home with a language model."""
    with parrot() as base_url:
        llm = {"TRACEBANK_LLM__PROVIDERS": json.dumps([{"model": "parrot", "base_url": base_url}]), "TRACEBANK_LLM__ATTEMPTS": "1"}
        with home(tmp_path_factory.mktemp("reasoning"), NO_PROXY="127.0.0.1", **llm) as opened:
            yield opened


@pytest.mark.parametrize("era", ERAS)
def test_with_a_language_model_it_is_listed_and_the_list_stays_small(connect: Connect, reasoning_home: Home, era: Era) -> None:
    """A ninth tool, and it says that it reaches out of the machine."""
    with connect(reasoning_home, era) as talk:
        tools = tools_of(talk)
        assert tools.keys() == {*TITLES, "reason"}
        assert tools["reason"].title == "Reason with memory"
        assert tools["reason"].input_schema["required"] == ["task"]
        annotations = tools["reason"].annotations
        assert annotations is not None
        assert not annotations.read_only_hint
        assert annotations.open_world_hint is not False
    with Client(reasoning_home).greet() as client:
        result = client.request("tools/list")
        assert len(json.dumps(result, separators=(",", ":"))) < TOOLS_LIST_BYTES


def test_without_one_it_cannot_be_called_and_stats_say_why(talk: Talk) -> None:
    """What is not offered is not there."""
    assert "reason" in talk.refusal("reason", task=TASK)
    withheld = talk.call("stats", section="plugins")["plugins"]["withheld"]
    assert withheld == {"reason": "it needs a language model: add one under [[llm.providers]] in tracebank.toml"}


def test_who_asks_for_it_by_name_is_told_what_is_missing(words_home: Home) -> None:
    """Not that it does not exist."""
    with Client(words_home, TRACEBANK_TOOLS="reason") as client:
        client.begin("initialize", HELLO)
        client.close()
        assert "setting tools: reason is not offered: it needs a language model" in client.errors.decode()


@pytest.mark.parametrize("era", ERAS)
def test_it_answers_in_words_and_figures_hears_of_progress_and_is_remembered(connect: Connect, reasoning_home: Home, era: Era) -> None:
    """This model gives no JSON, so there is no plan and no judgement: the draft stands, and the notes say so."""
    heard: list[tuple[float, str | None]] = []

    async def listen(share: float, total: float | None, name: str | None) -> None:
        heard.append((share, name))

    with connect(reasoning_home, era, TRACEBANK_NAMESPACE=era) as talk:
        answer = talk.ask(talk.client.call_tool, "reason", {"task": TASK}, progress_callback=listen)
        assert not answer.is_error, text_of(answer)
        found: dict[str, Any] = answer.structured_content
        assert TASK in found["answer"]
        assert (found["outcome"], found["drafts"], found["llm_calls"], found["llm_tokens"]) == ("unknown", 1, 1, 15)
        assert "score" not in found
        assert [note.partition(":")[0] for note in found["notes"]] == ["no plan", "attempt 1 ended early", "no lessons"]
        text = text_of(answer)
        assert text.startswith(found["answer"])
        assert f"(1 draft, not judged; remembered as {found['trace_id']})" in text
        assert "\nNote: no plan: language model parrot: " in text
        assert talk.found(query=TASK)[0] == found["trace_id"]
        assert json.loads(talk.read(f"trace://{found['trace_id']}"))["tags"] == ["reason"]
    assert [name for _, name in heard][:2] == ["thinking", "recalling"]


def test_bad_input_is_told_as_everywhere(connect: Connect, reasoning_home: Home) -> None:
    """With the field, the limit and the value."""
    with connect(reasoning_home) as talk:
        assert talk.refusal("reason").startswith("task: is required")
        assert talk.refusal("reason", task=TASK, candidates=9) == "candidates: must be 1 to 8, not 9"
