"""The cursor that leads from one page of results to the next, whatever was written in between."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Collection, Sequence
from typing import NamedTuple

from tracebank.errors import InputError
from tracebank.records import Query, shown
from tracebank.retrieval.fusion import Ranked

# Of the memories that were shown a cursor remembers so many: one of them may have moved.
REMEMBERED = 3
# With the best of as many questions as can be asked ahead of their turn one has some 600.
MAX_CHARS = 1_000


def _fingerprint(query: Query) -> str:
    what = repr((query.texts, query.namespaces, query.filters))
    return hashlib.blake2b(what.encode("utf-8", "backslashreplace"), digest_size=6).hexdigest()


class Place(NamedTuple):
    """Where a page begins: behind these `rows` of a ranking, the last one, which has this `score`, first; at the beginning behind none.

    What is stored, forgotten or judged between two pages moves some: the others still tell where the page ended. `ahead` are the rows
    that were shown before their turn.
    """

    score: float
    rows: tuple[int, ...]
    ahead: tuple[int, ...] = ()

    @classmethod
    def behind(cls, ranking: Sequence[Ranked], shown: Collection[int]) -> Place | None:
        """Return the place behind all that stands at the beginning of a ranking and was shown, at least one; None: nothing is left."""
        end = next((i for i, found in enumerate(ranking) if found.row not in shown), None)
        if not end:
            return None
        last = ranking[max(0, end - REMEMBERED) : end][::-1]
        ahead = tuple(found.row for found in ranking[end:] if found.row in shown)
        return cls(_told(last[0].score), tuple(found.row for found in last), ahead)

    def index_in(self, ranking: Sequence[Ranked]) -> int:
        """Return where in a ranking, which may have changed, what has not been shown begins: what most of the last ones and the score say.

        Where they do not agree, rather something twice than never.
        """
        if not self.rows:
            return 0
        worse = (index for index, found in enumerate(ranking) if (-_told(found.score), found.row) > (-self.score, self.rows[0]))
        said = [next(worse, len(ranking)), *(index for index, found in enumerate(ranking, 1) if found.row in self.rows)]
        said = sorted(self._behind_shown(ranking, index) for index in said)
        return said[(len(said) - 1) // 2]

    def _behind_shown(self, ranking: Sequence[Ranked], index: int) -> int:
        while index < len(ranking) and ranking[index].row in self.rows:
            index += 1
        return index


BEGINNING = Place(1.0, ())


def _told(score: float) -> float:
    """Return a score as cursors tell it: an agent pays for each digit."""
    return round(float(score), 6)


def cursor_at(query: Query, place: Place) -> str:
    """Return the cursor of the page of this query that begins there."""
    ahead = [list(place.ahead)] if place.ahead else []
    told = [place.score, *place.rows, *ahead, _fingerprint(query)]
    return base64.urlsafe_b64encode(json.dumps(told, separators=(",", ":")).encode()).decode()


def place_of(query: Query) -> Place:
    """Return where the page asked for begins. Raises: InputError for a cursor of another query, or of nobody."""
    if query.cursor is None:
        return BEGINNING
    read = _read(query.cursor) if len(query.cursor) <= MAX_CHARS else None
    if read is None:
        raise InputError("cursor", f"is not one that retrieve returned: {shown(query.cursor)}; leave it out to start again")
    place, fingerprint = read
    if fingerprint != _fingerprint(query):
        raise InputError(
            "cursor", "belongs to another query: send it with the same query, namespace, outcome, tags, since, until and metadata"
        )
    return place


def _read(cursor: str) -> tuple[Place, object] | None:
    """Return the place and the fingerprint of a query; None: nobody gave that out."""
    try:
        score, *rows, fingerprint = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        ahead = rows.pop() if rows and isinstance(rows[-1], list) else []
        if type(score) is float and {type(row) for row in rows} == {int} and all(type(row) is int for row in ahead):
            return Place(score, tuple(rows), tuple(ahead)), fingerprint
    except (ValueError, TypeError, RecursionError):
        pass
    return None
