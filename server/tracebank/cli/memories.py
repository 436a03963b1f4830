"""Memories for a person: search, add, forget."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from tracebank.cli.base import JsonOption, NamespaceOption, OnlyNamespaceOption, command, counted, err, out, plain, show_json
from tracebank.errors import InputError
from tracebank.records import shown
from tracebank.remote import engine, last

MetadataOption = Annotated[
    list[str] | None,
    typer.Option(
        "--metadata",
        "-m",
        help="KEY=VALUE: equal metadata; may be repeated. 5 and true are no text, unless in quotes of their own: 'KEY=\"5\"'.",
    ),
]


def metadata_of(given: list[str] | None) -> dict[str, object] | None:
    """Return what KEY=VALUE options say; a value that reads as a JSON number, boolean or string is one. Raises: InputError."""
    if not given:
        return None
    if without := [pair for pair in given if "=" not in pair]:
        raise InputError("metadata", f"must be KEY=VALUE, not {without[0]}")
    said: dict[str, object] = {}
    for key, _, value in (pair.partition("=") for pair in given):
        if key in said:
            raise InputError("metadata", f"has {shown(key)} twice: a memory has one value of it, so ask for one")
        said[key] = _scalar(value)
    return said


def _scalar(value: str) -> object:
    try:
        read = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return read if isinstance(read, str | int | float) else value


@command
async def search(
    query: Annotated[str, typer.Argument(help="The task at hand, in a sentence.")],
    k: Annotated[int, typer.Option("-k", help="How many memories.")] = 5,
    namespace: Annotated[list[str] | None, typer.Option("--namespace", "-n", help="Namespaces; '*' for all.")] = None,
    outcome: Annotated[list[str] | None, typer.Option(help="Only these outcomes.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Only with all of these tags.")] = None,
    since: Annotated[str | None, typer.Option(help="RFC 3339.")] = None,
    until: Annotated[str | None, typer.Option(help="RFC 3339.")] = None,
    metadata: MetadataOption = None,
    cursor: Annotated[str | None, typer.Option(help="The next_cursor of the page before, from --json.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Find memories that help with a task."""
    arguments = {
        "query": query,
        "k": k,
        "namespace": namespace or None,
        "outcome": outcome or None,
        "tags": tag or None,
        "since": since,
        "until": until,
        "metadata": metadata_of(metadata),
        "cursor": cursor,
    }
    async with engine() as call:
        async for _ in call("wait_indexed"):
            pass
        found = await last(call("search", arguments={name: value for name, value in arguments.items() if value is not None}))
    if as_json:
        show_json(found)
        return
    for result in found["results"]:
        out.print(f"[bold]{result['score']:.2f}[/] {result['outcome']:8}", end=" ")
        out.print(plain(f"{result['trace_id']}  {result['occurred_at'][:10]}"), markup=False, style="cyan")
        out.print(plain("  " + result["task"]), markup=False, highlight=False)
        for lesson in result["lessons"]:
            out.print(plain("  • " + lesson.replace("\n", "\n    ")), markup=False, highlight=False)
        if equal := result["near_equal"]:
            out.print(
                plain(f"  {len(equal)} more {'says' if len(equal) == 1 else 'say'} the same: {', '.join(equal)}"),
                markup=False,
                highlight=False,
            )
    if found["note"] or not found["results"]:
        err.print(plain(found["note"] or "nothing found"), markup=False)


@command
async def add(
    task: Annotated[str, typer.Argument(help="What was attempted, or when the memory applies.")],
    content: Annotated[str, typer.Option(help="Steps or notes; - reads standard input.")] = "",
    outcome: Annotated[str, typer.Option(help="success, failure, partial, unknown.")] = "unknown",
    lesson: Annotated[list[str] | None, typer.Option(help="What was learned; may be repeated.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    trace_id: Annotated[str | None, typer.Option("--id", help="Your own id; the same again replaces.")] = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Store one trace."""
    trace = {
        "task": task, "content": sys.stdin.read() if content == "-" else content, "outcome": outcome, "lessons": lesson or [],
        "tags": tag or [], "trace_id": trace_id, "namespace": namespace,
    }  # fmt: skip
    async with engine() as call:
        added = await last(call("add", trace={name: value for name, value in trace.items() if value is not None}))
    show_json(added) if as_json else out.print(plain(f"{added['status']} {added['trace_id']}"), markup=False, highlight=False)


@command
async def forget(
    trace_ids: Annotated[list[str] | None, typer.Argument(help="Ids of traces.")] = None,
    namespace: OnlyNamespaceOption = None,
    tag: Annotated[list[str] | None, typer.Option(help="All with all of these tags.")] = None,
    outcome: Annotated[str | None, typer.Option(help="All with this outcome.")] = None,
    before: Annotated[str | None, typer.Option(help="All from before this RFC 3339 time.")] = None,
    metadata: MetadataOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete; without it only what would be deleted is shown.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete traces for good, by id or by a filter. Without --yes it only shows which."""
    criteria = {
        "trace_ids": trace_ids or None,
        "namespace": namespace,
        "tags": tag or None,
        "outcome": outcome,
        "before": before,
        "metadata": metadata_of(metadata),
    }
    async with engine() as call:
        result = await last(call("forget", dry_run=not yes, **{k: v for k, v in criteria.items() if v is not None}))
    if as_json:
        show_json(result)
        return
    for item in result["sample"]:
        out.print(plain(f"{item['trace_id']}  {item['task']}"), markup=False, highlight=False)
    if note := result.get("note"):
        err.print(plain(note), markup=False, highlight=False)
    if yes:
        err.print(f"{counted(result['deleted'], 'trace')} deleted", highlight=False)
    else:
        advice = ": repeat with --yes" if result["matched"] else ""
        err.print(f"{counted(result['matched'], 'trace')} would be deleted{advice}", highlight=False)
