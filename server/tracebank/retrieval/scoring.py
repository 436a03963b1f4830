"""Scoring exactly what the indexes proposed, in one namespace or in many: what is best in all of them, no more.

Chroma and tantivy each propose chunks; what one proposed without the other's score is scored by the other: cosines
from the vectors in the store (`dense`), BM25 from tantivy on just those chunks.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np

from tracebank.beside import Beside
from tracebank.embedding import Embedded, TokenVectors, unpacked
from tracebank.errors import IndexFaultError, IndexUnreachableError
from tracebank.index import WordHits, WordIndex
from tracebank.records import Filters
from tracebank.retrieval import context, late
from tracebank.retrieval.context import Neighbours, lifted
from tracebank.retrieval.dense import Dense, Near
from tracebank.retrieval.fusion import TASK_ORDINAL, Fused, Missing, Ranked, behind, by_score, fuse
from tracebank.scores import NO_SCORES, Scores, Values, chunk_number, numbers_of, row_of
from tracebank.store import Store, neighbours, traces, vectors
from tracebank.store.outbox import Sink

PARALLEL_SEARCHES = 4
# From here on a search of one kind takes milliseconds, and handing it to another thread a tenth of one.
BESIDE_CHUNKS = 100_000
# Of a namespace of so many chunks all are proposed: to score what one index did not tell takes longer than to ask both for everything.
EVERY_CHUNK = 500
# So many of the best proposed, by what they may come to, are scored exactly: three times what is compared word by word, so that
# none of those is missed. As many again for each further namespace that may have more than it proposed.
EXACT_TRACES = 60
# So many are told, for the pages behind the first; all that were scored exactly, where those are more.
FOUND_TRACES = 200

Result = TypeVar("Result")


class Faults:
    """What goes wrong in the indexes while they are searched: the question is answered with what is there."""

    def __init__(self) -> None:
        self._found: dict[Sink, IndexFaultError] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def unless_faulty(self, sink: Sink, action: Callable[[], Result], otherwise: Result) -> Result:
        """Ask an index; where it is broken note that, and go on with what is there."""
        try:
            return action()
        except IndexFaultError as error:
            self._found[sink] = error
            return otherwise

    @property
    def note(self) -> str:
        """What is wrong, for the asker."""
        away = sorted(sink for sink, error in self._found.items() if isinstance(error, IndexUnreachableError))
        broken = sorted(self._found.keys() - away)
        told = [f"the index of {' and '.join(broken)} is being rebuilt"] if broken else []
        return "; ".join([*told, *(f"the index of {sink} cannot be reached" for sink in away)])

    def take(self) -> dict[Sink, IndexFaultError]:
        """Return, once, what went wrong since the last call."""
        found, self._found = self._found, {}
        return found


@dataclass(frozen=True, slots=True)
class Asked:
    """A question. `embedded` None: meaning takes no part."""

    text: str
    embedded: Embedded | None
    filters: Filters

    @property
    def tokens(self) -> TokenVectors | None:
        """Its tokens, where the model tells of them."""
        return self.embedded.tokens if self.embedded is not None else None


@dataclass(frozen=True, slots=True)
class Proposed:
    """What the two indexes propose in one namespace. `dense` None: meaning takes no part."""

    space: int
    words: WordHits
    dense: Scores | None
    fused: Fused
    # How much was asked for: a list of words that has so many may be cut. `whole`: of meaning nothing is.
    limit: int
    whole: bool

    @property
    def cut(self) -> bool:
        """Whether there may be more than was proposed."""
        return not self.whole or any(len(found) >= self.limit for found in (self.words.chunks, self.words.traces))

    @property
    def exact(self) -> bool:
        """Whether the scores are exact: nothing was cut, and no vector is still to come of what they are made of."""
        if self.cut or self.dense is None:
            return not self.cut
        tasks = chunk_number(np.fromiter(self.fused.rows, np.int64), TASK_ORDINAL)
        return bool(self.dense.has(self.words.chunks.numbers).all() and self.dense.has(tasks).all())


class Scorer:
    """Ranks what was proposed for a question. Its calls block; any thread may make them."""

    def __init__(self, store: Store, words: WordIndex, *, candidates: int, faults: Faults) -> None:
        """Take what it asks; with `dense` meaning takes part, too."""
        self._store, self._words, self._candidates, self._faults = store, words, candidates, faults
        self.dense: Dense | None = None
        self._beside = Beside(PARALLEL_SEARCHES, name="meaning")

    def close(self) -> None:
        """Let go of the threads. Nobody may search any more."""
        self._beside.close()

    def search(self, asked: Asked, spaces: Sequence[int]) -> tuple[list[Ranked], list[Proposed]]:
        """Return what both indexes propose in these namespaces, ranked, and as proposed."""
        proposals = self.propose(asked, spaces)
        return self.ranked(asked, proposals), proposals

    def propose(self, asked: Asked, spaces: Sequence[int]) -> list[Proposed]:
        """Ask both indexes of each of these namespaces."""
        return [self._propose(asked, space) for space in spaces]

    def _propose(self, asked: Asked, space: int) -> Proposed:
        unless_faulty = self._faults.unless_faulty
        chunks = unless_faulty("words", lambda: self._words.count(space), 0)
        limit = max(self._candidates, chunks + 1) if chunks <= EVERY_CHUNK else self._candidates
        query = partial(self._words.query, space, asked.text, limit, asked.filters)
        words, near = self._beside.both(
            lambda: unless_faulty("words", query, WordHits()), lambda: self._near(asked, space, limit), worth=chunks >= BESIDE_CHUNKS
        )
        dense, whole = near if near is not None else (None, True)
        missing = Missing.beyond(dense, words, whole=whole, full=limit)
        if dense is not None and whole and not dense.has(words.chunks.numbers).all():
            missing = replace(missing, cosine=_average(dense.values))
        fused = Fused(dense, words, tokens=dense is not None and asked.tokens is not None, missing=missing)
        return Proposed(space, words, dense, fused, limit, whole)

    def _near(self, asked: Asked, space: int, limit: int) -> Near | None:
        """Return the nearest chunks; None where meaning takes no part."""
        nothing: Near | None = None
        if asked.embedded is None or self.dense is None:
            return nothing
        return self._faults.unless_faulty(
            "vectors", partial(self.dense.nearest, space, asked.embedded.vector, asked.filters, limit), nothing
        )

    def ranked(self, asked: Asked, proposals: Sequence[Proposed]) -> list[Ranked]:
        """Return what was proposed: the best scored exactly, with what neighbours lend, and word by word; the others behind."""
        of = {row: proposed for proposed in proposals for row in proposed.fused.rows}
        own = {row: score for proposed in proposals for row, score in proposed.fused.scores.items()}
        rows = sorted(own, key=lambda row: (-own[row], row))
        limit = EXACT_TRACES * max(1, sum(proposed.cut for proposed in proposals))
        near, borrowers, new = self._neighbours(asked, rows, own, beyond=limit)
        for lender, sides in near.items():
            of.update((row, of[lender]) for side in sides for row in side if row not in of)
        chosen: defaultdict[int, list[int]] = defaultdict(list)
        for row in (*rows[:limit], *new):
            chosen[of[row].space].append(row)
        best = by_score([r for p in proposals if p.space in chosen for r in self._exactly(asked, p, chosen[p.space], new)])
        first = lifted(best, near, borrowers)
        if asked.tokens is not None and self.dense is not None:
            # Word by word each is compared for itself, and what stands out then lends.
            by_row = {ranked.row: ranked for ranked in best}
            read = [by_row[ranked.row] for ranked in first[: late.READ_TRACES]]
            reread = self._reread(asked.text, asked.tokens, self.dense, read, of)
            first = behind(lifted(reread, near, borrowers), first[late.READ_TRACES :])
        others = [row for row in rows[limit:FOUND_TRACES] if row not in new]
        return [*first, *(of[row].fused.ranked(row, at_most=first[-1].score) for row in others)]

    def _neighbours(
        self, asked: Asked, rows: Sequence[int], own: Mapping[int, float], *, beyond: int
    ) -> tuple[Neighbours, set[int], dict[int, int]]:
        """Return who is whose neighbour in time, who may borrow, and those of them `beyond` the best, with their chunks' number."""
        lending = rows[: context.LENDING_TRACES]

        def read(db: sqlite3.Connection) -> tuple[Neighbours, dict[int, float], dict[int, int]]:
            near = neighbours.of_traces(db, lending, reach=context.REACH, within_ms=context.WITHIN_MS)
            loans = context.lent({row: own[row] for row in lending}, near, own)
            return near, loans, traces.chunk_counts(db, list(loans))

        near, loans, chunks = self._store.read_now(read)
        borrowers = {row for row in loans if chunks.get(row, 0) <= context.SHORT_CHUNKS}
        exact = set(rows[:beyond])
        # Those that were proposed further down, by what they may come to; and those that nobody proposed, by what is lent to them.
        further = sorted(borrowers & own.keys() - exact, key=lambda row: (-own[row] - loans[row], row))[: context.NEW_TRACES]
        if not asked.filters:
            # With a filter nothing new comes in: it may not pass.
            further += sorted(borrowers - own.keys(), key=lambda row: (-loans[row], row))[: context.NEW_TRACES]
        return near, borrowers, {row: chunks[row] for row in further if row in chunks}

    def _exactly(self, asked: Asked, proposed: Proposed, rows: Sequence[int], new: Mapping[int, int]) -> list[Ranked]:
        """Return the exact scores of these rows of a namespace; of the `new` ones all chunks count, their number is given."""
        if proposed.exact:
            return [proposed.fused.ranked(row) for row in rows if row in proposed.fused.scores]
        words, dense = self._completed(asked, proposed, rows, new)
        wanted = numbers_of(rows)
        missing = Missing(cosine=_average(dense.values[np.isin(row_of(dense.numbers), wanted)]) if dense is not None else 0.0)
        return fuse(dense, words, tokens=dense is not None and asked.tokens is not None, rows=wanted, missing=missing)

    def _completed(self, asked: Asked, proposed: Proposed, rows: Sequence[int], new: Mapping[int, int]) -> tuple[WordHits, Scores | None]:
        """Return the scores of both kinds with what is missing: of the chunks proposed of these rows, of their tasks, of the new ones."""
        words, dense = proposed.words, proposed.dense
        wanted = numbers_of(row for row in rows if row not in new)
        known = np.union1d(words.chunks.numbers, (dense or NO_SCORES).numbers)
        fresh = numbers_of(chunk_number(row, ordinal) for row in rows if row in new for ordinal in range(new[row]))
        parts = (known[np.isin(row_of(known), wanted)], chunk_number(wanted, TASK_ORDINAL), fresh)
        numbers = np.unique(np.concatenate(parts))
        # A list that is not full is complete: what it lacks shares no word with the question.
        every = numbers_of(rows)
        chunks = numbers[~words.chunks.has(numbers)] if len(words.chunks) >= proposed.limit else numbers[:0]
        wholes = every[~words.traces.has(every)] if len(words.traces) >= proposed.limit else every[:0]
        if len(chunks) or len(wholes):
            space = proposed.space
            more = self._faults.unless_faulty("words", lambda: self._words.score(space, asked.text, chunks, wholes), WordHits())
            words = WordHits(words.chunks.joined(more.chunks), words.traces.joined(more.traces))
        if dense is not None and asked.embedded is not None and self.dense is not None:
            dense = dense.joined(self.dense.cosines(proposed.space, numbers[~dense.has(numbers)], asked.embedded.vector))
        return words, dense

    def _reread(self, text: str, tokens: TokenVectors, dense: Dense, best: Sequence[Ranked], of: Mapping[int, Proposed]) -> list[Ranked]:
        chunks = late.chunks_to_read(best)
        kept = self._store.read_now(lambda db: vectors.tokens_of_chunks(db, dense.model_id, chunks))
        codes: defaultdict[int, dict[int, list[late.Codes]]] = defaultdict(dict)
        for number in chunks:
            row = row_of(number)
            own = codes[of[row].space].setdefault(row, [])
            if number in kept:
                own.append(kept[number])
        question, words = unpacked(tokens.codes), late.words_of(text)
        spoken = [text[first:last] for first, last in words]
        scores: dict[int, float] = {}
        for space, held in codes.items():
            # How rare a word is depends on where it is looked for.
            idf = self._faults.unless_faulty("words", partial(self._words.idf, space, spoken), [1.0] * len(words))
            scores |= late.token_scores(question, late.token_weights(tokens.spans, words, idf), held)
        return late.reread(best, scores)


def _average(cosines: Values) -> float:
    """Return what a text whose vector is still to come is taken for: what was just stored is not put behind all others."""
    return float(np.fmax(0.0, cosines).mean()) if len(cosines) else 0.0
