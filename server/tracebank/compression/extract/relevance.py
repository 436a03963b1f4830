"""How likely a unit answers a question: by its words, its section's, its neighbours', and by meaning.

Words are cheap and looked at for all units; the model reads only those whose fate the words leave open. It tells of
each what it says as a whole and, word by word, what of the question it has (late interaction, as in search).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tracebank.compression.extract.outline import Outline
from tracebank.compression.extract.words import Scores, bm25, stems
from tracebank.embedding import Embedded, Vectors, unpacked
from tracebank.index.analysis import query_terms
from tracebank.index.stopwords import STOP_WORDS
from tracebank.retrieval.late import token_weights, words_of

Positions = NDArray[np.intp]
# What the model says of each text; None where there is no model.
Meaning = Callable[[Sequence[str]], Sequence[Embedded] | None]

# Weights beside a cosine of weight 1. Words decide little where the model reads the unit with its heading; a section
# and neighbours say what a sentence only points at ("It opened in 1909").
_WORDS, _SECTION, _NEIGHBOURS, _WANTED, _EARLY, _WHOLE = 0.25, 0.1, 0.1, 0.15, 0.25, 0.35
_SAID = 0.5
# Word by word; and the same two of a section, by the best of its units and by all of them together.
_TOKENS, _SECTION_MEANING, _SECTION_TOKENS = 0.4, 0.2, 0.2
# What words weigh where there is no model to read anything.
_WORDS_ALONE = 2.0
# The model reads at least so many units, at most so many, and a third in between.
_FEWEST_READ, _MOST_READ = 64, 400
# What is not read is taken for as good as the better ones of what was read and found worst.
_UNREAD_QUANTILE = 0.25
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
    # A turn of a dialogue begins with a greeting as often as with what it is about.
    early = np.where(outline.said(), _SAID, outline.early())
    by_meaning = _by_meaning(outline, question, by_words + _OPEN_SHARE * early, kept_share, meaning)
    by_words += _EARLY * early + _WHOLE * outline.whole()
    if by_meaning is None:
        alone: Scores = by_words + (_WORDS_ALONE - _WORDS) * words
        return alone
    scores: Scores = np.maximum(by_words + by_meaning, 0.0)
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


def _by_meaning(outline: Outline, question: str, likely: Scores, kept_share: float, meaning: Meaning | None) -> Scores | None:
    """Return what the model says of the units in doubt, as much as can be for the sure ones, little for the rest."""
    if meaning is None or not len(likely):
        return None
    sure, reading = _in_doubt(outline, likely, kept_share)
    read = meaning([question, *(outline.in_context(outline.leaves[i]) for i in reading)])
    if read is None:
        return None
    asked, units = read[0], read[1:]
    cosines = _for_all(np.array([float(unit.vector @ asked.vector) for unit in units]), sure, reading, len(likely))
    matches = _matches(outline, question, asked, units)
    if matches is None:
        # A model that tells of no tokens: the whole stands for its words.
        return (1 + _TOKENS) * cosines + (_SECTION_MEANING + _SECTION_TOKENS) * _best_of_section(outline, cosines)
    weights, best = matches
    tokens = _for_all((best @ weights).astype(np.float64), sure, reading, len(likely))
    together = np.zeros((len(likely), len(weights)))
    together[reading] = best
    of_sections = [together[list(section.members)].max(axis=0) @ weights for section in outline.sections]
    section_tokens = np.maximum(outline.spread(of_sections), _best_of_section(outline, tokens))
    return cosines + _TOKENS * tokens + _SECTION_MEANING * _best_of_section(outline, cosines) + _SECTION_TOKENS * section_tokens


def _in_doubt(outline: Outline, likely: Scores, kept_share: float) -> tuple[Positions, Positions]:
    """Return the units that are sure by words alone, and those that the model has to read."""
    order = np.argsort(-likely, kind="stable")
    tokens = np.array([outline.tokens[outline.leaves[i]] for i in order])
    sure = int((np.cumsum(tokens) < (kept_share - _OPEN_SHARE) * tokens.sum()).sum())
    return order[:sure], order[sure : sure + min(_MOST_READ, max(_FEWEST_READ, len(likely) // 3))]


def _for_all(read: Scores, sure: Positions, reading: Positions, leaves: int) -> Scores:
    scores = np.full(leaves, np.quantile(read, _UNREAD_QUANTILE))
    scores[sure] = 1.0
    scores[reading] = read
    return scores


def _best_of_section(outline: Outline, scores: Scores) -> Scores:
    return outline.spread([max(scores[list(section.members)]) for section in outline.sections])


def _matches(outline: Outline, question: str, asked: Embedded, units: Sequence[Embedded]) -> tuple[Vectors, Vectors] | None:
    """Return the weights of the question's tokens, and float32 [len(units), tokens]: the best cosine of each with a unit's."""
    if asked.tokens is None or not len(asked.tokens.spans):
        return None
    words = words_of(question)
    weights = token_weights(asked.tokens.spans, words, _rarities(outline, [question[first:last] for first, last in words]))
    own = [unit.tokens.codes if unit.tokens is not None else asked.tokens.codes[:0] for unit in units]
    vectors, wanted = unpacked(np.concatenate(own)), unpacked(asked.tokens.codes).T
    best = np.zeros((len(units), len(weights)), np.float32)
    # One unit after the other: so small a product stays in this thread, where a large one would wake one on every core.
    for row, tokens in zip(best, np.split(vectors, np.cumsum([len(codes) for codes in own[:-1]])), strict=True):
        if len(tokens):
            row[:] = (tokens @ wanted).max(axis=0)
    return weights, best


def _rarities(outline: Outline, words: Sequence[str]) -> list[float]:
    """Return the rarity of each word in the text; a word that is not there is as rare as the rarest, a stop word says nothing."""
    rarest = max(outline.weights.values(), default=1.0)
    return [
        0.0 if word.lower() in STOP_WORDS else max((outline.weights.get(stem, rarest) for stem in stems(word)), default=0.0)
        for word in words
    ]
