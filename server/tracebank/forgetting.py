"""What is to be forgotten, said by ids or by a filter; first shown, then done."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tracebank.engine import Engine
from tracebank.errors import InputError
from tracebank.records import check_bool, check_id, check_list, parse_time
from tracebank.retrieval.request import parse_filters
from tracebank.store import traces

SAMPLE = 10
SAMPLE_TASK_CHARS = 160
MAX_IDS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """How many traces match, how many were deleted, and the first of them: trace_id, namespace, task."""

    matched: int
    deleted: int
    sample: tuple[dict[str, str], ...]


async def forget(
    engine: Engine,
    *,
    trace_ids: object = (),
    namespace: object = None,
    tags: object = None,
    outcome: object = None,
    before: object = None,
    dry_run: object = True,
    within: str | None = None,
) -> Forgotten:
    """Delete traces by id, or by namespace, tags, outcome and before; with `dry_run` only say which.

    Where no namespace is named, `within` is the one looked into; None: all. Raises: InputError, and nothing is deleted.
    """
    ids = [check_id(f"trace_ids[{i}]", trace_id, engine.limits) for i, trace_id in enumerate(check_list("trace_ids", trace_ids, MAX_IDS))]
    filters = parse_filters({"tags": tags, "outcome": outcome}, engine.limits)
    if before is not None:
        filters = replace(filters, until_ms=parse_time("before", before) - 1)
    named = namespace is not None
    if not ids and not filters and not named:
        raise InputError("trace_ids", "say what to forget: ids, or a namespace, tags, an outcome or a time")
    if ids and filters:
        raise InputError("trace_ids", "give ids or a filter, not both")
    really = not check_bool("dry_run", dry_run)
    names = [check_id("namespace", namespace, engine.limits)] if named else [within] if within else []

    def matching(db: sqlite3.Connection) -> tuple[Sequence[int], tuple[dict[str, str], ...]]:
        rows = traces.rows_of(db, ids, names) if ids else traces.matching(db, filters, namespaces=names)
        return rows, tuple(_shown(stored) for stored in traces.load(db, rows[:SAMPLE]).values())

    rows, sample = await engine.store.read(matching)
    return Forgotten(matched=len(rows), deleted=await engine.forget(rows) if really else 0, sample=sample)


def _shown(stored: Any) -> dict[str, str]:
    trace = stored.trace
    return {"trace_id": trace.trace_id, "namespace": trace.namespace, "task": trace.task[:SAMPLE_TASK_CHARS]}
