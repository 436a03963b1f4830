"""How many tokens a text has, and the longest piece of its head or tail that fits a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache

from tracebank.tokens.merging import token_lengths
from tracebank.tokens.splitting import Splitter
from tracebank.tokens.vocabulary import Vocabulary

FIRST_WINDOW_CHARS_PER_TOKEN = 8
# Texts are mostly words that were there before. A longer piece is seldom one.
KNOWN_PIECES, KNOWN_PIECE_CHARS = 16_384, 32
# A longer piece (a run of blanks or of one letter, ideographs without a full stop) is split in parts of so many characters,
# which bounds the memory that takes. A run is the same all along, so its parts are, too.
MOST_PIECE_CHARS = 50_000
LONG_PIECE_CHARS = 1_000
# What a cut may cost in joins: one is the rule, and more than two never came up.
CUT_TOKENS = 2


class Tokenizer:
    """Counts the tokens of one encoding exactly as tiktoken does, and cuts a text to a budget of them."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._name, self._rank = vocabulary.name, vocabulary.rank
        self._splitter = Splitter(vocabulary.pattern)
        self._known = _Known(self._tokens_in)
        self._lengths_of_long = lru_cache(maxsize=2)(self._merged)

    @property
    def name(self) -> str:
        """The name of the encoding."""
        return self._name

    def count(self, text: str) -> int:
        """Return how many tokens `text` has. Names of special tokens count as the text they are.

        A piece of more than `MOST_PIECE_CHARS` is cut, and counts a few tokens more for each cut, rather than too few.
        """
        known = self._known.__getitem__
        return sum(sum(map(known, pieces)) for pieces in self._splitter.pieces(text))

    def head(self, text: str, max_tokens: int) -> str:
        """Return the longest prefix, whole tokens and whole characters, with `count(prefix) <= max_tokens`."""
        return self._fit(text, max_tokens, _prefix, backwards=False)

    def tail(self, text: str, max_tokens: int) -> str:
        """Return the longest suffix, whole tokens and whole characters, with `count(suffix) <= max_tokens`."""
        return self._fit(text, max_tokens, _suffix, backwards=True)

    def _fit(self, text: str, max_tokens: int, end: Callable[[str, int], str], *, backwards: bool) -> str:
        """Return the longest `end` of `text` that counts `max_tokens` or fewer.

        The window grows only as far as the budget asks, so a small piece of a huge text is cheap. A piece that is split
        anew may have other tokens than it had in the text: each proposal is counted by itself, and the budget for
        the next one shrinks by 1, 2, 4, ...
        """
        if max_tokens <= 0:
            return ""
        chars = max_tokens * FIRST_WINDOW_CHARS_PER_TOKEN
        while self.count(window := end(text, chars)) <= max_tokens:
            if chars >= len(text):
                return text
            chars *= 4
        budget, step = max_tokens, 1
        while budget > 0:
            piece = end(window, self._longest(window, budget, backwards=backwards))
            if self.count(piece) <= max_tokens:
                return piece
            budget, step = budget - step, step * 2
        return ""

    def _longest(self, text: str, budget: int, *, backwards: bool) -> int:
        """Return the characters of as many pieces as fit, with as many whole tokens of the next, from either end of the text."""
        chars, pieces = 0, [piece for pieces in self._splitter.pieces(text) for piece in pieces]
        for piece in reversed(pieces) if backwards else pieces:
            tokens = self._known[piece]
            if tokens > budget:
                return chars + self._longest_part(piece, budget, backwards=backwards)
            chars, budget = chars + len(piece), budget - tokens
        return chars

    def _longest_part(self, piece: str, budget: int, *, backwards: bool) -> int:
        chars, parts = 0, _parts(piece)
        for part in reversed(parts) if backwards else parts:
            lengths = self._lengths(part)
            if len(lengths) > budget:
                encoded = part.encode()
                fits = encoded[sum(lengths[: len(lengths) - budget]) :] if backwards else encoded[: sum(lengths[:budget])]
                # A token may hold a part of a character; "ignore" drops the part at the border.
                return chars + len(fits.decode(errors="ignore"))
            chars, budget = chars + len(part), max(0, budget - len(lengths) - CUT_TOKENS)
        return chars

    def _tokens_in(self, piece: str) -> int:
        parts = _parts(piece)
        return sum(len(self._lengths(part)) for part in parts) + CUT_TOKENS * (len(parts) - 1)

    def _lengths(self, part: str) -> Sequence[int]:
        return self._merged(part) if len(part) < LONG_PIECE_CHARS else self._lengths_of_long(part)

    def _merged(self, part: str) -> Sequence[int]:
        """Return the bytes of each token."""
        encoded = part.encode()
        return (len(encoded),) if self._rank(encoded) is not None else token_lengths(encoded, self._rank)


@cache
def load_tokenizer(encoding: str) -> Tokenizer:
    """Return the one tokenizer of an encoding that comes along (`records.ENCODINGS`). Raises: InstallationError."""
    return Tokenizer(Vocabulary.shipped(encoding))


class _Known(dict[str, int]):
    """The tokens of pieces that were there lately, in two generations: what is used of the older one joins the younger."""

    def __init__(self, tokens_in: Callable[[str], int]) -> None:
        super().__init__()
        self._tokens_in = tokens_in
        self._older: dict[str, int] = {}

    def __missing__(self, piece: str) -> int:
        tokens = self._older.get(piece) or self._tokens_in(piece)
        if len(piece) <= KNOWN_PIECE_CHARS:
            if len(self) >= KNOWN_PIECES:
                # An order of use would cost each look-up more than making some anew.
                self._older = dict(self)
                self.clear()
            self[piece] = tokens
        return tokens


def _parts(piece: str) -> list[str]:
    return [piece[start : start + MOST_PIECE_CHARS] for start in range(0, len(piece), MOST_PIECE_CHARS)]


def _prefix(text: str, chars: int) -> str:
    return text[:chars]


def _suffix(text: str, chars: int) -> str:
    return text[max(0, len(text) - chars) :]
