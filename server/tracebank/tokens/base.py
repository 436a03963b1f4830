"""What a tokenizer is, and how a text is cut to a budget with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

_FIRST_WINDOW_CHARS_PER_TOKEN = 8


class Tokenizer(Protocol):
    """Count tokens, and cut a text to a budget of tokens."""

    @property
    def name(self) -> str:
        """Return the name of the encoding, or "estimate"."""
        ...

    def count(self, text: str) -> int:
        """Return how many tokens `text` has. Names of special tokens count as the text they are."""
        ...

    def head(self, text: str, max_tokens: int) -> str:
        """Return the longest prefix, whole tokens and whole characters, with `count(prefix) <= max_tokens`."""
        ...

    def tail(self, text: str, max_tokens: int) -> str:
        """Return the longest suffix, whole tokens and whole characters, with `count(suffix) <= max_tokens`."""
        ...


def prefix(text: str, chars: int) -> str:
    """Return the first `chars` characters."""
    return text[:chars]


def suffix(text: str, chars: int) -> str:
    """Return the last `chars` characters."""
    return text[max(0, len(text) - chars) :]


def fit(
    text: str,
    max_tokens: int,
    end: Callable[[str, int], str],
    fitting: Callable[[str, int], int],
    count: Callable[[str], int],
) -> str:
    """Return the longest `end` (prefix or suffix) of `text` that counts `max_tokens` or fewer.

    `fitting(window, budget)` proposes a number of characters. The window grows only as far as the budget asks, so a
    small piece of a huge text is cheap. A piece that is split anew may have other tokens than it had in the text:
    each proposal is counted by itself, and the budget for the next one shrinks by 1, 2, 4, ...
    """
    if max_tokens <= 0:
        return ""
    chars = max_tokens * _FIRST_WINDOW_CHARS_PER_TOKEN
    while count(window := end(text, chars)) <= max_tokens:
        if chars >= len(text):
            return text
        chars *= 4
    budget, step = max_tokens, 1
    while budget > 0:
        piece = end(window, fitting(window, budget))
        if count(piece) <= max_tokens:
            return piece
        budget, step = budget - step, step * 2
    return ""
