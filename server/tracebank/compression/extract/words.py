"""What words say about texts: bags of stems, their rarity, and BM25 over a handful of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracebank.index.analysis import K1, idf, stemmed_words
from tracebank.index.stopwords import STOP_WORDS

Scores = NDArray[np.float64]
B = 0.75
_STOP_STEMS = frozenset(stem for word in STOP_WORDS for stem in stemmed_words(word))


def stems(text: str) -> list[str]:
    """Return the stemmed words of any text, in order. Half a character (a lone surrogate) is no word."""
    return stemmed_words(text if text.isascii() else text.encode("utf-8", "replace").decode())


@dataclass(frozen=True, slots=True)
class Bag:
    """The stemmed words of a text with their counts, and how many words that are."""

    counts: Mapping[str, int]
    words: int

    @classmethod
    def of(cls, text: str) -> Bag:
        """Count the stemmed words of a text."""
        words = stems(text)
        return cls(Counter(words), len(words))

    @classmethod
    def joined(cls, bags: Iterable[Bag]) -> Bag:
        """Return the bag of several texts together."""
        counts: Counter[str] = Counter()
        for bag in bags:
            counts.update(bag.counts)
        return cls(counts, counts.total())

    @property
    def telling(self) -> list[str]:
        """Return the distinct stems that are no stop words."""
        return [stem for stem in self.counts if stem not in _STOP_STEMS]


def document_counts(bags: Iterable[Bag]) -> Counter[str]:
    """Return in how many of the bags each stem occurs."""
    return Counter(stem for bag in bags for stem in bag.counts)


def rarity(bags: Sequence[Bag]) -> dict[str, float]:
    """Return the inverse document frequency of every stem, each bag a document."""
    return {stem: idf(len(bags), having) for stem, having in document_counts(bags).items()}


def bm25(terms: Sequence[str], bags: Sequence[Bag], weights: Mapping[str, float]) -> Scores:
    """Return float64 [len(bags)], the BM25 of each bag divided by the highest that the terms could reach: 0 to 1."""
    best = sum(weights.get(term, 0.0) for term in terms) * (K1 + 1)
    mean_words = sum(bag.words for bag in bags) / max(1, len(bags))
    if not best or not mean_words:
        return np.zeros(len(bags))
    return np.array([_bm25(terms, bag, weights, mean_words) for bag in bags]) / best


def _bm25(terms: Sequence[str], bag: Bag, weights: Mapping[str, float], mean_words: float) -> float:
    damping = K1 * (1 - B + B * bag.words / mean_words)
    found = ((weights[term], bag.counts[term]) for term in terms if term in bag.counts)
    return sum(weight * times * (K1 + 1) / (times + damping) for weight, times in found)
