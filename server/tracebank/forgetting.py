"""What is to be forgotten, said by ids or by a filter; first shown, then done."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tracebank.engine import Engine
from tracebank.errors import InputError
from tracebank.learning.episodes import TAG
from tracebank.learning.step_log import Episode
from tracebank.records import Filters, Outcome, check_bool, check_id, check_list, parse_time
from tracebank.retrieval.request import parse_filters
from tracebank.store import filtering, traces

SAMPLE = 10
SAMPLE_TASK_CHARS = 160
MAX_IDS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """How many traces match, how many were deleted, and the first of them: trace_id, namespace, task.

    `note` names the ids that nothing has, and where the others are that are not where was looked.
    """

    matched: int
    deleted: int
    sample: tuple[dict[str, str], ...]
    note: str = ""


async def forget(
    engine: Engine,
    *,
    trace_ids: object = None,
    namespace: object = None,
    tags: object = None,
    outcome: object = None,
    before: object = None,
    metadata: object = None,
    dry_run: object = True,
    within: str | None = None,
) -> Forgotten:
    """Delete traces by id, or by namespace, tags, outcome, before and metadata; with `dry_run` only say which.

    Open episodes go with them, by their id or where the filter fits what is known of them: they would become traces one day.
    Where no namespace is named, `within` is the one looked into; None: all. What is given but empty is refused: a list that
    turned out empty must not mean everything. Raises: InputError, and nothing is deleted.
    """
    for name, given in (("trace_ids", trace_ids), ("tags", tags), ("outcome", outcome), ("metadata", metadata)):
        if isinstance(given, list | tuple | dict) and not given:
            raise InputError(name, "is empty, which would mean everything else that is asked for: leave it out, or say what to forget")
    listed = check_list("trace_ids", trace_ids if trace_ids is not None else [], MAX_IDS)
    ids = [check_id(f"trace_ids[{i}]", trace_id, engine.limits) for i, trace_id in enumerate(listed)]
    filters = parse_filters({"tags": tags, "outcome": outcome, "metadata": metadata}, engine.limits)
    if before is not None:
        filters = replace(filters, until_ms=parse_time("before", before) - 1)
    named = namespace is not None
    if not ids and not filters and not named:
        raise InputError("trace_ids", "say what to forget: ids, or a namespace, tags, an outcome, a time or metadata")
    if ids and filters:
        raise InputError("trace_ids", "give ids or a filter, not both")
    really = not check_bool("dry_run", dry_run)
    names = [check_id("namespace", namespace, engine.limits)] if named else [within] if within else []

    def meant(episode: Episode) -> bool:
        fits = episode.episode_id in ids if ids else open_fits(filters, episode.started_at_ms)
        return fits and (not names or episode.namespace in names)

    opened = [episode for episode in engine.learner.episodes.step_log.open.values() if meant(episode)]

    def matching(db: sqlite3.Connection) -> tuple[Sequence[int], tuple[dict[str, str], ...], str]:
        rows = traces.rows_of(db, ids, names) if ids else filtering.matching(db, filters, namespaces=names)
        sample = tuple(_shown(stored) for stored in traces.load(db, rows[:SAMPLE]).values())
        return rows, sample, _not_there(db, ids, names, known={episode.episode_id for episode in opened})

    shown_open = tuple(_of_open(episode) for episode in opened[:SAMPLE])
    if not really:
        rows, sample, note = await engine.store.read(matching)
        return Forgotten(matched=len(rows) + len(opened), deleted=0, sample=(*sample, *shown_open)[:SAMPLE], note=note)

    def choose(db: sqlite3.Connection) -> Sequence[int]:
        nonlocal rows, sample, note
        rows, sample, note = matching(db)
        return rows

    rows, sample, note = (), (), ""
    # First: one that is just being completed is among the traces by then.
    dropped = await engine.forget_open([episode.episode_id for episode in opened])
    deleted = await engine.forget(choose)
    return Forgotten(matched=len(rows) + dropped, deleted=deleted + dropped, sample=(*sample, *shown_open)[:SAMPLE], note=note)


def _not_there(db: sqlite3.Connection, ids: Sequence[str], names: Sequence[str], *, known: Collection[str]) -> str:
    """Return which ids are not in these namespaces (none: in any), and in which others some of them are; "" where all are there."""
    found = {trace_id for trace_id, _ in traces.places_of(db, ids, names)} | set(known)
    missing = [trace_id for trace_id in dict.fromkeys(ids) if trace_id not in found]
    if not missing:
        return ""
    told = f"not in namespace {names[0]}: {_listed(missing)}" if names else f"not there: {_listed(missing)}"
    others: defaultdict[str, list[str]] = defaultdict(list)
    for trace_id, namespace in traces.places_of(db, missing):
        others[namespace].append(trace_id)
    return "; ".join(
        [told, *(f"in namespace {name}, which you may give: {_listed(there)}" for name, there in sorted(others.items())[:SAMPLE])]
    )


def _listed(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - SAMPLE} more" if len(ids) > SAMPLE else ""
    return f"{', '.join(ids[:SAMPLE])}{more}"


def open_fits(filters: Filters, started_at_ms: int) -> bool:
    """Return whether an open episode passes a filter: it is tagged as an episode, its outcome is unknown."""
    return (
        set(filters.tags) <= {TAG}
        and (not filters.outcomes or Outcome.UNKNOWN in filters.outcomes)
        and (filters.until_ms is None or started_at_ms <= filters.until_ms)
        and not filters.metadata
    )


def _of_open(episode: Episode) -> dict[str, str]:
    return {"trace_id": episode.episode_id, "namespace": episode.namespace, "task": episode.task[:SAMPLE_TASK_CHARS]}


def _shown(stored: Any) -> dict[str, str]:
    trace = stored.trace
    return {"trace_id": trace.trace_id, "namespace": trace.namespace, "task": trace.task[:SAMPLE_TASK_CHARS]}
