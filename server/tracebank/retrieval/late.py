"""Comparing a question with the best traces word by word: late interaction.

    score(trace) = sum over the question's tokens t of weight(t) * max over the trace's tokens u of cosine(t, u)

after ColBERT (Khattab and Zaharia 2020, arXiv:2004.12832), with the weights of BM25's inverse document frequency: one vector
for a whole text blurs names and numbers, and the words of BM25 must be the same to be equal. The vectors are those that the
embedding model computes anyway. A trace's tokens are those of its task and its best other chunk together, because a trace says
what it is about in one, and what happened in another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tracebank.embedding import Vectors, unpacked
from tracebank.retrieval.fusion import HIGHEST, TASK_ORDINAL, TOKENS_WEIGHT, Ranked, by_score
from tracebank.scores import chunk_number

# Packed token vectors, uint8 [tokens, bytes a token].
Codes = NDArray[np.uint8]

# So many of the best traces are compared.
READ_TRACES = 20
# A chunk that fits less than so well as the best of its trace says nothing of the question: its words would match by chance.
TELLING_SHARE = 0.25
# Of a score that all parts make up.
_SHARE = TOKENS_WEIGHT / HIGHEST
_WORD = re.compile(r"\w+")


def chunks_to_read(ranking: Sequence[Ranked]) -> list[int]:
    """Return the numbers of the chunks whose tokens are compared: of each of the best traces its task and its best other chunk."""
    return [chunk_number(found.row, ordinal) for found in ranking[:READ_TRACES] for ordinal in _telling(found)]


def _telling(found: Ranked) -> list[int]:
    least = TELLING_SHARE * found.passages[0][1] if found.passages else 0.0
    return [TASK_ORDINAL, *[ordinal for ordinal, score in found.passages if ordinal != TASK_ORDINAL and score >= least][:1]]


def words_of(text: str) -> list[tuple[int, int]]:
    """Return where the words of a question stand."""
    return [found.span() for found in _WORD.finditer(text)]


def token_weights(spans: NDArray[np.int32], words: Sequence[tuple[int, int]], idf: Sequence[float]) -> Vectors:
    """Return float32 [tokens], of sum 1: each word's idf, shared among the tokens that begin in it; equal where there is none."""
    owner = [next((i for i, (first, last) in enumerate(words) if first <= start < last), -1) for start in spans[:, 0]]
    weights = np.array([idf[i] / owner.count(i) if i >= 0 else 0.0 for i in owner], np.float32)
    total = float(weights.sum())
    return weights / total if total > 0 else np.full(len(weights), 1 / max(1, len(weights)), np.float32)


def token_scores(question: Vectors, weights: Vectors, codes: Mapping[int, Sequence[Codes]]) -> dict[int, float]:
    """Return each trace's score, 0 to 1, by row, from the packed tokens of its chunks; without tokens it has none."""
    kept = {row: np.concatenate(parts) for row, parts in codes.items() if sum(map(len, parts))}
    if not kept or not len(question):
        return {}
    ends = np.cumsum([len(tokens) for tokens in kept.values()])
    tokens = np.split(unpacked(np.concatenate(list(kept.values()))), ends[:-1])
    # One trace after the other: so small a product stays in this thread, where a large one would wake one on every core.
    return {row: max(0.0, float(weights @ (question @ own.T).max(axis=1))) for row, own in zip(kept, tokens, strict=True)}


def reread(ranking: Sequence[Ranked], scores: Mapping[int, float]) -> list[Ranked]:
    """Return the traces that were compared, of which the other parts are known, with the last part added, best first.

    One whose tokens are not kept yet is taken for an average one.
    """
    average = sum(scores.values()) / len(scores) if scores else 0.0
    return by_score([_with(found, scores.get(found.row, average)) for found in ranking[:READ_TRACES]])


def _with(found: Ranked, tokens: float) -> Ranked:
    return found._replace(score=min(1.0, found.score + _SHARE * tokens), tokens=tokens)
