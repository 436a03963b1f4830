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
from functools import cached_property
from typing import NamedTuple

import numpy as np

from tracebank.index import WordHits
from tracebank.scores import NO_SCORES, Numbers, Scores, ordinal_of, row_of

DENSE_WEIGHT = 0.5
LEXICAL_WEIGHT = 0.5
TASK_WEIGHT = 0.25
WHOLE_WEIGHT = 0.5
# Word by word, which only the best get: `late`.
TOKENS_WEIGHT = 1.0
HIGHEST = (DENSE_WEIGHT + LEXICAL_WEIGHT) * (1 + TASK_WEIGHT) + WHOLE_WEIGHT + TOKENS_WEIGHT
# Of what each of several questions finds so many may come to be its best by what is known of them.
VIEWED_TRACES = 10
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
    def beyond(cls, dense: Scores | None, words: WordHits, *, whole: bool, full: int) -> Missing:
        """Return what is missing from lists, of cosines unless they are `whole`, of words where they are cut at `full` entries."""

        def least(scores: Scores | None, *, cut: bool) -> float:
            return max(0.0, float(scores.values.min())) if scores and cut else 0.0

        return cls(
            cosine=least(dense, cut=not whole),
            chunk=least(words.chunks, cut=len(words.chunks) >= full),
            whole=least(words.traces, cut=len(words.traces) >= full),
        )


NOTHING_MISSING = Missing()


class Fused:
    """The fused scores of traces, by row, best first. A `Ranked` is made of those that are asked for.

    Of all that two indexes propose most is never looked at, and making one of everything costs more than scoring it.
    """

    def __init__(
        self,
        dense: Scores | None,
        words: WordHits,
        *,
        tokens: bool = False,
        rows: Numbers | None = None,
        missing: Missing = NOTHING_MISSING,
    ) -> None:
        chunk = (DENSE_WEIGHT if dense is not None else 0.0) + LEXICAL_WEIGHT
        self._highest = chunk * (1 + TASK_WEIGHT) + WHOLE_WEIGHT + (TOKENS_WEIGHT if tokens else 0.0)
        self._cosines, self._words = dense or NO_SCORES, words
        numbers, whole_rows = np.union1d(self._cosines.numbers, words.chunks.numbers), words.traces.numbers
        if rows is not None:
            numbers, whole_rows = numbers[np.isin(row_of(numbers), rows)], whole_rows[np.isin(whole_rows, rows)]
        # `fmax`: what is no number counts as nothing, and not as the best of all.
        cosines = np.fmax(0.0, self._cosines.of_numbers(numbers, otherwise=missing.cosine))
        fit = DENSE_WEIGHT * cosines + LEXICAL_WEIGHT * words.chunks.of_numbers(numbers, otherwise=missing.chunk)
        # The chunks of a trace lie together, its task, where it is there, first.
        firsts = np.flatnonzero(np.diff(row_of(numbers), prepend=-1))
        with_chunks = row_of(numbers[firsts])
        is_task = ordinal_of(numbers[firsts]) == TASK_ORDINAL
        best = Scores(with_chunks, np.maximum.reduceat(fit, firsts) if len(firsts) else fit)
        task = Scores(with_chunks[is_task], fit[firsts[is_task]])
        every = np.union1d(with_chunks, whole_rows)
        unknown = DENSE_WEIGHT * missing.cosine + LEXICAL_WEIGHT * missing.chunk
        scores = (
            best.of_numbers(every, otherwise=unknown)
            + TASK_WEIGHT * task.of_numbers(every, otherwise=unknown)
            + WHOLE_WEIGHT * words.traces.of_numbers(every, otherwise=missing.whole)
        ) / self._highest
        order = np.lexsort((every, -scores))
        self.scores: dict[int, float] = dict(zip(every[order].tolist(), scores[order].tolist(), strict=True))
        self._numbers, self._fit, self._firsts = numbers, fit, firsts

    @property
    def rows(self) -> Collection[int]:
        """The traces, best first."""
        return self.scores.keys()

    @cached_property
    def _told(self) -> _Told:
        numbers, firsts = self._numbers, self._firsts
        order = np.lexsort((numbers, -self._fit, row_of(numbers)))
        best = numbers[order[firsts]]
        dense = np.fmax(0.0, self._cosines.of_numbers(best, otherwise=0.0)).tolist()
        lexical = self._words.chunks.of_numbers(best, otherwise=0.0).tolist()
        spans = zip(firsts.tolist(), np.append(firsts, len(numbers))[1:].tolist(), dense, lexical, strict=True)
        return _Told(
            passages=list(zip(ordinal_of(numbers[order]).tolist(), (self._fit[order] / self._highest).tolist(), strict=True)),
            chunks=dict(zip(row_of(best).tolist(), spans, strict=True)),
            wholes=self._words.traces.by_number(),
        )

    def ranked(self, row: int, *, at_most: float = 1.0) -> Ranked:
        """Return a trace, with no higher score than `at_most`."""
        told = self._told
        first, end, dense, lexical = told.chunks.get(row, _NO_CHUNKS)
        # By position, because a search makes hundreds: by name it takes half as long again.
        return Ranked(row, min(at_most, self.scores[row]), dense, lexical, told.wholes.get(row, 0.0), tuple(told.passages[first:end]))


class _Told(NamedTuple):
    """What values are made of, read out of the columns at once.

    `passages` are those of all traces, `chunks` tells of each trace with some where its own begin and end in them, and of the best one
    cosine and BM25.
    """

    passages: list[tuple[int, float]]
    chunks: dict[int, tuple[int, int, float, float]]
    wholes: dict[int, float]


_NO_CHUNKS = (0, 0, 0.0, 0.0)


def fuse(
    dense: Scores | None,
    words: WordHits,
    *,
    tokens: bool = False,
    rows: Numbers | None = None,
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


# What one of several questions says of the best that it found: by row, how much of the score that the trace has for all of them.
View = Mapping[int, float]


def views(rankings: Sequence[Sequence[Ranked]], merged: Sequence[Ranked]) -> tuple[View, ...]:
    """Return the view of each question on one ranking of them all."""
    whole = {found.row: found.score for found in merged}
    return tuple({found.row: found.score / (whole[found.row] or 1.0) for found in ranking[:VIEWED_TRACES]} for ranking in rankings)


def leaders(ranking: Sequence[Ranked], views: Sequence[View]) -> set[int]:
    """Return the best of each question, by row, as a ranking has them that may have been weighed since."""
    scores = {found.row: found.score for found in ranking}
    known = ({row: share * scores[row] for row, share in view.items() if row in scores} for view in views)
    return {max(view, key=lambda row: (view[row], -row)) for view in known if view}


def led(ranking: Sequence[Ranked], leading: Collection[int]) -> list[Ranked]:
    """Return the ranking with these rows first, both parts in its order."""
    return sorted(ranking, key=lambda found: found.row not in leading)


def behind(first: Sequence[Ranked], others: Sequence[Ranked]) -> list[Ranked]:
    """Return one ranking: the others stay behind the first, whatever their scores, and none has a higher one."""
    least = first[-1].score if first else 1.0
    return [*first, *(found.scored(least) if found.score > least else found for found in others)]
