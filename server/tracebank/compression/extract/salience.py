"""How much a unit says where nobody asked anything: is it whole, early, concrete, about what all is about.

Where a paragraph begins it says what it is about (Baxendale, "Machine-made index for technical literature", 1958; Edmundson,
"New methods in automatic extracting", 1969, who adds cue words); names and numbers are what nobody can guess.
"""

from __future__ import annotations

import re

import numpy as np

from tracebank.compression.extract.outline import Outline
from tracebank.compression.extract.words import Scores, document_counts

_EARLY, _WHOLE, _CONCRETE, _CUES, _CENTRAL, _BASE = 1.0, 0.45, 0.3, 0.2, 0.25, 0.1
SHARPNESS = 2.0

# Numbers, names within a sentence, what stands in back quotes, abbreviations, paths and identifiers.
_CONCRETE_WORDS = re.compile(
    r"\d+(?:[.,:/-]\d+)*|(?<=[a-z,;:] )[A-Z][\w'-]+(?: [A-Z][\w'-]+)*|`[^`\n]+`|\b[A-Z]{2,}\b|(?:/[\w.-]+){2,}|\b\w+(?:_\w+)+\b"
)
# Errors, decisions, instructions, results.
_CUE_WORDS = re.compile(
    r"\b(?:error|exception|fail(?:ed|s|ure)?|fatal|panic|traceback|refused|denied|timeout|timed out|warning|bug|root cause|because"
    r"|fix(?:ed)?|resolved|decid(?:e|ed|es)|decision|agreed|chose|conclu(?:de|ded|sion)|therefore|result(?:s|ed)?|found|must|never|always"
    r"|do not|don't|should|required?|important|note|todo|deadline|please|action)\b",
    re.IGNORECASE,
)
_ENOUGH_WORDS = 8
_USUAL_QUANTILE = 0.95
# A word that more of the sections have is a word of the language, not of the subject.
_COMMON_SHARE = 0.6


def salience(outline: Outline) -> Scores:
    """Return float64 [len(outline.leaves)], 0 or more."""
    pieces = [outline.piece(leaf) for leaf in outline.leaves]
    concrete = _usual([len(set(_CONCRETE_WORDS.findall(piece[1:]))) for piece in pieces], _tokens(outline))
    cues = np.array([float(_CUE_WORDS.search(piece) is not None) for piece in pieces])
    short = np.array([min(1.0, len(outline.bags[leaf].counts) / _ENOUGH_WORDS) for leaf in outline.leaves])
    score = (
        _BASE + _EARLY * outline.early() + _WHOLE * outline.whole() + _CONCRETE * concrete + _CUES * cues + _CENTRAL * _centrality(outline)
    )
    result: Scores = score * short
    return result


def _tokens(outline: Outline) -> Scores:
    return np.array([max(1, outline.tokens[leaf]) for leaf in outline.leaves], np.float64)


def _usual(found: list[int], per: Scores) -> Scores:
    """Return the density of what was found, 1 for what is high in this text."""
    density = np.array(found) / per
    high = float(np.quantile(density, _USUAL_QUANTILE)) if len(density) else 0.0
    scaled: Scores = np.minimum(density / high, 1.0) if high else np.zeros(len(density))
    return scaled


def _centrality(outline: Outline) -> Scores:
    """Return how much each leaf's section shares with the other sections, 1 for the most central."""
    having = document_counts(section.bag for section in outline.sections)
    total = len(outline.sections)
    shares = []
    for section in outline.sections:
        telling = section.bag.telling
        shared = sum((having[stem] - 1) / max(1, total - 1) for stem in telling if 1 < having[stem] <= _COMMON_SHARE * total)
        shares.append(shared / (1 + len(telling)))
    highest = max(shares, default=0.0)
    return outline.spread([share / highest for share in shares] if highest else [0.0] * total)
