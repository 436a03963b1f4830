"""Reading the best traces again with a cross-encoder, where one is set.

Off by default: it costs tens of milliseconds a search, half a gigabyte, and a model that has to be there. While it loads,
and where it fails, the ranking stays as it is and the note says so.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from anyio import CapacityLimiter, to_thread

from tracebank.embedding import CrossEncoderModel, Vectors
from tracebank.errors import EmbeddingError, ModelLoadError
from tracebank.retrieval.fusion import Ranked, behind, by_score
from tracebank.store import Store, traces, vectors
from tracebank.work import part_text

log = logging.getLogger(__name__)

READ_TRACES = 20
# Beside a score that all other parts make up.
WEIGHT = 1.0


class Reranker:
    """Owns the cross-encoder, which is loaded in the background."""

    def __init__(self, load: Callable[[], CrossEncoderModel], store: Store) -> None:
        self._load, self._store = load, store
        self._model: CrossEncoderModel | None = None
        self._failure: ModelLoadError | None = None
        self._one_at_a_time = CapacityLimiter(1)
        self.settled = asyncio.Event()

    async def run(self) -> None:
        """Load the model. One that cannot be loaded is told in the log, and in the note of every search."""
        try:
            self._model = await to_thread.run_sync(self._load, abandon_on_cancel=True)
        except ModelLoadError as error:
            log.warning("%s", error)
            self._failure = error
        finally:
            self.settled.set()

    @property
    def lacking(self) -> str:
        """Why nothing is read again; empty where it is."""
        if self._failure is not None:
            return str(self._failure)
        return "" if self._model is not None else "the reranker is still loading"

    async def rerank(self, questions: Sequence[str], ranking: Sequence[Ranked]) -> tuple[tuple[Ranked, ...], str]:
        """Return the ranking, its best read again, and a note on why they were not, if so."""
        if self._model is None:
            return tuple(ranking), self.lacking
        best = ranking[:READ_TRACES]
        texts = await self._store.read(lambda db: _texts(db, best))
        pairs = [(question, texts[found.row]) for found in best if found.row in texts for question in questions]
        try:
            scores: Vectors = (
                await to_thread.run_sync(self._model.scores, pairs, limiter=self._one_at_a_time) if pairs else np.empty(0, np.float32)
            )
        except EmbeddingError as error:
            log.warning("%s", error)
            return tuple(ranking), str(error)
        rows = [found.row for found in best if found.row in texts]
        return tuple(reranked(ranking, _best_of(rows, scores, len(questions)))), ""


def reranked(ranking: Sequence[Ranked], scores: Mapping[int, float]) -> list[Ranked]:
    """Return the ranking with the cross-encoder's scores, by row, beside those that it has; the others stay behind."""
    best = [
        found._replace(
            score=(found.score + WEIGHT * scores.get(found.row, 0.0)) / (1 + WEIGHT),
            context=found.context / (1 + WEIGHT),
            reranker=scores.get(found.row, 0.0),
        )
        for found in ranking[:READ_TRACES]
    ]
    return behind(by_score(best), ranking[READ_TRACES:])


def _best_of(rows: Sequence[int], scores: Vectors, questions: int) -> dict[int, float]:
    return {row: float(own.max()) for row, own in zip(rows, scores.reshape(-1, questions), strict=True)}


def _texts(db: sqlite3.Connection, ranking: Sequence[Ranked]) -> dict[int, str]:
    """Return what is read of each trace: its task and the passage that fits best."""
    rows = [found.row for found in ranking]
    stored, spans = traces.load(db, rows), vectors.spans(db, rows)
    texts = {}
    for found in ranking:
        if found.row in stored:
            own = [spans[found.row][i] for i, _ in found.passages if i < len(spans.get(found.row, ()))]
            passage = next((part_text(stored[found.row], part, item)[start:end] for part, item, start, end in own if part != "task"), "")
            texts[found.row] = f"{stored[found.row].trace.task}\n{passage}".strip()
    return texts
