"""Counting tokens as the server says that it does."""

from __future__ import annotations

from talk import Talk

from tracebank.tokens import load_tokenizer


def tokens_in(talk: Talk, text: str) -> int:
    """Return the tokens of a text by the tokenizer that the server names."""
    return load_tokenizer(talk.call("stats", section="tokens")["tokens"]["tokenizer"]).count(text)
