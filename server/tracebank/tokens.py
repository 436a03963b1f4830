"""How many tokens a text has, and the longest piece of its head or tail that fits a budget.

Two ways to count behind one contract:

- `TiktokenTokenizer` counts with the real tables of an encoding.
- `EstimateTokenizer` needs no tables. It is made to count too many rather than too few, so that a budget holds.

`TokenizerLoader` fetches the tables in the background and gives the estimate until they are there.
"""

from __future__ import annotations

import math
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tracebank.errors import SettingsError

if TYPE_CHECKING:
    import tiktoken

ENCODINGS = ("o200k_base", "cl100k_base")


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

        return _fit(text, max_tokens, _prefix, fitting, self.count)

    def tail(self, text: str, max_tokens: int) -> str:
        """Return the longest suffix of `text` that has at most `max_tokens` tokens."""

        def fitting(window: str, budget: int) -> int:
            return self._whole_characters(self._tokens(window)[-budget:])

        return _fit(text, max_tokens, _suffix, fitting, self.count)

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


# The estimate ---------------------------------------------------------------------------------------------------------
#
# The o200k encoding first splits a text by a pattern (words with the blank before them, digits by three, runs of
# punctuation, white space), then splits each piece into tokens. `_PIECE` does the first step nearly as the encoding
# does, so every piece is at least one token: this part of the count is exact. What is left are the tokens beyond the
# first in a piece. They grow with its length, sooner where a piece is seldom a whole word of the table: in capitals,
# at a capital letter (names), without a blank before it. A long word with a common English ending is mostly whole; a
# long word without one is mostly a rare word, and a text with one has more of them, so it pays for the others too.
# Every piece has a bounded length, so that a text of one piece costs linear time and can be cut.

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

        return _fit(text, max_tokens, _prefix, fitting, self.count)

    def tail(self, text: str, max_tokens: int) -> str:
        """Return the longest suffix of `text` that is estimated at `max_tokens` tokens or fewer."""

        def fitting(window: str, budget: int) -> int:
            return _longest(reversed(list(_pieces(window))), budget)

        return _fit(text, max_tokens, _suffix, fitting, self.count)


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


# Cutting --------------------------------------------------------------------------------------------------------------

_FIRST_WINDOW_CHARS_PER_TOKEN = 8


def _prefix(text: str, chars: int) -> str:
    return text[:chars]


def _suffix(text: str, chars: int) -> str:
    return text[max(0, len(text) - chars) :]


def _fit(
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


# Loading --------------------------------------------------------------------------------------------------------------


class TokenizerLoader:
    """Get the tables of an encoding in the background; give the estimate until they are there.

    There is one attempt. tiktoken downloads without a time limit, so it runs in a daemon thread that may hang, and
    nobody waits for it longer than once and for `timeout_s`. A late success replaces the estimate.
    """

    def __init__(
        self,
        encoding: str,
        *,
        cache_dir: Path,
        get_encoding: Callable[[str], tiktoken.Encoding] | None = None,
    ) -> None:
        """Raise SettingsError where `encoding` is not known. `cache_dir` is where downloaded tables are kept."""
        if encoding not in ENCODINGS:
            raise SettingsError(f"encoding must be one of {', '.join(ENCODINGS)}, not {encoding!r}")
        self._encoding = encoding
        self._cache_dir = cache_dir
        self._get_encoding = get_encoding or _get_encoding
        self._starting = threading.Lock()
        self._started = False
        self._settled = threading.Event()
        self._waited = False
        self._tokenizer: Tokenizer = EstimateTokenizer()
        self._problem: str | None = None

    @property
    def problem(self) -> str | None:
        """Why the attempt failed, or None where it succeeded or still runs."""
        return self._problem

    @property
    def settled(self) -> bool:
        """Whether the attempt has ended, well or not."""
        return self._settled.is_set()

    def start(self) -> None:
        """Begin the attempt, once. Returns at once."""
        with self._starting:
            if self._started:
                return
            self._started = True
            _keep_tables_in(self._cache_dir)
            threading.Thread(target=self._attempt, name="tokenizer-tables", daemon=True).start()

    def current(self, timeout_s: float) -> Tokenizer:
        """Return the real tokenizer if it is there within `timeout_s`, else the estimate.

        Once a call has waited in vain, later calls return at once: with the real tokenizer, if it came late.
        """
        self.start()
        if not self._waited:
            self._settled.wait(timeout_s)
            self._waited = True
        return self._tokenizer

    def _attempt(self) -> None:
        # The top level of this thread: whatever fails here (network, disk, a table that does not match its hash),
        # those who wait must hear of it, and the estimate goes on serving.
        try:
            self._tokenizer = TiktokenTokenizer(self._get_encoding(self._encoding))
        except Exception as error:
            self._problem = f"the tables of {self._encoding} cannot be had: {type(error).__name__}: {error}"
        finally:
            self._settled.set()


def load_tokenizer(encoding: str, *, cache_dir: Path, timeout_s: float) -> Tokenizer:
    """Return the real tokenizer of `encoding` if its tables can be had within `timeout_s`, else the estimate.

    There is one attempt for each encoding and `cache_dir` in the life of the process.

    Raises: SettingsError where `encoding` is not known.
    """
    return _loader(encoding, cache_dir).current(timeout_s)


@cache
def _loader(encoding: str, cache_dir: Path) -> TokenizerLoader:
    return TokenizerLoader(encoding, cache_dir=cache_dir)


def _get_encoding(name: str) -> tiktoken.Encoding:
    import tiktoken

    return tiktoken.get_encoding(name)


def _keep_tables_in(cache_dir: Path) -> None:
    # By default tiktoken caches in the temp directory, which a reboot empties, and it takes another place only from
    # the environment, at a moment of its own in the background thread. So the variable is set before the thread
    # starts and then left: to put it back would race with that thread. Who has set either variable has chosen.
    if "DATA_GYM_CACHE_DIR" not in os.environ:
        os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(cache_dir))
