"""The command line: the tools for a person. Tables and text on a terminal, JSON with --json.

Results go to standard output, everything else to standard error; an error is one line and a non-zero exit.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from functools import wraps
from itertools import islice
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tracebank import __version__, link
from tracebank.errors import EngineError, InputError, TracebankError
from tracebank.front import default_data_dir
from tracebank.locking import holder_of
from tracebank.remote import Call, engine, last
from tracebank.serving import http_token, serve_on, token_source

app = typer.Typer(
    help="A long-term reasoning memory for AI agents. Started by a client, with its standard input connected, it serves MCP over stdio.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# UTF-8 on every pipe, whatever the console thinks: what is piped is piped into another of these.
for stream in (sys.stdin, sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(encoding="utf-8", errors="surrogateescape" if stream is sys.stdin else "backslashreplace")
out, err = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)
BATCH_LINES = 100

NamespaceOption = Annotated[str | None, typer.Option("--namespace", "-n", help="The namespace; default: the setting.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@app.callback()
def main(
    data_dir: Annotated[
        Path | None, typer.Option(help="Where everything is kept; default: TRACEBANK_DATA_DIR, else the platform's place.")
    ] = None,
) -> None:
    """Set what all commands share."""
    if data_dir is not None:
        os.environ["TRACEBANK_DATA_DIR"] = str(data_dir.absolute())


def command(function: Callable[..., Coroutine[Any, Any, int | None]]) -> Callable[..., None]:
    """Make an async function a command: its errors become one line, its number the exit status."""

    @app.command(name=function.__name__.rstrip("_"))
    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            code = asyncio.run(function(*args, **kwargs)) or 0
        except TracebankError as error:
            print(f"tracebank: {error}", file=sys.stderr)
            code = 1
        except (KeyboardInterrupt, asyncio.CancelledError):
            code = 130
        except BrokenPipeError:
            # The reader of our output has left (`tracebank export | head`): that is no error of ours.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 0
        sys.stdout.flush()
        # The engine is closed; threads of libraries that are still loading a model must not keep the shell waiting.
        os._exit(code)

    return run


def show_json(value: object) -> None:
    """Print a value for programs."""
    print(json.dumps(value, ensure_ascii=False))


@command
async def import_(
    files: Annotated[list[str], typer.Argument(help="JSON Lines of traces; - for standard input.")], namespace: NamespaceOption = None
) -> int:
    """Import traces. Returns when all can be found; bad lines are reported with their number, the others go in."""
    with ExitStack() as stack:
        sources = [(name, _open(name, stack)) for name in files]
        progress = stack.enter_context(_progress())
        async with engine() as call:
            reading = progress.add_task("stored", total=None)
            stored, failed = 0, 0
            for name, lines in sources:
                for batch in _batches(lines):
                    result = await last(call("import", lines=batch, namespace=namespace))
                    stored += result["stored"]
                    failed += len(result["errors"])
                    progress.update(reading, completed=stored)
                    for number, problem in result["errors"]:
                        print(f"tracebank: {name}, line {number}: {problem}", file=sys.stderr)
            progress.update(reading, total=stored)
            indexed = await _follow_indexing(call, progress)
    note = "" if indexed.get("meaning", True) else f" (by words alone: {indexed['note']})"
    err.print(f"{stored} traces imported and searchable{note}" + (f"; {failed} lines were not" if failed else ""), highlight=False)
    return 1 if failed else 0


def _open(name: str, stack: ExitStack) -> Iterator[tuple[int, str]]:
    try:
        file: IO[bytes] = sys.stdin.buffer if name == "-" else open(name, "rb")  # noqa: SIM115 - the stack closes it
    except OSError as error:
        raise EngineError(f"{name} cannot be read: {error.strerror}") from error
    stack.enter_context(file)
    # Bytes that are no UTF-8 must not end the import: they become lone surrogates, which the line's check reports.
    return ((number, text) for number, line in enumerate(file, 1) if (text := line.decode("utf-8", "surrogateescape").strip()))


def _batches(lines: Iterator[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    while batch := list(islice(lines, BATCH_LINES)):
        yield batch


def _progress() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=err, transient=True)


async def _follow_indexing(call: Call, progress: Progress) -> dict[str, Any]:
    bar = None
    async for event in call("wait_indexed"):
        if event["pending"] or event.get("loading"):
            bar = progress.add_task("indexed", total=event["pending"]) if bar is None else bar
            total = progress.tasks[bar].total or 0
            progress.update(bar, completed=max(0, total - event["pending"]))
        else:
            return event
    return {}


@command
async def export(
    namespace: NamespaceOption = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="A file; default: standard output.")] = None,
) -> None:
    """Export every trace as JSON Lines, in the form that import takes."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(output.open("w", encoding="utf-8")) if output else sys.stdout
        except OSError as error:
            raise EngineError(f"{output} cannot be written: {error.strerror}") from error
        async with engine() as call:
            async for event in call("export", namespace=namespace):
                file.writelines(json.dumps(trace, ensure_ascii=False) + "\n" for trace in event["traces"])


@command
async def search(
    query: Annotated[str, typer.Argument(help="The task at hand, in a sentence.")],
    k: Annotated[int, typer.Option("-k", help="How many memories.")] = 5,
    namespace: Annotated[list[str] | None, typer.Option("--namespace", "-n", help="Namespaces; '*' for all.")] = None,
    outcome: Annotated[list[str] | None, typer.Option(help="Only these outcomes.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Only with all of these tags.")] = None,
    since: Annotated[str | None, typer.Option(help="RFC 3339.")] = None,
    until: Annotated[str | None, typer.Option(help="RFC 3339.")] = None,
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
        out.print(f"{result['trace_id']}  {result['occurred_at'][:10]}", markup=False, style="cyan")
        out.print("  " + result["task"], markup=False, highlight=False)
        for lesson in result["lessons"]:
            out.print("  • " + lesson.replace("\n", "\n    "), markup=False, highlight=False)
    if found["note"] or not found["results"]:
        err.print(found["note"] or "nothing found", markup=False)


@command
async def add(
    task: Annotated[str, typer.Argument(help="What was attempted, or when the memory applies.")],
    content: Annotated[str, typer.Option(help="Steps or notes; - reads standard input.")] = "",
    outcome: Annotated[str, typer.Option(help="success, failure, partial, unknown.")] = "unknown",
    lesson: Annotated[list[str] | None, typer.Option(help="What was learned; may be repeated.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    trace_id: Annotated[str | None, typer.Option("--id", help="Your own id; the same again updates.")] = None,
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
    show_json(added) if as_json else out.print(f"{added['status']} {added['trace_id']}", highlight=False)


@command
async def forget(
    trace_ids: Annotated[list[str] | None, typer.Argument(help="Ids of traces.")] = None,
    namespace: NamespaceOption = None,
    tag: Annotated[list[str] | None, typer.Option(help="All with all of these tags.")] = None,
    outcome: Annotated[str | None, typer.Option(help="All with this outcome.")] = None,
    before: Annotated[str | None, typer.Option(help="All from before this RFC 3339 time.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete; without it only what would be deleted is shown.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete traces for good, by id or by a filter. Without --yes it only shows which."""
    criteria = {"namespace": namespace, "tags": tag, "outcome": outcome, "before": before}
    async with engine() as call:
        result = await last(
            call("forget", trace_ids=trace_ids or [], dry_run=not yes, **{k: v for k, v in criteria.items() if v is not None})
        )
    if as_json:
        show_json(result)
        return
    for item in result["sample"]:
        out.print(f"{item['trace_id']}  {item['task']}", markup=False, highlight=False)
    if yes:
        err.print(f"{result['deleted']} traces deleted", highlight=False)
    else:
        err.print(f"{result['matched']} traces would be deleted: repeat with --yes", highlight=False)


@command
async def stats(section: Annotated[str, typer.Argument(help="One section, or all.")] = "all", as_json: JsonOption = False) -> None:
    """Show the figures of the memory."""
    async with engine() as call:
        figures = await last(call("stats", section=section))
    if as_json:
        show_json(figures)
        return
    for name, part in figures.items():
        table = Table("name", "value", title=name, title_justify="left", show_header=False)
        for key, value in part.items() if isinstance(part, dict) else enumerate(part, 1):
            table.add_row(str(key), value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        out.print(table)


@command
async def doctor(
    repair: Annotated[bool, typer.Option(help="Rebuild what is not well from the store.")] = False, as_json: JsonOption = False
) -> int:
    """Check the store against the indexes, the model, the disk and the settings."""
    async with engine() as call:
        findings = (await last(call("doctor", repair=repair)))["findings"]
    if as_json:
        show_json(findings)
    else:
        for finding in findings:
            out.print("[green]ok [/]" if finding["well"] else "[red]bad[/]", end=" ")
            out.print(f"{finding['what']}: {finding['found']}", markup=False, highlight=False)
    return 0 if all(finding["well"] for finding in findings) else 1


@command
async def consolidate(
    undo: Annotated[bool, typer.Option("--undo", help="Take back all that was brought together; it is not done again.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring equal and contrary lessons together now, as in idle time, and show which."""
    async with engine() as call:
        report = await last(call("consolidate", undo=undo))
    if as_json:
        show_json(report)
    elif undo:
        err.print(f"{report['undone']} groups of lessons taken back", highlight=False)
    else:
        for group in report["groups"]:
            out.print(f"[bold]{group['kind']}[/]")
            for member in group["lessons"]:
                out.print(f"  {member['trace_id']} ({member['outcome']}): {member['lesson']}", markup=False, highlight=False)
        err.print(f"{len(report['groups'])} groups among {report['lessons']} lessons", highlight=False)


@command
async def status(as_json: JsonOption = False) -> None:
    """Tell whether an engine is running. Starts nothing."""
    state = _status(default_data_dir())
    if as_json:
        show_json(state)
    elif state["running"]:
        about = f"process {state['pid']}, version {state['version']}, {state['sessions']} clients, {state['traces']} traces"
        out.print(f"running: {about} in {state['data_dir']}", highlight=False)
    else:
        out.print(f"not running ({state['data_dir']})", highlight=False)


def _status(data_dir: str) -> dict[str, Any]:
    connection = link.connect(data_dir, "status")
    if connection is not None:
        connection.close()
        return {name: value for name, value in connection.about.items() if name != "notes"}
    holder = holder_of(data_dir)
    if holder is None or holder.get("mode") != "in-process":
        return {"running": False, "data_dir": data_dir, "version": __version__}
    # It serves its own client and nobody else; what it wrote down is all there is to know.
    uptime_s = round(time.time() - holder["started_at"], 1)
    return {"running": True, **{k: holder[k] for k in ("pid", "version", "data_dir")}, "sessions": 1, "uptime_s": uptime_s, "traces": None}


@command
async def stop() -> None:
    """End the engine of this data directory, cleanly."""
    pid = await asyncio.to_thread(link.ask_to_leave, default_data_dir())
    err.print("not running" if pid is None else f"stopped process {pid}", highlight=False)


@command
async def serve(
    host: Annotated[str, typer.Option(help="The address to listen on. One that others can reach needs the token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0: any that is free.")] = 7333,
    token: Annotated[
        bool, typer.Option("--token/--no-token", help="Ask clients for a bearer token (--no-token: on loopback only).")
    ] = True,
) -> None:
    """Serve MCP over streamable HTTP by the engine, until interrupted."""
    secret = http_token(default_data_dir()) if token else None

    def told(url: str) -> None:
        out.print(f"serving {url}", highlight=False)
        if secret:
            err.print(
                f"clients send the header `Authorization: Bearer …` with the token from {token_source(default_data_dir())}", highlight=False
            )

    await serve_on(host, port, secret, told, lambda note: err.print(note, highlight=False))
    err.print("the engine was stopped", highlight=False)


@command
async def bench(
    what: Annotated[str, typer.Argument(help="embedding: the model on sentence-transformers and on ONNX Runtime.")],
    quick: Annotated[bool, typer.Option(help="Few texts: a first impression in half a minute.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure what the model does on this machine, with the model of the settings."""
    if what != "embedding":
        raise InputError("what", f"must be embedding, not {what}")
    from tracebank.bench import compare  # needed here only

    rows = compare("quick" if quick else "full", lambda step: err.print(f"measuring: {step}", highlight=False))
    if as_json:
        show_json(rows)
        return
    table = Table("", *(row["engine"] for row in rows))
    table.add_row("load, s", *(str(row["load_s"]) for row in rows))
    for words in rows[0]["single"]:
        table.add_row(
            f"{words} words, one at a time, p50 / p95 ms", *("{p50_ms} / {p95_ms}".format(**row["single"][words]) for row in rows)
        )
    for words in rows[0]["batch_ms"]:
        table.add_row(f"{words} words, in batches of 32, ms each", *(str(row["batch_ms"][words]) for row in rows))
    for i, first in enumerate(rows[0]["concurrent"]):
        each = ("{one_call_ms} / {callers_ms}".format(**row["concurrent"][i]) for row in rows)
        table.add_row(f"{first['texts']} texts of 12 words, one call / 32 callers, ms each", *each)
    for name, when in (("idle", "alone"), ("busy", "during an import")):
        table.add_row(f"a question {when}, p50 / p95 ms", *("{p50_ms} / {p95_ms}".format(**row["beside_import"][name]) for row in rows))
    table.add_row("peak memory, loaded / after, MB", *("{loaded} / {after}".format(**row["peak_mb"]) for row in rows))
    out.print(table)


@command
async def version() -> None:
    """Print the version."""
    print(__version__)
