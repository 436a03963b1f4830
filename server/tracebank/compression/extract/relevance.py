"""How likely a unit answers a question: by its words, its section's, its neighbours', and by meaning.

Words are cheap and looked at for all units; the model reads only those whose fate the words leave open.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tracebank.compression.extract.outline import Outline
from tracebank.compression.extract.words import Scores, bm25
from tracebank.index.words import query_terms

# float32 [len(texts), dim], rows of length 1; None where there is no model.
Meaning = Callable[[Sequence[str]], NDArray[np.float32] | None]

# Weights beside a cosine of weight 1. Words decide little where the model reads the unit with its heading; a section
# and neighbours say what a sentence only points at ("It opened in 1909").
_WORDS, _SECTION, _NEIGHBOURS, _WANTED, _EARLY, _WHOLE, _SECTION_MEANING = 0.35, 0.15, 0.1, 0.15, 0.2, 0.35, 0.25
# What words weigh where there is no model to read anything.
_WORDS_ALONE = 2.0
# The model reads at least so many units, at most so many, and a third in between.
_FEWEST_READ, _MOST_READ = 80, 400
# What fills the budget up to within this share of the text is sure by words alone.
_OPEN_SHARE = 0.25
# Scores differ little, and what matters is who leads: a high power sharpens them (greedy choice divides by cost).
SHARPNESS = 9.0

_NUMBER = r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|hundred|thousand|million|billion|dozen)\b"
_TIME = (
    r"\b\d{4}\b|\b\d{1,2}(?:st|nd|rd|th|:\d\d)\b|\b(?:January|February|March|April|May|June|July|August|September|October|November"
    r"|December|century|season|yesterday|today|tomorrow|morning|evening|(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day)\b|\d{4}-\d\d"
)
_NAME = r"(?<=[\w,;:] )[A-Z][\w'-]+"
# What a question asks for, and what a unit has that holds it.
_WANTS = (
    (
        re.compile(r"\bhow (?:many|much|old|long|tall|far|big|deep|high|often|fast)\b|\bwhat (?:number|percentage|size|port)\b", re.I),
        _NUMBER,
    ),
    (re.compile(r"\bwhen\b|\b(?:what|which) (?:year|date|day|month|time|century)\b", re.I), _TIME),
    (re.compile(r"\b(?:who|whom|whose|where)\b", re.I), _NAME),
)
_WANTED_PATTERNS = tuple((asks, re.compile(holds)) for asks, holds in _WANTS)


def relevance(outline: Outline, question: str, *, kept_share: float, meaning: Meaning | None) -> Scores:
    """Return float64 [len(outline.leaves)], 0 or more. `kept_share` is the part of the tokens that can be kept."""
    terms = query_terms(question)
    words = bm25(terms, [outline.bags[leaf] for leaf in outline.leaves], outline.weights)
    sections = outline.spread(bm25(terms, [section.bag for section in outline.sections], outline.weights))
    by_words = _WORDS * words + _SECTION * sections + _NEIGHBOURS * _beside(outline, words) + _WANTED * _holds_wanted(outline, question)
    cosines = _cosines(outline, question, by_words + _OPEN_SHARE * outline.early(), kept_share, meaning)
    by_words += _EARLY * outline.early() + _WHOLE * outline.whole()
    if cosines is None:
        alone: Scores = by_words + (_WORDS_ALONE - _WORDS) * words
        return alone
    best = [max(cosines[list(section.members)]) for section in outline.sections]
    scores: Scores = np.maximum(by_words + cosines + _SECTION_MEANING * outline.spread(best), 0.0)
    return scores


def _beside(outline: Outline, words: Scores) -> Scores:
    """Return the score of the better neighbour in the same section, the one behind at half."""
    section = np.array([outline.units[leaf].section for leaf in outline.leaves])
    beside = np.zeros(len(words))
    same = section[1:] == section[:-1]
    beside[1:] = np.where(same, words[:-1], 0)
    beside[:-1] = np.maximum(beside[:-1], np.where(same, words[1:] / 2, 0))
    return beside


def _holds_wanted(outline: Outline, question: str) -> Scores:
    for asks, holds in _WANTED_PATTERNS:
        if asks.search(question):
            return np.array([float(holds.search(outline.piece(leaf)) is not None) for leaf in outline.leaves])
    return np.zeros(len(outline.leaves))


def _cosines(outline: Outline, question: str, likely: Scores, kept_share: float, meaning: Meaning | None) -> Scores | None:
    """Return the cosine with the question of the units in doubt; 1 for the sure ones, a low one for the rest."""
    if meaning is None or not len(likely):
        return None
    order = np.argsort(-likely, kind="stable")
    tokens = np.array([outline.tokens[outline.leaves[i]] for i in order])
    sure = int((np.cumsum(tokens) < (kept_share - _OPEN_SHARE) * tokens.sum()).sum())
    reading = order[sure : sure + min(_MOST_READ, max(_FEWEST_READ, len(likely) // 3))]
    vectors = meaning([question, *(outline.in_context(outline.leaves[i]) for i in reading)])
    if vectors is None:
        return None
    read = (vectors[1:] @ vectors[0]).astype(np.float64)
    cosines = np.full(len(likely), np.quantile(read, 0.25))
    cosines[order[:sure]] = 1.0
    cosines[reading] = read
    return cosines
