"""The mathematics of ranking: pure functions, ties broken by row.

    score(trace) = max over its chunks(1/2 cosine + 1/2 bm25) + 1/2 bm25 of the whole trace, over the highest possible

with each BM25 relative to the highest score that the question could reach. Rank fusion (RRF) is not used: it fell
below its better half on two of five sets, because a rank says nothing about how good a match is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tracebank.index import ChunkKey, WordHits

DENSE_WEIGHT = 0.5
LEXICAL_WEIGHT = 0.5
WHOLE_WEIGHT = 0.5
# The fourth part, word by word, which only the best get: `late`.
TOKENS_WEIGHT = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """A trace that was found: its score from 0 to 1 and the parts of it, and its passages, best first.

    `context` is what its neighbours in time lent it, `tokens` how well it matches the question word by word.
    """

    row: int
    score: float
    dense: float
    lexical: float
    whole: float
    passages: tuple[tuple[int, float], ...]
    context: float = 0.0
    tokens: float = 0.0


def fuse(dense: Mapping[ChunkKey, float] | None, words: WordHits, *, tokens: bool = False) -> list[Ranked]:
    """Return the traces of all hits, best first. `dense` None: by words alone. `tokens`: a fourth part is still to come."""
    highest = (DENSE_WEIGHT if dense is not None else 0.0) + LEXICAL_WEIGHT + WHOLE_WEIGHT + (TOKENS_WEIGHT if tokens else 0.0)
    cosines: Mapping[ChunkKey, float] = dense or {}
    chunks: defaultdict[int, list[tuple[float, int]]] = defaultdict(list)
    for row, ordinal in {*cosines, *words.chunks}:
        key = (row, ordinal)
        score = DENSE_WEIGHT * max(0.0, cosines.get(key, 0.0)) + LEXICAL_WEIGHT * words.chunks.get(key, 0.0)
        chunks[row].append((-score, ordinal))
    return by_score([_ranked(row, sorted(chunks[row]), cosines, words, highest) for row in {*chunks, *words.traces}])


def _ranked(row: int, chunks: Sequence[tuple[float, int]], cosines: Mapping[ChunkKey, float], words: WordHits, highest: float) -> Ranked:
    best, ordinal = chunks[0] if chunks else (0.0, -1)
    whole = words.traces.get(row, 0.0)
    return Ranked(
        row=row,
        score=(-best + WHOLE_WEIGHT * whole) / highest,
        dense=max(0.0, cosines.get((row, ordinal), 0.0)),
        lexical=words.chunks.get((row, ordinal), 0.0),
        whole=whole,
        passages=tuple((i, -score / highest) for score, i in chunks),
    )


def merge(rankings: Sequence[Sequence[Ranked]]) -> list[Ranked]:
    """Return one ranking of several questions: each trace as the question that it answers best sees it."""
    if len(rankings) == 1:
        return by_score(rankings[0])
    best: dict[int, Ranked] = {}
    passages: defaultdict[int, dict[int, float]] = defaultdict(dict)
    for found in (found for ranking in rankings for found in ranking):
        if found.row not in best or found.score > best[found.row].score:
            best[found.row] = found
        for ordinal, score in found.passages:
            passages[found.row][ordinal] = max(score, passages[found.row].get(ordinal, 0.0))
    return by_score([_with_passages(found, passages[row]) for row, found in best.items()])


def _with_passages(found: Ranked, passages: Mapping[int, float]) -> Ranked:
    ordered = tuple(sorted(passages.items(), key=lambda p: (-p[1], p[0])))
    return replace(found, passages=ordered)


def by_score(ranking: Sequence[Ranked]) -> list[Ranked]:
    """Return the ranking best first; of equals, the trace that was stored first."""
    return sorted(ranking, key=lambda found: (-found.score, found.row))
