"""The promises of `compress` as a whole."""

from __future__ import annotations

import random

import pytest

from tracebank.compression import STRATEGIES, Strategy, compress
from tracebank.compression.pipeline import LEAST_LOSS, LOSSLESS
from tracebank.errors import InputError
from tracebank.tokens import Tokenizer, load_tokenizer

_ALPHABET = (
    "word",
    " ",
    "  ",
    "\n",
    "\n\n\n",
    "```python\n",
    "```\n",
    "x = 1  # one\n",
    '{"a": [1, 2]}\n',
    "深い",
    "👩‍👩‍👧",
    "é",
    "\r\n",
    "\u2028",
)


def _random_text(rng: random.Random, length: int) -> str:
    return "".join(rng.choices(_ALPHABET, k=length))


def test_a_text_within_the_budget_comes_back_as_it_is(tokenizer: Tokenizer) -> None:
    """What fits is not touched: no step runs."""
    text = "trailing   \n\n\n\nblanks"
    compressed = compress(text, budget_tokens=tokenizer.count(text), tokenizer=tokenizer)
    assert (compressed.text, compressed.steps) == (text, ())
    assert compressed.tokens == compressed.original_tokens == tokenizer.count(text)
    assert compressed.tokenizer == "small"


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("seed", range(40))
def test_the_budget_holds_for_any_text_budget_and_ratio(tokenizer: Tokenizer, strategy: Strategy, seed: int) -> None:
    """The final text is counted as a whole and never exceeds what was asked for."""
    rng = random.Random(seed)
    text = _random_text(rng, rng.choice((5, 60, 600)))
    for budget in {1, 2, 3, rng.randint(4, 30), rng.randint(1, tokenizer.count(text) + 1)}:
        ratio = rng.choice((0.0, 0.3, 0.6, 1.0))
        compressed = compress(text, budget_tokens=budget, tokenizer=tokenizer, strategy=strategy, head_ratio=ratio)
        assert tokenizer.count(compressed.text) == compressed.tokens <= budget
        compressed.text.encode()


@pytest.mark.parametrize("seed", range(40))
def test_what_is_to_be_kept_survives_every_budget_it_fits(tokenizer: Tokenizer, seed: int) -> None:
    """Pieces from anywhere, across lines and fences and one over the other, are in the result byte for byte."""
    rng = random.Random(seed)
    text = _random_text(rng, 300)
    starts = [rng.randrange(len(text) - 20) for _ in range(3)]
    keep = [text[start : start + rng.randint(1, 20)] for start in starts]
    total = tokenizer.count(text)
    for budget in (200, total // 2, total - 1):
        for strategy in STRATEGIES:
            compressed = compress(text, budget_tokens=budget, tokenizer=tokenizer, strategy=strategy, keep=keep)
            assert all(piece in compressed.text for piece in keep)
            assert tokenizer.count(compressed.text) <= budget


def test_each_step_reports_what_it_saved_and_the_last_one_ends_in_the_budget(tokenizer: Tokenizer) -> None:
    """The reports are a chain from the original to the result."""
    text = "a  b   \n\n\n\n" + "```python\nx = 1  # one\n```\n" + "word " * 400
    compressed = compress(text, budget_tokens=100, tokenizer=tokenizer)
    names = [step.name for step in compressed.steps]
    assert names == [*(step.name for step in (*LOSSLESS, *LEAST_LOSS)), "extract", "head_tail"]
    ends = [compressed.original_tokens, *(step.tokens_after for step in compressed.steps)]
    assert [step.tokens_before for step in compressed.steps] == ends[:-1]
    assert ends[-1] == compressed.tokens


def test_no_step_runs_once_the_budget_is_met(tokenizer: Tokenizer) -> None:
    """White space alone is enough here, so the JSON stays pretty and the comment stays."""
    text = "a" + "\n" * 80 + '{"a": 1}\n```python\nx = 1  # one\n```\n'
    compressed = compress(text, budget_tokens=tokenizer.count(text) - 1, tokenizer=tokenizer)
    assert [step.name for step in compressed.steps] == ["whitespace"]
    assert compressed.text == 'a\n\n{"a": 1}\n```python\nx = 1  # one\n```\n'


class _FondOfBlanks:
    """Counts a double blank as nothing and any other character as one token."""

    name = "fond of blanks"

    def count(self, text: str) -> int:
        return len(text.replace("  ", "")) + text.count("a b")

    def head(self, text: str, max_tokens: int) -> str:
        return text[:max_tokens]

    def tail(self, text: str, max_tokens: int) -> str:
        return text[-max_tokens:]


def test_a_step_that_would_cost_tokens_is_not_taken() -> None:
    """A shorter text may have more tokens: then the longer one goes on to the next step."""
    compressed = compress("a  b", budget_tokens=1, tokenizer=_FondOfBlanks())
    assert (compressed.steps[0].name, compressed.steps[0].tokens_after) == ("whitespace", 2)


def test_the_same_call_gives_the_same_result(tokenizer: Tokenizer) -> None:
    """Nothing depends on chance or on the order of a set."""
    text = _random_text(random.Random(7), 500)
    keep = [text[40:50], text[90:99], text[400:404]]
    results = {compress(text, budget_tokens=150, tokenizer=tokenizer, keep=order).text for order in (keep, keep[::-1])}
    assert len(results) == 1


def test_a_smaller_budget_gives_a_shorter_text(tokenizer: Tokenizer) -> None:
    """The budget has an effect all the way down."""
    text = " ".join(f"word{number}" for number in range(2000))
    tokens = [compress(text, budget_tokens=budget, tokenizer=tokenizer).tokens for budget in (4000, 1000, 200, 50, 5)]
    assert tokens == sorted(set(tokens), reverse=True)


def test_a_real_encoding_keeps_its_budget_too() -> None:
    """Where a character is several tokens and words run into each other."""
    tokenizer = load_tokenizer("o200k_base")
    compressed = compress("深い記憶 " * 500, budget_tokens=77, tokenizer=tokenizer)
    assert compressed.tokens == tokenizer.count(compressed.text) <= 77


@pytest.mark.parametrize(
    ("arguments", "field", "said"),
    [
        ({"budget_tokens": 0}, "max_tokens", "1 or more, not 0"),
        ({"head_ratio": 1.5}, "head_ratio", "0 to 1, not 1.5"),
        ({"head_ratio": float("nan")}, "head_ratio", "not nan"),
        ({"strategy": "middle"}, "strategy", "auto, head_tail, extract, code"),
        ({"keep": ["absent" * 100]}, "keep", "…' is not in the text"),
        ({"keep": [""]}, "keep", "must not be empty"),
        ({"keep": ["word " * 50]}, "keep", "the budget is 20: raise max_tokens or keep less"),
    ],
)
def test_a_wrong_argument_is_named_with_its_limit(tokenizer: Tokenizer, arguments: dict[str, object], field: str, said: str) -> None:
    """The message tells the field, the limit and what to do."""
    with pytest.raises(InputError) as raised:
        compress("word " * 100, **({"budget_tokens": 20, "tokenizer": tokenizer} | arguments))  # type: ignore[arg-type]
    assert raised.value.field == field
    assert said in raised.value.problem


_MEBIBYTE = 1 << 20
_HUGE = {
    "one word": "a" * _MEBIBYTE,
    "one line": "word " * (_MEBIBYTE // 5),
    "a log": "2026-01-01 INFO heartbeat\n" * (_MEBIBYTE // 26),
    "nested JSON": "[" * 100_000 + "]" * 100_000,
    "nested objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "brackets that never close": "[\n" * (_MEBIBYTE // 2),
    "quotes that never close": '"\\' * (_MEBIBYTE // 2),
    "a fence of Python": "```python\n" + "x = 1  # one\n\n" * (_MEBIBYTE // 14) + "```",
    "a fence of Java words": "```java\n" + ("word " * 20 + "\n") * (_MEBIBYTE // 101) + "```",
    "comments that never close": "```c\n" + "/*\n" * (_MEBIBYTE // 3) + "```",
    "blank lines in C": "```c\n" + "\n" * _MEBIBYTE + "```",
    "chains in TypeScript": "```ts\n" + ("a." * 900 + "\n") * (_MEBIBYTE // 1801) + "```",
    "nested comments in Rust": "```rust\n" + "/*" * 200_000 + "*/ " * 200_000 + "\n```",
    "deep Python": "import a\n" + "(" * 500_000,
    "signs in Python": "```python\nx=" + "\n-" * 300_000 + "1\n```",
    "fences": "```\n" * (_MEBIBYTE // 4),
    "emoji": "👩‍👩‍👧" * 60_000,
}


@pytest.mark.parametrize("name", _HUGE)
def test_a_mebibyte_of_anything_is_taken(tokenizer: Tokenizer, name: str) -> None:
    """Every step is linear and none raises; a quadratic one would run into the time limit of the test."""
    compressed = compress(_HUGE[name], budget_tokens=1000, tokenizer=tokenizer)
    assert tokenizer.count(compressed.text) == compressed.tokens <= 1000


_NASTY = (
    "",
    "\ud800 lone",
    "\0" * 50,
    "`" * 50,
    "```",
    "~~~\n```\n~~~",
    '{"a":',
    "[]]",
    '"\\',
    "\u2028" * 40,
    "\r" * 40,
    "> ```py\n> x = (\n",
)


@pytest.mark.parametrize("text", _NASTY, ids=ascii)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_broken_text_never_raises(tokenizer: Tokenizer, text: str, strategy: Strategy) -> None:
    """Half a fence, half a string, a null, a lone surrogate: all of it is only text."""
    assert compress(text, budget_tokens=1, tokenizer=tokenizer, strategy=strategy).tokens <= 1
