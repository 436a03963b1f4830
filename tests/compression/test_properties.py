"""The promises of `compress` on texts that nobody would write down."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tracebank.compression import STRATEGIES, compress
from tracebank.tokens import Tokenizer

_PIECES = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            "One sentence. ",
            "Two words? ",
            "\n",
            "\n\n",
            "# Head\n",
            "- item\n",
            "| a | b |\n",
            "```py\nx = 1\n\ny = 2\n",
            "```\n",
            "<a>\n",
            "</a>\n",
            "Ann: hi. ",
            '{"a": [1, "\\""]}\n',
            "Document [1](Title: x) ",
            "2026-01-01 00:00:00 ERROR x\n",
            "שלום עולם. ",
            "👩‍👩‍👧",
            "\0",
            "深い。",
            "…",
            "you must ",
        ]
    ),
)
_TEXTS = st.lists(_PIECES, max_size=60).map("".join)
_QUERIES = st.sampled_from(["", "When did Ann say hi?", "深い", "?"])
_TOPICS = ("kiln", "mill", "bridge", "harbour", "school", "market", "church", "tower")
_FACTS = (
    "was repaired in 1805",
    "has seven owners",
    "burned for two days",
    "was sold by Ann Bell",
    "is older than the town",
    "stands empty",
)
_SENTENCES = st.tuples(st.sampled_from(_TOPICS), st.sampled_from(_FACTS)).map(lambda pair: f"The {pair[0]} {pair[1]}. ")
_DOCUMENTS = st.lists(st.lists(_SENTENCES, min_size=1, max_size=6).map("".join), min_size=2, max_size=14).map(
    lambda documents: "\n".join(f"Document [{number}](Title: T{number}) {text}" for number, text in enumerate(documents, 1))
)
_settings = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)


@_settings
@given(
    text=_TEXTS,
    share=st.floats(0.02, 1),
    strategy=st.sampled_from(STRATEGIES),
    query=_QUERIES,
    cut=st.tuples(st.integers(0, 400), st.integers(1, 30)),
)
def test_every_promise_holds_at_once(
    tokenizer: Tokenizer, text: str, share: float, strategy: Any, query: str, cut: tuple[int, int]
) -> None:
    """Budget, what is kept, valid text, the same again, and nothing more to do for what fits."""
    budget = max(1, int(share * tokenizer.count(text)))
    kept = text[cut[0] : cut[0] + cut[1]]
    keep = [kept] if kept and tokenizer.count(kept) <= budget else []
    options: dict[str, Any] = {"budget_tokens": budget, "tokenizer": tokenizer, "strategy": strategy, "query": query, "keep": keep}
    compressed = compress(text, **options)
    assert tokenizer.count(compressed.text) == compressed.tokens <= budget
    assert all(piece in compressed.text for piece in keep)
    compressed.text.encode()
    assert compress(text, **options) == compressed
    assert compress(compressed.text, **options).text == compressed.text


@_settings
@given(text=_TEXTS, strategy=st.sampled_from(STRATEGIES))
@example(text=" 。0000000000\x80\x80\x80𐀀0000000000 0", strategy="head_tail")
def test_twice_the_budget_keeps_no_less(tokenizer: Tokenizer, text: str, strategy: Any) -> None:
    """More room is used; below that, a unit that does not fit may leave its room to smaller ones."""
    total = tokenizer.count(text)
    tokens = [compress(text, budget_tokens=max(1, total // part), tokenizer=tokenizer, strategy=strategy).tokens for part in (8, 4, 2, 1)]
    assert tokens == sorted(tokens)


@_settings
@given(text=_DOCUMENTS, topic=st.sampled_from(_TOPICS), fact=st.sampled_from(_FACTS))
def test_what_matters_most_at_a_budget_is_there_at_twice_the_budget(tokenizer: Tokenizer, text: str, topic: str, fact: str) -> None:
    """Of the words that were asked for, more room never keeps fewer, nor any sentence that has all of them less surely."""
    asked, sentence = f"Which {topic} {fact}?", f"The {topic} {fact}."
    total = tokenizer.count(text)
    shares = []
    for part in (8, 4, 2, 1):
        kept = compress(text, budget_tokens=max(1, total // part), tokenizer=tokenizer, strategy="extract", query=asked).text
        shares.append((sentence in kept, sum(word in kept for word in {topic, *fact.split()} if len(word) > 3)))
    assert [found for found, _ in shares] == sorted(found for found, _ in shares)
    # Words of other sentences are what is left over, so they may change places; those of the answer may not.
    assert not shares[0][0] or all(words >= shares[0][1] for _, words in shares)
