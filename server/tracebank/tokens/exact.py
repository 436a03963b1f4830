"""The real tokens, by tiktoken."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tracebank.tokens.base import fit, prefix, suffix

if TYPE_CHECKING:
    import tiktoken


class TiktokenTokenizer:
    """The real tokens of one encoding."""

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        self._encoding = encoding

    @property
    def name(self) -> str:
        """Return the name of the encoding."""
        return self._encoding.name

    def count(self, text: str) -> int:
        """Return how many tokens `text` has."""
        return sum(len(tokens) + at_cut for tokens, at_cut in self._encoded(text))

    def head(self, text: str, max_tokens: int) -> str:
        """Return the longest prefix of `text` that has at most `max_tokens` tokens."""

        def fitting(window: str, budget: int) -> int:
            return self._whole_characters(self._tokens(window)[:budget])

        return fit(text, max_tokens, prefix, fitting, self.count)

    def tail(self, text: str, max_tokens: int) -> str:
        """Return the longest suffix of `text` that has at most `max_tokens` tokens."""

        def fitting(window: str, budget: int) -> int:
            return self._whole_characters(self._tokens(window)[-budget:])

        return fit(text, max_tokens, suffix, fitting, self.count)

    def _encoded(self, text: str) -> Iterator[tuple[list[int], int]]:
        at_cut = 0
        for stretch in _stretches(text):
            yield self._encoding.encode_ordinary(stretch), at_cut
            at_cut = 1

    def _tokens(self, text: str) -> list[int]:
        return [token for tokens, _ in self._encoded(text) for token in tokens]

    def _whole_characters(self, tokens: list[int]) -> int:
        # A token may hold a part of a character; "ignore" drops the part at the border.
        return len(self._encoding.decode_bytes(tokens).decode("utf-8", errors="ignore"))


# tiktoken's regex engine panics on a run of 999,999 or more white characters (its backtracking stack holds a million).
# A longer run is therefore cut. Merges are lost at a cut but never elsewhere, and one token is added for each cut, so
# the count stays on the high side.
_MAX_RUN_CHARS = 500_000
_WHITE_RUN = re.compile(r"\s+")


def _stretches(text: str) -> Iterator[str]:
    """Yield `text` in parts that tiktoken can take: nearly always the whole text as one."""
    start = 0
    if len(text) > _MAX_RUN_CHARS:
        for run in _WHITE_RUN.finditer(text):
            for cut in range(run.start() + _MAX_RUN_CHARS, run.end(), _MAX_RUN_CHARS):
                yield text[start:cut]
                start = cut
    yield text[start:]
