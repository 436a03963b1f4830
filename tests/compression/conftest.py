"""A real tokenizer of few tokens: 256 bytes and the merges of some common words."""

from __future__ import annotations

import pytest

from tracebank.tokens import Tokenizer, Vocabulary

_WORDS = ("the", "and", "of", "in", "to", " the", " and", " return", "def", "    ", "        ", "\n\n", "\n    ", "ing")
_PATTERN = r" ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Return a tokenizer of 256 bytes and a few merges."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    for word in _WORDS:
        for end in range(2, len(word) + 1):
            ranks.setdefault(word[:end].encode(), len(ranks))
    return Tokenizer(Vocabulary.of("small", _PATTERN, ranks))
