"""Runs and boilerplate: what loses only what nobody asks for."""

from __future__ import annotations

import pytest

from tracebank.compression import compress
from tracebank.compression.segments import split
from tracebank.compression.steps.boilerplate import without_boilerplate
from tracebank.compression.steps.runs import folded_runs
from tracebank.tokens import Tokenizer


def _folded(text: str) -> str:
    return "".join(segment.with_body(folded_runs(segment)).text for segment in split(text))


def _plain(text: str) -> str:
    return "".join(segment.with_body(without_boilerplate(segment)).text for segment in split(text))


def test_a_run_of_a_log_keeps_its_ends() -> None:
    """With the number of lines between that differ in numbers only; one that says something else stands."""
    beats = [f"10:12:{second:02} INFO heartbeat of worker {second}" for second in range(20)]
    text = "\n".join([*beats[:9], "10:12:09 ERROR lost worker 9", *beats[10:]])
    assert _folded(f"```log\n{text}\n```") == "\n".join(
        [
            "```log",
            beats[0],
            "[7 lines like it]",
            beats[8],
            "10:12:09 ERROR lost worker 9",
            beats[10],
            "[8 lines like it]",
            beats[19],
            "```",
        ]
    )


@pytest.mark.parametrize(
    "text",
    [
        "Item 1 costs 20\nItem 2 costs 30\nItem 3 costs 40\nItem 4 costs 50\n",
        "10:00:00 INFO a\n10:00:01 INFO b\n10:00:02 INFO a\n10:00:03 INFO b\n",
        "```py\n1\n2\n3\n4\n5\n```\n",
    ],
)
def test_figures_are_no_log(text: str) -> None:
    """Prices, lines that differ in words, code."""
    assert _folded(text) == text


@pytest.mark.parametrize(
    ("frames", "left"),
    [
        (
            "Error: x\n    at own (/app/src/a.js:1:2)\n" + "    at next (/app/node_modules/express/lib/route.js:144:13)\n" * 4,
            "Error: x\n    at own (/app/src/a.js:1:2)\n    [4 frames in libraries]\n",
        ),
        (
            "x.Y: z\n\tat com.example.A.b(A.java:1)\n"
            + "\tat org.springframework.web.C.d(C.java:2)\n" * 3
            + "\tat com.example.E.f(E.java:3)\n",
            "x.Y: z\n\tat com.example.A.b(A.java:1)\n    [3 frames in libraries]\n\tat com.example.E.f(E.java:3)\n",
        ),
        (
            'Traceback (most recent call last):\n  File "/srv/app.py", line 1, in run\n    go()\n'
            + '  File "/v/site-packages/x.py", line 2, in y\n    return z()\n' * 3
            + "ValueError: 7\n",
            'Traceback (most recent call last):\n  File "/srv/app.py", line 1, in run\n    go()\n'
            "    [3 frames in libraries]\nValueError: 7\n",
        ),
    ],
    ids=["node", "java", "python"],
)
def test_frames_in_libraries_are_counted(frames: str, left: str) -> None:
    """One's own stay, with their lines of source."""
    assert _folded(frames) == left


def test_the_furniture_of_a_page_goes() -> None:
    """Navigation, consent, newsletters, copyright; links among sentences stay."""
    text = (
        "[Skip to main content](#main)\n\n- [Home](/)\n- [Docs](/docs)\n- [Blog](/blog)\nWe use cookies to improve your experience.\n"
        "# Limits\nSee [the table](/t) first.\n- [One](/1): what it is\n- [Two](/2)\n\n© 2026 Example. All rights reserved.\nBack to top\n"
    )
    assert _plain(text).split("\n") == [
        "", "# Limits", "See [the table](/t) first.", "- [One](/1): what it is", "- [Two](/2)", "", "",
    ]  # fmt: skip


def test_addresses_lose_what_follows_clicks_only() -> None:
    """The page that they lead to is the same."""
    text = "https://a.example/p?utm_source=x&id=7&utm_medium=y#top and https://a.example/?fbclid=z and https://a.example/?q=utm_source"
    assert _plain(text) == "https://a.example/p?id=7#top and https://a.example/ and https://a.example/?q=utm_source"


def test_pictures_written_as_text_are_told_by_their_length() -> None:
    """Base64 in an address or alone, not a long word or a path."""
    picture = "iVBORw0KGgo" * 50
    assert _plain(f"![x](data:image/png;base64,{picture}==) end") == "![x](data:image/png;base64,[552 characters]) end"
    assert _plain(f"see {picture} end") == "see [550 characters] end"
    assert _plain("/".join(["a-path"] * 100)) == "/".join(["a-path"] * 100)


def test_these_steps_run_only_where_the_lossless_ones_do_not_reach_the_budget(tokenizer: Tokenizer) -> None:
    """And they leave alone what is to be kept."""
    text = "Rules.   \n\n\n\n" + "".join(f"10:00:{second:02} INFO beat\n" for second in range(30)) + "We use cookies to improve it.\nEnd.\n"
    light = compress(text, budget_tokens=tokenizer.count(text) - 2, tokenizer=tokenizer)
    assert [step.name for step in light.steps] == ["whitespace"]
    short = compress(text, budget_tokens=150, tokenizer=tokenizer, keep=["We use cookies"])
    assert "We use cookies to improve it." in short.text
    assert "[28 lines like it]" in short.text
    assert short.steps[-1].name in ("runs", "boilerplate")
