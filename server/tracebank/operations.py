"""What the command line asks of an engine: operations by name, each a stream of JSON objects."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from tracebank.answering import Asked
from tracebank.engine import Engine, Session
from tracebank.errors import InputError, SettingsError
from tracebank.forgetting import forget as forget_traces
from tracebank.records import Trace, check_id, shown
from tracebank.reporting import examine, keys_missing, report
from tracebank.settings import Settings, load_settings, said_in_vain
from tracebank.store import lesson_groups, outbox, traces
from tracebank.store.outbox import Sink

Events = AsyncIterator[dict[str, Any]]
PROGRESS_S = 0.2
# A page of an export is one message: while it is made into JSON nobody else is answered.
PAGE_TRACES, PAGE_BYTES = 200, 1_048_576
# How bytes that are no UTF-8 arrive ("surrogateescape").
_NOT_UTF_8 = re.compile("[\udc80-\udcff]")
INDEXING_TIMEOUT_S = 24 * 3_600


async def add(session: Session, trace: Mapping[str, Any]) -> Events:
    """Store one trace."""
    added = await session.engine.add(trace, session)
    yield {"trace_id": added.trace_id, "status": added.status, "chunks": added.chunks, "tokens": added.tokens, "indexed": added.indexed}


async def import_lines(session: Session, lines: Sequence[Sequence[Any]], namespace: str | None = None) -> Events:
    """Store the traces of numbered JSON lines. Yields how many are in, and the (number, error) of those that are not."""
    good: list[Trace] = []
    errors: list[list[Any]] = []
    for number, line in lines:
        try:
            good.append(_parse_line(line, session, namespace))
        except InputError as error:
            errors.append([number, str(error)])
    added = await session.engine.add_many(good)
    yield {"stored": len(added), "new": sum(a.status != "unchanged" for a in added), "errors": errors}


def _parse_line(line: str, session: Session, namespace: str | None) -> Trace:
    if _NOT_UTF_8.search(line):
        raise InputError("line", "is not UTF-8: convert the file, or export it as UTF-8")
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError("line", f"is not valid JSON: {error}") from None
    if not isinstance(raw, dict):
        raise InputError("line", f"must be a JSON object, not {shown(raw)}")
    if namespace is not None:
        raw["namespace"] = namespace
    return session.engine.read_trace(raw, session)


async def wait_indexed(session: Session) -> Events:
    """Yield how many index entries are pending, until all that is stored by now can be found, by meaning too where there is a model.

    Where an index cannot go on, for instance on a full disk, it ends with the reason (`stalled`).
    What others add meanwhile is not waited for: they may never pause.
    """
    engine = session.engine
    last_row = await engine.store.read(traces.last_row)

    def awaited() -> list[Sink]:
        meaning = engine.retriever.deep or not engine.warm.is_set()
        return [sink for sink in outbox.SINKS if sink not in engine.indexer.faults and (sink == "words" or meaning)]

    def pending(db: sqlite3.Connection) -> int:
        return sum(outbox.waiting_rows(db, sink, last_row) for sink in awaited())

    while not engine.warm.is_set():
        yield {"pending": await engine.store.read(pending), "loading": True}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PROGRESS_S):
                await engine.warm.wait()
    while left := await engine.store.read(pending):
        if stalled := "; ".join(sorted({engine.indexer.stalled[sink] for sink in awaited() if sink in engine.indexer.stalled})):
            yield {"pending": left, "stalled": stalled, "meaning": engine.retriever.deep, "note": stalled}
            return
        yield {"pending": left, "loading": False}
        await engine.indexer.wait(awaited(), up_to=None, timeout_s=PROGRESS_S)
    problem = engine.embedding.error or engine.problems.get("meaning", "")
    yield {"pending": 0, "meaning": engine.retriever.deep, "note": str(problem)}


async def export(session: Session, namespace: str | None = None) -> Events:
    """Yield every trace, in pages, in the order they were stored."""
    names = [] if namespace is None else [check_id("namespace", namespace, session.engine.limits)]
    after = 0
    while page := await session.engine.store.read(partial(traces.page, names=names, after=after, limit=PAGE_TRACES, max_bytes=PAGE_BYTES)):
        yield {"traces": [stored.trace.as_json() for stored in page]}
        after = page[-1].row
    if not after and (note := await _without_traces(session, namespace)):
        yield {"traces": [], "note": note}


async def _without_traces(session: Session, namespace: str | None) -> str:
    """Return what to say of a namespace that nothing was found in: whether its name is one that has traces at all."""
    known = await session.engine.store.read(traces.namespaces)
    if namespace in (None, *known):
        return ""
    return f"namespace {shown(namespace)} has no traces: `tracebank stats store` lists those that have"


async def search(session: Session, arguments: Mapping[str, Any]) -> Events:
    """Answer `retrieve`, for a person."""
    found = await session.engine.retrieve(arguments, session)
    results = [
        {
            name: getattr(r, name)
            for name in ("trace_id", "score", "outcome", "task", "lessons", "excerpt", "tags", "namespace", "occurred_at", "near_equal")
        }
        for r in found.page.results
    ]
    yield {"results": results, "note": found.note, "meaning": found.dense, "next_cursor": found.next_cursor, "text": found.page.text}


async def forget(session: Session, **criteria: Any) -> Events:
    """Delete traces by id or by namespace, tags, outcome and before; with `dry_run` only say which."""
    done = await forget_traces(session.engine, **criteria)
    note = done.note or ("" if done.matched else await _without_traces(session, criteria.get("namespace")))
    yield {"matched": done.matched, "deleted": done.deleted, "sample": list(done.sample), **({"note": note} if note else {})}


async def stats(session: Session, section: str = "all") -> Events:
    """Tell the figures."""
    yield await report(session.engine, section)


async def doctor(session: Session, *, repair: bool = False) -> Events:
    """Examine everything; with `repair` rebuild what is not well and try again what was set aside."""
    engine = session.engine
    async for event in wait_indexed(session):
        yield event
    findings = [*await examine(engine), await asyncio.to_thread(_settings_found, engine)]
    if repair and not all(well for _, well, _ in findings):
        await engine.store.write(outbox.retry)
        for sink in outbox.SINKS:
            if any(what.startswith(f"index of {sink}") and not well for what, well, _ in findings):
                await engine.indexer.rebuild("words" if sink == "words" else "vectors")
        engine.indexer.notify()
        async for event in wait_indexed(session):
            yield event
        findings = [*await examine(engine), await asyncio.to_thread(_settings_found, engine)]
    yield {"findings": [{"what": what, "well": well, "found": found} for what, well, found in findings]}


def _settings_found(engine: Engine) -> tuple[str, bool, str]:
    """Return for `doctor` what is wrong with the settings as they are written now, or keeps them from having an effect."""
    problems = keys_missing(engine)
    used = dict(_flat(engine.settings))
    try:
        # By name only: a value may be nobody else's business.
        changed = [name for name, value in _flat(load_settings(engine.settings.data_dir)) if value != used[name]]
        problems += said_in_vain(engine.settings.data_dir)
        if changed:
            problems.append(f"{', '.join(changed)} changed since the engine started: `tracebank stop`, and the next client starts it anew")
    except SettingsError as error:
        problems.append(str(error))
    return "settings", not problems, "; ".join(problems) or "valid and in use"


def _flat(settings: Settings) -> Iterator[tuple[str, Any]]:
    for name, value in settings.model_dump().items():
        if isinstance(value, dict):
            yield from ((f"{name}.{part}", inner) for part, inner in value.items())
        else:
            yield name, value


async def consolidate(session: Session, *, undo: bool = False) -> Events:
    """Bring lessons together now, and tell which; with `undo` take all of that back."""
    consolidator = session.engine.learner.consolidator
    if undo:
        yield {"undone": await consolidator.undo()}
        return
    async for _ in wait_indexed(session):
        pass
    report = await consolidator.consolidate()
    groups = await session.engine.store.read(lesson_groups.every)
    told = [
        {"kind": g.kind, "lessons": [{"trace_id": m.trace_id, "outcome": str(m.outcome), "lesson": m.lesson.content} for m in g.members]}
        for g in groups
    ]
    known = (await session.engine.learner.figures())["kinds_of_episodes"]
    yield {**report, "groups": told, "kinds_of_episodes": known}


async def questions(session: Session, *, forget: bool = False, namespace: str | None = None, matching: str | None = None) -> Events:
    """Tell what was asked, the likeliest to be asked again first; with `forget` forget it, and what is kept of its answers.

    All of it, or what was asked of a namespace, or whose question is like a shell pattern.
    """

    def meant(asked: Asked) -> bool:
        return (namespace is None or asked.covers(namespace)) and (matching is None or asked.matches(matching))

    if forget:
        yield {"forgotten": await session.engine.asking.forget(meant)}
        return
    known = [(asked.query, times) for asked, times in session.engine.asking.history.known() if meant(asked)]
    yield {"questions": [{"query": list(q.texts), "namespaces": list(q.namespaces) or ["*"], "times": times} for q, times in known]}


OPERATIONS: dict[str, Callable[..., Events]] = {
    "add": add,
    "import": import_lines,
    "wait_indexed": wait_indexed,
    "export": export,
    "search": search,
    "forget": forget,
    "stats": stats,
    "doctor": doctor,
    "consolidate": consolidate,
    "questions": questions,
}
