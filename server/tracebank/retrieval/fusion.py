"""The mathematics of ranking: pure functions, ties broken by row.

    score(chunk) = 1/2 cosine + 1/2 bm25
    score(trace) = best chunk + 1/4 task + 1/2 bm25 of the whole trace + word by word (`late`), over the highest possible

with each BM25 relative to the highest score that the question could reach. The task counts once more, because it says
what the whole trace is about. Rank fusion (RRF) is not used: it fell below its better half on two of five sets, because
a rank says nothing about how good a match is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tracebank.index import ChunkKey, WordHits

DENSE_WEIGHT = 0.5
LEXICAL_WEIGHT = 0.5
TASK_WEIGHT = 0.25
WHOLE_WEIGHT = 0.5
# Word by word, which only the best get: `late`.
TOKENS_WEIGHT = 1.0
HIGHEST = (DENSE_WEIGHT + LEXICAL_WEIGHT) * (1 + TASK_WEIGHT) + WHOLE_WEIGHT + TOKENS_WEIGHT
# The task is what a trace is cut into first, so its beginning is the first chunk.
TASK_ORDINAL = 0


class Ranked(NamedTuple):
    """A trace that was found: its score from 0 to 1 and the parts of it, and its passages, best first.

    `context` is what its neighbours in time lent it, `tokens` how well it matches the question word by word, `reranker` what
    a cross-encoder says. A tuple, because a search makes hundreds, and a frozen dataclass takes four times as long to make.
    """

    row: int
    score: float
    dense: float
    lexical: float
    whole: float
    passages: tuple[tuple[int, float], ...]
    context: float = 0.0
    tokens: float = 0.0
    reranker: float = 0.0

    def scored(self, score: float) -> Ranked:
        """Return the same with another score, and what is lent of it in proportion."""
        lent = self.context * score / self.score if self.context and self.score else self.context
        # Not `_replace`, which takes three times as long: all that a search finds is weighed.
        return Ranked(self.row, score, self.dense, self.lexical, self.whole, self.passages, lent, self.tokens, self.reranker)


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """What a part of a score is taken for where an index did not tell it: a cosine, the BM25 of a chunk and of a whole trace.

    In a list of the best, whatever is not there has at most the lowest score in it (the threshold algorithm of Fagin, Lotem and
    Naor, PODS 2001), and zero where the list is complete. Of what has no vector yet the cosine is taken for an average one.
    """

    cosine: float = 0.0
    chunk: float = 0.0
    whole: float = 0.0

    @classmethod
    def beyond(cls, dense: Mapping[ChunkKey, float] | None, words: WordHits, *, whole: bool, full: int) -> Missing:
        """Return what is missing from lists, of cosines unless they are `whole`, of words where they are cut at `full` entries."""

        def least(scores: Mapping[Any, float] | None, *, cut: bool) -> float:
            return max(0.0, min(scores.values())) if scores and cut else 0.0

        return cls(
            cosine=least(dense, cut=not whole),
            chunk=least(words.chunks, cut=len(words.chunks) >= full),
            whole=least(words.traces, cut=len(words.traces) >= full),
        )


NOTHING_MISSING = Missing()


class Fused:
    """The fused scores of traces: `rows` best first, `scores` by row. Values are made of those that are asked for.

    Of all that two indexes propose most is never looked at, and making values of everything costs more than scoring it.
    """

    def __init__(
        self,
        dense: Mapping[ChunkKey, float] | None,
        words: WordHits,
        *,
        tokens: bool = False,
        rows: Collection[int] | None = None,
        missing: Missing = NOTHING_MISSING,
    ) -> None:
        chunk = (DENSE_WEIGHT if dense is not None else 0.0) + LEXICAL_WEIGHT
        self._highest = chunk * (1 + TASK_WEIGHT) + WHOLE_WEIGHT + (TOKENS_WEIGHT if tokens else 0.0)
        self._cosines: Mapping[ChunkKey, float] = dense or {}
        self._words = words
        self._chunks: defaultdict[int, list[tuple[float, int]]] = defaultdict(list)
        cosines, lexical, wholes = self._cosines, words.chunks, words.traces
        no_cosine, no_chunk, no_whole = missing.cosine, missing.chunk, missing.whole
        best: dict[int, float] = {}
        task: dict[int, float] = {}
        for key in cosines.keys() | lexical.keys():
            row, ordinal = key
            if rows is None or row in rows:
                cosine = cosines.get(key, no_cosine)
                score = DENSE_WEIGHT * (cosine if cosine > 0.0 else 0.0) + LEXICAL_WEIGHT * lexical.get(key, no_chunk)
                self._chunks[row].append((-score, ordinal))
                if row not in best or score > best[row]:
                    best[row] = score
                if ordinal == TASK_ORDINAL:
                    task[row] = score
        unknown, highest = DENSE_WEIGHT * no_cosine + LEXICAL_WEIGHT * no_chunk, self._highest
        self.scores = {
            row: (best.get(row, unknown) + TASK_WEIGHT * task.get(row, unknown) + WHOLE_WEIGHT * wholes.get(row, no_whole)) / highest
            for row in best.keys() | (wholes.keys() if rows is None else wholes.keys() & rows)
        }
        self.rows = sorted(self.scores, key=lambda row: (-self.scores[row], row))

    def ranked(self, row: int, *, at_most: float = 1.0) -> Ranked:
        """Return a trace, with no higher score than `at_most`."""
        chunks, highest = sorted(self._chunks.get(row, ())), self._highest
        best = (row, chunks[0][1] if chunks else -1)
        score, dense = self.scores[row], self._cosines.get(best, 0.0)
        # By position and from a list, because a search makes hundreds: by name and from a generator takes half as long again.
        return Ranked(
            row, score if score < at_most else at_most, dense if dense > 0.0 else 0.0,
            self._words.chunks.get(best, 0.0), self._words.traces.get(row, 0.0),
            tuple([(ordinal, -chunk / highest) for chunk, ordinal in chunks]),
        )  # fmt: skip


def fuse(
    dense: Mapping[ChunkKey, float] | None,
    words: WordHits,
    *,
    tokens: bool = False,
    rows: Collection[int] | None = None,
    missing: Missing = NOTHING_MISSING,
) -> list[Ranked]:
    """Return the traces of all hits, or those of them that are in `rows`, best first.

    `dense` None: by words alone. `tokens`: the last part of the score is still to come. `missing`: what stands for what is not told.
    """
    fused = Fused(dense, words, tokens=tokens, rows=rows, missing=missing)
    return [fused.ranked(row) for row in fused.rows]


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
    return found._replace(passages=ordered)


def by_score(ranking: Sequence[Ranked]) -> list[Ranked]:
    """Return the ranking best first; of equals, the trace that was stored first."""
    return sorted(ranking, key=lambda found: (-found.score, found.row))


def behind(first: Sequence[Ranked], others: Sequence[Ranked]) -> list[Ranked]:
    """Return one ranking: the others stay behind the first, whatever their scores, and none has a higher one."""
    least = first[-1].score if first else 1.0
    return [*first, *(found.scored(least) if found.score > least else found for found in others)]
