"""Writing the page for what was found: weighing, loading, telling near-equals once, and filling the token budget.

All of it blocks, and is done in one thread: handing each step to another one takes as long as the step.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from tracebank.answering.requests import Asked
from tracebank.learning import Learner
from tracebank.learning.applying import unfitting
from tracebank.records import Query
from tracebank.retrieval import Page, Ranked, Searched, present
from tracebank.retrieval.cursor import BEGINNING, Place, cursor_at
from tracebank.retrieval.dates import Period, preferred
from tracebank.retrieval.duplicates import Distinct
from tracebank.retrieval.fusion import led
from tracebank.retrieval.shown import Span
from tracebank.store import Store, StoredTrace, filtering, traces, vectors
from tracebank.tokens import Tokenizer

# So many are named where a namespace is asked for that has nothing.
NAMED_NAMESPACES = 20

_Loaded = tuple[StoredTrace, Ranked, list[Span]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieved:
    """One page of memories. `dense`: whether meaning took part in finding them.

    `shaped` is for who passes it on: what was made of it once serves as long as the answer is kept.
    """

    page: Page
    namespaces: tuple[str, ...]
    dense: bool
    note: str
    next_cursor: str | None
    shaped: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """An answer; `unknown`: it tells of namespaces that were not searched, because there are none of that name."""

    answer: Retrieved
    unknown: bool


class Pages:
    """Reads what is found from the store and writes it down. Any thread may ask."""

    def __init__(self, *, store: Store, learner: Learner, spaces: Callable[[], Mapping[str, int]], tokenizer: Tokenizer) -> None:
        self._store, self._learner, self._spaces, self._tokenizer = store, learner, spaces, tokenizer

    def weighed(self, searched: Searched, periods: Sequence[Period]) -> Searched:
        """Return what was found with what the question's dates and what is known of each memory add. Raises: StoreError."""
        ranking = searched.ranking
        if periods:
            moments = self._store.read_now(lambda db: traces.occurred_at_ms(db, [found.row for found in ranking]))
            ranking = preferred(ranking, periods, moments)
        return replace(searched, ranking=self._learner.weighed(ranking))

    def write(self, asked: Asked, searched: Searched, names: Sequence[str], *, complete: bool) -> Written:
        """Return the page that is asked for of what was found in these namespaces. Raises: StoreError."""
        query = asked.query
        unknown = self._unknown(query, searched)
        behind = "" if complete else "your latest traces are still being indexed"
        # Of several questions the best of each come first, once: on the pages behind, each has its turn.
        leading = searched.leading if asked.place == BEGINNING else ()
        order = led([ranked for ranked in searched.ranking if ranked.row not in asked.place.ahead], leading)
        found, near_equal, end = self._load(order, asked.place.index_in(order), query.k)
        place = Place.behind(searched.ranking, {*asked.place.ahead, *(ranked.row for ranked in order[:end])})
        more = "" if place is not None else self._more(query, searched, names)
        note = "; ".join(part for part in (searched.note, behind, unknown, more) if part)
        context = self._learner.context([stored.row for stored, _, _ in found])
        # Of several questions each has a best of its own; whoever wants everything gets it.
        alone = len(query.texts) == 1 and query.detail == "concise"
        unfit = unfitting((ranked for _, ranked, _ in found), searched.ranking) if alone else ()
        page = present(
            found, tokenizer=self._tokenizer, max_tokens=query.max_tokens, detail=query.detail, note=note,
            several=len(query.namespaces) != 1, told=context.told, patterns=context.patterns, near_equal=near_equal, unfit=unfit,
            leading=leading,
        )  # fmt: skip
        cursor = cursor_at(query, place) if place is not None else None
        answer = Retrieved(page=page, namespaces=tuple(names), dense=searched.dense, note=note, next_cursor=cursor)
        return Written(answer=answer, unknown=bool(unknown))

    def _load(self, ranking: Sequence[Ranked], offset: int, k: int) -> tuple[list[_Loaded], dict[int, list[str]], int]:
        """Return the next k of the ranking that still exist, the ids of those that say the same by row, and where the page ends."""
        distinct: Distinct[_Loaded] = Distinct(lambda one: one[0].trace)
        while len(distinct) < k and offset < len(ranking):
            part = ranking[offset : offset + k - len(distinct)]
            stored, spans = self._store.read_now(partial(_with_spans, rows=[ranked.row for ranked in part]))
            distinct.add((stored[ranked.row], ranked, spans.get(ranked.row, [])) for ranked in part if ranked.row in stored)
            offset += len(part)
        near_equal = {one[0].row: [other[0].trace.trace_id for other in others] for one, others in distinct if others}
        return [one for one, _ in distinct], near_equal, offset

    def _more(self, query: Query, searched: Searched, names: Sequence[str]) -> str:
        """Return that there is more than can be read on, at the end of what can: whoever asks for all must not take it for that."""
        end = len(searched.ranking)
        if not searched.cut or not end:
            return ""
        spaces = self._spaces()

        def matching(db: sqlite3.Connection) -> int:
            filters, asked = query.filters, [spaces[name] for name in names if name in spaces]
            if not filters:
                return sum(traces.count(db, space) for space in asked)
            return sum(len(filtering.matching(db, filters, space=space, limit=end + 1)) for space in asked)

        return f"only the best {end} are told: narrow the question for others" if self._store.read_now(matching) > end else ""

    def _unknown(self, query: Query, searched: Searched) -> str:
        # Counting reads every trace's entry: only where a namespace is new to us, or may have been emptied.
        spaces = self._spaces()
        if not query.namespaces or (searched.ranking and all(name in spaces for name in query.namespaces)):
            return ""
        counts = self._store.read_now(traces.namespaces)
        missing = [name for name in query.namespaces if name not in counts]
        if not missing:
            return ""
        known = ", ".join(list(counts)[:NAMED_NAMESPACES]) or "none yet"
        return f"no traces in namespace {', '.join(missing)}; namespaces that have some: {known}"


def _with_spans(db: sqlite3.Connection, rows: Sequence[int]) -> tuple[dict[int, StoredTrace], dict[int, list[Span]]]:
    return traces.load(db, rows), vectors.spans(db, rows)
