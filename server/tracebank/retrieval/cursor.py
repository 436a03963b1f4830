"""The cursor that leads from one page of results to the next, whatever was written in between."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

from tracebank.errors import InputError
from tracebank.records import Query, shown
from tracebank.retrieval.fusion import Ranked

# Of the memories that were shown a cursor remembers so many: one of them may have moved.
REMEMBERED = 3


def _fingerprint(query: Query) -> str:
    what = repr((query.texts, query.namespaces, query.filters))
    return hashlib.blake2b(what.encode("utf-8", "backslashreplace"), digest_size=6).hexdigest()


class Place(NamedTuple):
    """Where a page begins: behind these `rows` of a ranking, the last one, which has this `score`, first; at the beginning behind none.

    What is stored, forgotten or judged between two pages moves some: the others still tell where the page ended.
    """

    score: float
    rows: tuple[int, ...]

    @classmethod
    def after(cls, ranking: Sequence[Ranked], behind: int) -> Place:
        """Return the place behind so many of a ranking, at least one."""
        last = ranking[max(0, behind - REMEMBERED) : behind][::-1]
        return cls(_told(last[0].score), tuple(found.row for found in last))

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
    return base64.urlsafe_b64encode(json.dumps([place.score, *place.rows, _fingerprint(query)], separators=(",", ":")).encode()).decode()


def place_of(query: Query) -> Place:
    """Return where the page asked for begins. Raises: InputError for a cursor of another query, or of nobody."""
    if query.cursor is None:
        return BEGINNING
    try:
        score, *rows, fingerprint = json.loads(base64.urlsafe_b64decode(query.cursor.encode()))
        valid = type(score) is float and {type(row) for row in rows} == {int}
    except (ValueError, TypeError, RecursionError):
        valid, score, rows, fingerprint = False, 0.0, [], ""
    if not valid:
        raise InputError("cursor", f"is not one that retrieve returned: {shown(query.cursor)}; leave it out to start again")
    if fingerprint != _fingerprint(query):
        raise InputError(
            "cursor", "belongs to another query: send it with the same query, namespace, outcome, tags, since, until and metadata"
        )
    return Place(score, tuple(rows))
