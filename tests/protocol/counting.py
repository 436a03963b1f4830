"""Counting tokens as the server says that it does."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from talk import Talk

from tracebank.tokens import EstimateTokenizer, Tokenizer, load_tokenizer


@cache
def tokenizer(name: str) -> Tokenizer:
    """Return the tokenizer of that name; the tables lie where the server has them from."""
    if name == "estimate":
        return EstimateTokenizer()
    return load_tokenizer(name, cache_dir=Path(os.environ["TIKTOKEN_CACHE_DIR"]), timeout_s=60)


def tokens_in(talk: Talk, text: str) -> int:
    """Return the tokens of a text by the tokenizer that the server names."""
    return tokenizer(talk.call("stats", section="tokens")["tokens"]["tokenizer"]).count(text)
