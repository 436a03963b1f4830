"""compress_prompt: at most the budget, whatever the text, and what must survive does."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import anyio
import pytest
from counting import tokens_in
from homes import Home, home
from mcp.shared.exceptions import MCPError
from talk import ERAS, Connect, Era, Talk, text_of

PROSE = "\n\n".join(
    f"Paragraph {number}. The gannet dived {number} times, and the sea was {['calm', 'rough', 'grey'][number % 3]} that day. "
    f"Nobody had counted before, so the record of {number * 7} dives stands until somebody looks again."
    for number in range(60)
)
CODE = "\n\n".join(
    f"def dive_{number}(depth: int) -> str:\n"
    f'    """Return where a dive of {number} ends."""\n'
    f"    # a remark\n"
    f'    return f"https://sea/{{depth // {number + 1}}}"'
    for number in range(40)
)
TEXTS = {
    "prose": PROSE, "code": CODE, "json": json.dumps([{"dive": n, "depth": n / 7} for n in range(300)], indent=4),
    "log": "".join(f"2026-03-01T09:{n % 60:02}:00 INFO dive finished\n" for n in range(400)), "chinese": "塘鹅潜入大海。" * 300,
    "one word": "gannet" * 2_000, "emoji": "🦖" * 700, "white": " \n" * 2_000,
}  # fmt: skip


@pytest.mark.parametrize("max_tokens", [1, 2, 10, 100, 1_000, 1_000_000])
@pytest.mark.parametrize("name", TEXTS)
def test_the_budget_is_kept_and_the_counts_are_exact(talk: Talk, name: str, max_tokens: int) -> None:
    """`tokens` counts the text that comes back, `original_tokens` the text that was sent, with the tokenizer named."""
    result = talk.result("compress_prompt", text=TEXTS[name], max_tokens=max_tokens)
    compressed = result.structured_content
    assert compressed is not None
    assert compressed["tokens"] <= max_tokens
    assert compressed["tokens"] == tokens_in(talk, compressed["text"])
    assert compressed["original_tokens"] == tokens_in(talk, TEXTS[name])
    assert text_of(result) == compressed["text"]


@pytest.mark.parametrize("ratio", [0.1, 0.35, 0.7, 1])
def test_a_ratio_is_the_fraction_that_is_kept(either: Talk, ratio: float) -> None:
    """At most that, and not far less."""
    compressed = either.call("compress_prompt", text=PROSE, ratio=ratio)
    assert compressed["tokens"] <= ratio * compressed["original_tokens"]
    assert compressed["tokens"] >= 0.8 * ratio * compressed["original_tokens"]


def test_without_a_budget_the_ratio_of_the_settings_holds(talk: Talk) -> None:
    """Seven tenths."""
    assert talk.call("compress_prompt", text=PROSE)["text"] == talk.call("compress_prompt", text=PROSE, ratio=0.7)["text"]


def test_a_text_that_fits_comes_back_as_it_is(either: Talk) -> None:
    """Nothing is changed where nothing has to be."""
    for text in ("", "One gannet.", PROSE):
        compressed = either.call("compress_prompt", text=text, max_tokens=1_000_000)
        assert compressed["text"] == text
        assert compressed["tokens"] == compressed["original_tokens"]


@pytest.mark.parametrize("strategy", ["auto", "head_tail", "extract", "code"])
def test_what_is_to_be_kept_survives(either: Talk, strategy: str) -> None:
    """Each substring, letter by letter, wherever it stands."""
    keep = ["the record of 203 dives stands", "Paragraph 41.", "sea was rough"]
    compressed = either.call("compress_prompt", text=PROSE, max_tokens=200, keep=keep, strategy=strategy)
    assert all(kept in compressed["text"] for kept in keep)
    assert compressed["tokens"] <= 200


def test_the_head_ratio_shares_the_budget_between_the_ends(talk: Talk) -> None:
    """All for the beginning, or all for the end."""
    beginning = talk.call("compress_prompt", text=PROSE, max_tokens=200, head_ratio=1, strategy="head_tail")["text"]
    end = talk.call("compress_prompt", text=PROSE, max_tokens=200, head_ratio=0, strategy="head_tail")["text"]
    assert "Paragraph 0." in beginning
    assert "Paragraph 59." not in beginning
    assert "Paragraph 0." not in end
    assert "Paragraph 59." in end


def test_the_steps_lead_from_the_original_to_the_result(either: Talk) -> None:
    """Each begins with the tokens that the one before left; together they explain every token saved."""
    compressed = either.call("compress_prompt", text=CODE, max_tokens=300)
    counts = [count for step in compressed["steps"] for count in (step["before"], step["after"])]
    assert counts[0] == compressed["original_tokens"]
    assert counts[-1] == compressed["tokens"]
    assert counts[1:-1:2] == counts[2::2]
    assert all(step["name"] and step["after"] != step["before"] for step in compressed["steps"])


def test_what_was_saved_is_in_the_stats(talk: Talk) -> None:
    """In tokens, over all calls."""
    before = talk.call("stats", section="compression")["compression"]
    compressed = talk.call("compress_prompt", text=PROSE, max_tokens=100)
    after = talk.call("stats", section="compression")["compression"]
    assert after["tokens_in"] - before["tokens_in"] == compressed["original_tokens"]
    assert after["tokens_out"] - before["tokens_out"] == compressed["tokens"]


def test_nothing_is_gone_that_was_to_be_kept(either: Talk) -> None:
    """The whole prompt and the part behind each mark are resources."""
    compressed = either.call("compress_prompt", text=PROSE, max_tokens=400, keep_original=True)
    address = f"prompt://{compressed['original_id']}"
    assert either.read(address) == PROSE
    assert "[…1]" in compressed["text"]
    assert either.read(f"{address}/1") in PROSE


@pytest.mark.parametrize("address", ["prompt://unknown", "prompt://unknown/1"])
def test_an_unknown_prompt_is_an_error_that_says_where_ids_come_from(either: Talk, address: str) -> None:
    """With a part or without one."""
    with pytest.raises(MCPError, match="take the id from compress_prompt"):
        either.read(address)


def test_a_part_that_is_not_there_is_told_with_the_parts_that_are(talk: Talk) -> None:
    """Zero, too many, no number, or one that nobody can read."""
    compressed = talk.call("compress_prompt", text=PROSE, max_tokens=400, keep_original=True)
    for part in ("0", "9999", "x", "9" * 5_000):
        with pytest.raises(MCPError, match="its cuts are 1 to"):
            talk.read(f"prompt://{compressed['original_id']}/{part}")
    whole = talk.call("compress_prompt", text="Only blanks.   \n\n\n\n\nNo words.   ", keep_original=True)
    with pytest.raises(MCPError, match="nothing was cut out of it"):
        talk.read(f"prompt://{whole['original_id']}/1")


def test_a_prompt_that_is_kept_is_there_for_every_client(talks: dict[Era, Talk]) -> None:
    """Whoever shortened it, in whichever era they speak."""
    compressed = talks["legacy"].call("compress_prompt", text=PROSE, max_tokens=300, keep_original=True)
    for talk in talks.values():
        assert talk.read(f"prompt://{compressed['original_id']}") == PROSE
        assert talk.read(f"prompt://{compressed['original_id']}/1") in PROSE


@pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9")
@pytest.mark.parametrize("era", ERAS)
def test_a_kept_prompt_outlives_a_kill(connect: Connect, own_home: Home, era: Era) -> None:
    """It is on disk before the id is told."""
    with connect(own_home, era) as talk:
        compressed = talk.call("compress_prompt", text=PROSE, max_tokens=300, keep_original=True)
        os.kill(json.loads(own_home.run("status", "--json").out)["pid"], signal.SIGKILL)
        # Which of the two it is depends on when the front sees the death: the call is told to be repeated, or is repeated.
        try:
            found = talk.read(f"prompt://{compressed['original_id']}")
        except MCPError:
            found = talk.read(f"prompt://{compressed['original_id']}")
        assert found == PROSE
        assert talk.read(f"prompt://{compressed['original_id']}/2") in PROSE


def test_kept_prompts_are_bounded_by_size_and_by_age(connect: Connect, tmp_path: Path) -> None:
    """The least recently used goes first; the last one stays, whatever its size. What each cut left out counts, too."""
    size = {"TRACEBANK_COMPRESSION__ORIGINALS_BYTES": str(5 * len(PROSE) // 2)}
    with home(tmp_path / "small", **size) as small, connect(small) as talk:
        texts = [PROSE.replace("gannet", bird) for bird in ("heron", "egret", "stork")]
        ids = [talk.call("compress_prompt", text=text, max_tokens=300, keep_original=True)["original_id"] for text in texts]
        with pytest.raises(MCPError, match="old ones are let go"):
            talk.read(f"prompt://{ids[0]}")
        assert [talk.read(f"prompt://{i}") for i in ids[1:]] == texts[1:]
    with home(tmp_path / "young", TRACEBANK_COMPRESSION__ORIGINALS_AGE_S="0.001") as young, connect(young) as talk:
        first, second = (talk.call("compress_prompt", text=text, max_tokens=300, keep_original=True)["original_id"] for text in texts[:2])
        assert talk.read(f"prompt://{second}") == texts[1]
        with pytest.raises(MCPError, match="old ones are let go"):
            talk.read(f"prompt://{first}")


def test_a_marked_region_survives_or_the_call_says_what_it_needs(either: Talk) -> None:
    """Byte for byte, as `keep` does."""
    region = "<keep>\n  two  blanks\n\n\n\tand a tab </keep>"
    assert region in either.call("compress_prompt", text=PROSE + region + PROSE, max_tokens=100)["text"]
    refusal = either.refusal("compress_prompt", text=PROSE + region + PROSE, max_tokens=3)
    assert refusal.startswith("keep: needs ")


def test_a_long_text_tells_how_far_it_is_and_holds_up_nobody(talks: dict[Era, Talk]) -> None:
    """What is told only grows, up to the whole, and another client is answered before the text is done."""
    told: list[float] = []
    answered: list[int] = []

    async def both() -> None:
        async with anyio.create_task_group() as tasks:
            begun = anyio.Event()

            async def hear(progress: float, total: float | None, message: str | None) -> None:
                assert total == 1
                assert message
                told.append(progress)
                begun.set()

            async def shorten() -> None:
                long = PROSE * 300  # a second and more, of which an engine that is just coming up needs some for itself
                await talks["auto"].client.call_tool("compress_prompt", {"text": long, "max_tokens": 500}, progress_callback=hear)

            tasks.start_soon(shorten)
            await begun.wait()
            result = await talks["legacy"].client.call_tool("stats", {"section": "tokens"})
            assert not result.is_error
            answered.append(len(told))

    talks["auto"].ask(both)
    assert told == sorted(told)
    assert len(set(told)) > 5
    assert answered[0] < len(told)


def test_a_model_of_words_is_used_where_it_is_set(connect: Connect, tmp_path: Path, word_model: Path) -> None:
    """And where there is none at that place, the error says what to set."""
    with home(tmp_path / "with", TRACEBANK_COMPRESSION__TOKEN_MODEL=str(word_model)) as having, connect(having) as talk:
        compressed = talk.call("compress_prompt", text=PROSE, max_tokens=500, keep=["Paragraph 30."], query="How calm was the sea?")
        assert [step["name"] for step in compressed["steps"]][-1] == "llmlingua"
        assert "Paragraph 30." in compressed["text"]
        assert compressed["tokens"] <= 500
    with home(tmp_path / "without", TRACEBANK_COMPRESSION__TOKEN_MODEL=str(tmp_path / "nowhere")) as lacking, connect(lacking) as talk:
        refusal = talk.refusal("compress_prompt", text=PROSE, max_tokens=500)
        assert refusal.startswith("compression.token_model: ")
        assert "set it to the directory of one, or to nothing to do without" in refusal
