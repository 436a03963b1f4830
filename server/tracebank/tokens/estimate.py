"""An estimate of the number of tokens that needs no tables.

The o200k encoding first splits a text by a pattern (words with the blank before them, digits by three, runs of
punctuation, white space), then splits each piece into tokens. `_PIECE` does the first step nearly as the encoding
does, so every piece is at least one token: this part of the count is exact. What is left are the tokens beyond the
first in a piece. They grow with its length, sooner where a piece is seldom a whole word of the table: in capitals,
at a capital letter (names), without a blank before it. A long word with a common English ending is mostly whole; a
long word without one is mostly a rare word, and a text with one has more of them, so it pays for the others too.
Every piece has a bounded length, so that a text of one piece costs linear time and can be cut.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator

from tracebank.tokens.base import fit, prefix, suffix

_LOWER = "a-zß-öø-ɏ"
_UPPER = "A-ZÀ-ÖØ-Þ"
_LEAD = r"(?:[^\r\n\w\u0300-\u036f]|_)"
_ENDINGS = "ing ion ed er or ly ent ant ence ance ency ity itie ate ive able ible ure ary ory orie arie ism ful ship"
_ENDING = f"(?:{_ENDINGS.replace(' ', '|')})s?"
_PIECE = re.compile(
    rf"""
    (?P<formed>\ [a-z]{{2,21}}{_ENDING}(?![{_LOWER}]))
  | (?P<spaced>\ [{_LOWER}]{{1,24}}(?:'(?:s|t|re|ve|m|ll|d))?)
  | (?P<title>\ [{_UPPER}][{_LOWER}]{{1,24}}(?:'(?:s|t|re|ve|m|ll|d))?)
  | (?P<glued>{_LEAD}?[{_UPPER}]?[{_LOWER}]{{1,24}}(?:'(?:s|t|re|ve|m|ll|d))?)
  | (?P<mixed>{_LEAD}?[{_UPPER}]{{2,24}}[{_LOWER}]{{1,24}})
  | (?P<capitals>{_LEAD}?[{_UPPER}]{{1,24}})
  | (?P<digits>[0-9]{{1,3}})
  | (?P<repeated>\ ?(?P<sign>[!\#%*+\-./:;=_~])(?P=sign){{3,63}}[\r\n/]{{0,64}})
  | (?P<signs>\ ?[!-/:-@\[-`{{-~]{{1,24}}[\r\n/]{{0,64}})
  | (?P<white>\s{{0,64}}[\r\n]{{1,64}}|\s{{1,64}}(?!\S)|\s{{1,64}})
  | (?P<frequent>\ ?[\u0400-\u052f\u0600-\u06ff\u0900-\u097f]{{1,24}})
  | (?P<alphabetic>\ ?[\u0250-\u02ff\u0370-\u1fff]{{1,24}})
  | (?P<ideographic>\ ?[\u2e80-\ua4cf\uac00-\ud7ff\uf900-\ufaff\uff00-\uffef]{{1,8}})
  | (?P<symbol>\ ?[\u0080-\uffff])
  | (?P<other>\ ?.)
    """,
    re.VERBOSE | re.DOTALL,
)

# For each kind of piece: characters that are free, and tokens for each character beyond. Fitted with
# benchmarks/token_estimate.py: over all its texts, fewer than 1 in 100 is counted too low.
_RATES = {
    "formed": (15.0, 0.3),
    "spaced": (9.0, 1.5),
    "title": (0.0, 0.17),
    "glued": (0.0, 0.12),
    "mixed": (0.0, 0.7),
    "capitals": (0.0, 0.3),
    "digits": (3.0, 0.0),
    "repeated": (16.0, 0.1),
    "signs": (4.0, 0.65),
    "white": (12.0, 0.1),
    "frequent": (9.0, 0.18),
    "alphabetic": (3.0, 0.45),
    "ideographic": (1.0, 1.0),
    "symbol": (0.0, 0.35),
    "other": (0.0, 0.8),
}
# What has more letters than this in a row is no word (random letters have about two for a token).
_WORD_CHARS = 14
_BEYOND_WORD_RATE = 0.9
_NO_WORDS = frozenset({"digits", "repeated", "signs", "white", "frequent", "alphabetic", "formed"})
_LONGEST_PIECE_CHARS = 130


def _cost(kind: str, chars: int) -> float:
    free, rate = _RATES[kind]
    beyond_word = 0.0 if kind in _NO_WORDS else _BEYOND_WORD_RATE * max(0, chars - _WORD_CHARS)
    return 1.0 + rate * max(0.0, chars - free) + beyond_word


_COST = {kind: tuple(_cost(kind, chars) for chars in range(_LONGEST_PIECE_CHARS)) for kind in _RATES}


class EstimateTokenizer:
    """An estimate of o200k_base tokens, made to be seldom too low. It needs no tables."""

    @property
    def name(self) -> str:
        """Return "estimate"."""
        return "estimate"

    def count(self, text: str) -> int:
        """Return the estimated number of tokens in `text`."""
        return math.ceil(sum(cost for _, cost in _pieces(text)))

    def head(self, text: str, max_tokens: int) -> str:
        """Return the longest prefix of `text` that is estimated at `max_tokens` tokens or fewer."""

        def fitting(window: str, budget: int) -> int:
            return _longest(_pieces(window), budget)

        return fit(text, max_tokens, prefix, fitting, self.count)

    def tail(self, text: str, max_tokens: int) -> str:
        """Return the longest suffix of `text` that is estimated at `max_tokens` tokens or fewer."""

        def fitting(window: str, budget: int) -> int:
            return _longest(reversed(list(_pieces(window))), budget)

        return fit(text, max_tokens, suffix, fitting, self.count)


def _pieces(text: str) -> Iterator[tuple[int, float]]:
    """Yield the length of each piece of `text` in characters and its cost in tokens."""
    for piece in _PIECE.finditer(text):
        chars = piece.end() - piece.start()
        yield chars, _COST[piece.lastgroup or "other"][chars]


def _longest(pieces: Iterable[tuple[int, float]], budget: int) -> int:
    """Return the characters of as many `pieces` as fit; of the first, where it alone is too long, its share."""
    kept, spent = 0, 0.0
    for chars, cost in pieces:
        spent += cost
        if spent > budget:
            return kept or int(chars * budget / cost)
        kept += chars
    return kept
