"""Checking a request to `retrieve`, and the cursor that leads from one page to the next."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from tracebank.errors import InputError
from tracebank.records import (
    Detail,
    Filters,
    Limits,
    Outcome,
    Query,
    check_id,
    check_int,
    check_list,
    check_metadata,
    check_outcome,
    check_tags,
    check_text,
    given,
    kind,
    parse_time,
    shown,
)
from tracebank.retrieval.fusion import Ranked
from tracebank.settings import RetrievalSettings

FIELDS = ("query", "k", "namespace", "outcome", "tags", "since", "until", "metadata", "max_tokens", "detail", "cursor")
MAX_K, MIN_TOKENS, MAX_TOKENS = 50, 50, 100_000
# Of the memories that were shown a cursor remembers so many: one of them may have moved.
REMEMBERED = 3


def parse_query(raw: Mapping[str, Any], *, limits: Limits, defaults: RetrievalSettings, namespace: str) -> Query:
    """Return the checked request; `namespace` serves where it has none. Raises: InputError."""
    if unknown := sorted(set(raw) - set(FIELDS)):
        raise InputError(shown(unknown[0]), f"is not an argument; the arguments are {', '.join(FIELDS)}")
    detail = given(raw, "detail", "concise")
    if detail not in ("concise", "full"):
        raise InputError("detail", f"must be concise or full, not {shown(detail)}")
    return Query(
        texts=_texts(raw.get("query"), limits),
        k=check_int("k", given(raw, "k", defaults.k), 1, MAX_K),
        namespaces=_namespaces(given(raw, "namespace", namespace), limits),
        filters=parse_filters(raw, limits),
        max_tokens=check_int("max_tokens", given(raw, "max_tokens", defaults.max_tokens), MIN_TOKENS, MAX_TOKENS),
        detail=cast(Detail, detail),
        cursor=None if raw.get("cursor") is None else check_text("cursor", raw["cursor"], min_chars=1, max_chars=200),
    )


def parse_filters(raw: Mapping[str, Any], limits: Limits) -> Filters:
    """Return the filters on outcome (one or a list), tags, since, until and metadata (equal values). Raises: InputError."""
    outcome = given(raw, "outcome", ())
    outcomes = [outcome] if isinstance(outcome, str) else check_list("outcome", outcome, len(Outcome))
    filters = Filters(
        outcomes=tuple(dict.fromkeys(check_outcome("outcome", item) for item in outcomes)),
        tags=check_tags("tags", given(raw, "tags", ()), limits),
        since_ms=None if raw.get("since") is None else parse_time("since", raw["since"]),
        until_ms=None if raw.get("until") is None else parse_time("until", raw["until"]),
        metadata=tuple(sorted(check_metadata(given(raw, "metadata", {}), limits).items())),
    )
    if filters.since_ms is not None and filters.until_ms is not None and filters.since_ms > filters.until_ms:
        raise InputError("since", f"must not be after until: {shown(raw['since'])} is after {shown(raw['until'])}")
    return filters


def _texts(query: object, limits: Limits) -> tuple[str, ...]:
    if query is None:
        raise InputError("query", "is required: describe the task at hand in a sentence")
    if not isinstance(query, str | Sequence):
        raise InputError("query", f"must be a string or a list of strings, not {kind(query)}")
    texts = [query] if isinstance(query, str) else check_list("query", query, limits.queries)
    if not texts:
        raise InputError("query", "must not be an empty list")
    names = ["query"] if isinstance(query, str) else [f"query[{i}]" for i in range(len(texts))]
    checked = (check_text(name, text, min_chars=1, max_chars=limits.query_chars) for name, text in zip(names, texts, strict=True))
    return tuple(dict.fromkeys(checked))


def _namespaces(value: object, limits: Limits) -> tuple[str, ...]:
    if value == "*":
        return ()
    names = [value] if isinstance(value, str) else check_list("namespace", value, limits.tags)
    if not names:
        raise InputError("namespace", "must not be an empty list: leave it out, or give '*' for all")
    if "*" in names:
        return ()
    return tuple(dict.fromkeys(check_id("namespace", name, limits) for name in names))


def _fingerprint(query: Query) -> str:
    what = repr((query.texts, query.namespaces, query.filters))
    return hashlib.blake2b(what.encode("utf-8", "backslashreplace"), digest_size=6).hexdigest()


class Place(NamedTuple):
    """Where a page begins: behind so many of a ranking, the last of them with this score; `rows` are the last few, the last first.

    What is stored, forgotten or judged between two pages moves some: the others still tell where the page ended.
    """

    behind: int
    score: float
    rows: tuple[int, ...]

    @classmethod
    def after(cls, ranking: Sequence[Ranked], behind: int) -> Place:
        """Return the place behind so many of a ranking, at least one."""
        last = ranking[max(0, behind - REMEMBERED) : behind][::-1]
        return cls(behind, _told(last[0].score), tuple(found.row for found in last))

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


BEGINNING = Place(0, 1.0, ())


def _told(score: float) -> float:
    """Return a score as cursors tell it: an agent pays for each digit."""
    return round(float(score), 6)


def cursor_at(query: Query, place: Place) -> str:
    """Return the cursor of the page of this query that begins there."""
    return base64.urlsafe_b64encode(
        json.dumps([place.behind, place.score, *place.rows, _fingerprint(query)], separators=(",", ":")).encode()
    ).decode()


def place_of(query: Query) -> Place:
    """Return where the page asked for begins. Raises: InputError for a cursor of another query, or of nobody."""
    if query.cursor is None:
        return BEGINNING
    try:
        behind, score, *rows, fingerprint = json.loads(base64.urlsafe_b64decode(query.cursor.encode()))
        valid = type(behind) is int and behind > 0 and type(score) is float and {type(row) for row in rows} == {int}
    except (ValueError, TypeError):
        valid, behind, score, rows, fingerprint = False, 0, 0.0, [], ""
    if not valid:
        raise InputError("cursor", f"is not one that retrieve returned: {shown(query.cursor)}; leave it out to start again")
    if fingerprint != _fingerprint(query):
        raise InputError(
            "cursor", "belongs to another query: send it with the same query, namespace, outcome, tags, since, until and metadata"
        )
    return Place(behind, score, tuple(rows))
