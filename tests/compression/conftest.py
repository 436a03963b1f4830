"""A real tokenizer that needs no download: 256 bytes and the merges of some common words."""

from __future__ import annotations

import pytest
import tiktoken

from tracebank.tokens import TiktokenTokenizer

_WORDS = ("the", "and", "of", "in", "to", " the", " and", " return", "def", "    ", "        ", "\n\n", "\n    ", "ing")


def _encoding() -> tiktoken.Encoding:
    ranks = {bytes([byte]): byte for byte in range(256)}
    for word in _WORDS:
        for end in range(2, len(word) + 1):
            ranks.setdefault(word[:end].encode(), len(ranks))
    pattern = r" ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    return tiktoken.Encoding("small", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


@pytest.fixture(scope="session")
def tokenizer() -> TiktokenTokenizer:
    """Return a tokenizer of 256 bytes and a few merges."""
    return TiktokenTokenizer(_encoding())
