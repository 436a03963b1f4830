"""Checking a request to `retrieve`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from tracebank.errors import InputError
from tracebank.records import (
    Detail,
    Filters,
    Limits,
    Outcome,
    Query,
    check_id,
    check_int,
    check_metadata,
    check_outcome,
    check_tags,
    check_text,
    given,
    one_or_more,
    parse_time,
    shown,
)
from tracebank.settings import RetrievalSettings

FIELDS = ("query", "k", "namespace", "outcome", "tags", "since", "until", "metadata", "max_tokens", "detail", "cursor")
MAX_K, MIN_TOKENS, MAX_TOKENS = 50, 50, 100_000


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
        cursor=None if raw.get("cursor") is None else check_text("cursor", raw["cursor"], min_chars=1),
    )


def parse_filters(raw: Mapping[str, Any], limits: Limits) -> Filters:
    """Return the filters on outcome (one or a list), tags, since, until and metadata (equal values). Raises: InputError."""
    outcomes = one_or_more("outcome", given(raw, "outcome", ()), len(Outcome))
    filters = Filters(
        outcomes=tuple(dict.fromkeys(check_outcome("outcome", item) for item in outcomes)),
        tags=check_tags("tags", given(raw, "tags", ()), limits),
        since_ms=None if raw.get("since") is None else parse_time("since", raw["since"]),
        until_ms=None if raw.get("until") is None else parse_time("until", raw["until"], to_end=True),
        metadata=tuple(sorted(check_metadata(given(raw, "metadata", {}), limits).items())),
    )
    if filters.since_ms is not None and filters.until_ms is not None and filters.since_ms > filters.until_ms:
        raise InputError("since", f"must not be after until: {shown(raw['since'])} is after {shown(raw['until'])}")
    return filters


def _texts(query: object, limits: Limits) -> tuple[str, ...]:
    if query is None:
        raise InputError("query", "is required: describe the task at hand in a sentence")
    texts = one_or_more("query", query, limits.queries)
    if not texts:
        raise InputError("query", "must not be an empty list")
    names = ["query"] if isinstance(query, str) else [f"query[{i}]" for i in range(len(texts))]
    checked = (check_text(name, text, min_chars=1, max_chars=limits.query_chars) for name, text in zip(names, texts, strict=True))
    return tuple(dict.fromkeys(checked))


def _namespaces(value: object, limits: Limits) -> tuple[str, ...]:
    if value == "*":
        return ()
    names = one_or_more("namespace", value, limits.tags)
    if not names:
        raise InputError("namespace", "must not be an empty list: leave it out, or give '*' for all")
    if "*" in names:
        return ()
    return tuple(dict.fromkeys(check_id("namespace", name, limits) for name in names))
