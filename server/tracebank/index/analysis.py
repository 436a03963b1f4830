"""Words as they are indexed and asked for: cut, lower case, stemmed; and how much each tells."""

from __future__ import annotations

import hashlib
import json
import math
from functools import lru_cache
from itertools import pairwise

import tantivy

from tracebank.index.stopwords import STOP_WORDS
from tracebank.records import Scalar

K1 = 1.2
ANALYZER = "tracebank_words"
_SPACELESS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}"
# Runs of letters and digits; scripts that are written without spaces, character by character.
WORD_PATTERN = rf"[{_SPACELESS}]|[[\p{{L}}\p{{M}}\p{{N}}]--[{_SPACELESS}]]+"
_LONGEST_WORD_BYTES = 64


def _analyzer(*, stem: bool) -> tantivy.TextAnalyzer:
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.regex(WORD_PATTERN))
    builder = builder.filter(tantivy.Filter.remove_long(_LONGEST_WORD_BYTES)).filter(tantivy.Filter.lowercase())
    return (builder.filter(tantivy.Filter.stemmer("english")) if stem else builder).build()


_PLAIN, STEMMED = _analyzer(stem=False), _analyzer(stem=True)


def stemmed_words(text: str) -> list[str]:
    """Return the stemmed words of a text in order, each as often as it stands there, stop words too."""
    return list(STEMMED.analyze(text))


@lru_cache(maxsize=16_384)
def stems_of(word: str) -> tuple[str, ...]:
    """Return what a word is indexed as: mostly one stem."""
    return tuple(STEMMED.analyze(word))


@lru_cache(maxsize=64)
def query_terms(text: str) -> tuple[str, ...]:
    """Return the distinct stemmed words of a question, in order, without stop words unless there is nothing else."""
    words = _PLAIN.analyze(text)
    telling = [word for word in words if word not in STOP_WORDS] or words
    return tuple(dict.fromkeys(stem for word in telling for stem in stems_of(word)))


@lru_cache(maxsize=64)
def query_pairs(text: str) -> tuple[tuple[str, str], ...]:
    """Return the distinct pairs of stemmed words that belong together in a question, none of them a stop word.

    Those are the words of one name (`server/app.py`, `ERR-7`, `read_timeout`), and a number with the word before or behind it:
    "ticket number 7" is not what worker 7 did with ticket number 12. Of other words that stand beside each other each counts alone.
    """
    words = [(word, place) for place, part in enumerate(text.split()) for word in _PLAIN.analyze(part)]
    pairs = [
        (first, second)
        for (first, one), (second, other) in pairwise(words)
        if (one == other or _has_digit(first) or _has_digit(second)) and not STOP_WORDS & {first, second}
    ]
    stems = [(stems_of(first), stems_of(second)) for first, second in pairs]
    return tuple(dict.fromkeys((first[0], second[0]) for first, second in stems if first and second))


def _has_digit(word: str) -> bool:
    return any(character.isdigit() for character in word)


def idf(documents: int, having: int) -> float:
    """Return the inverse document frequency of BM25 as tantivy and Lucene compute it."""
    return math.log(1 + (documents - having + 0.5) / (having + 0.5))


def metadata_term(key: str, value: Scalar) -> str:
    """Return the term that stands for a key with a value, of bounded length. Numbers are equal as numbers: 1 and 1.0, not true."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    exact = int(value) if number and float(value).is_integer() else value
    return hashlib.blake2b(json.dumps([key, number, exact]).encode(), digest_size=16).hexdigest()
