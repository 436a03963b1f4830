"""Traces in and out: import and export of JSON Lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tracebank import link
from tracebank.cli.base import OnlyNamespaceOption, command, counted, err, plain
from tracebank.cli.output import writing
from tracebank.errors import EngineEndedError, EngineError, TracebankError
from tracebank.remote import Call, engine, last

Line = tuple[int, str]

# What is sent at once; the engine stores it in one go.
BATCH_LINES, BATCH_BYTES = 100, 8 * 1_048_576
# A line goes to the engine in one message, with little around it.
LINE_BYTES = link.MAX_LINE_BYTES - 1_048_576


@dataclass(slots=True, kw_only=True)
class _Sent:
    """How far an import has come: how many traces are stored, how many lines could not be, and up to where."""

    stored: int = 0
    failed: int = 0
    place: str


@command
async def import_(
    files: Annotated[list[str], typer.Argument(help="JSON Lines of traces; - for standard input.")],
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Of all; default: each line's own, else the setting.")] = None,
) -> int:
    """Import traces. Returns when all can be found; bad lines are reported with their number, the others go in."""
    sent = _Sent(place=f"the beginning of {files[0]}")
    with ExitStack() as stack:
        sources = [(name, _open(name, stack)) for name in files]
        progress = stack.enter_context(_progress())
        async with engine() as call:
            try:
                await _send(sources, namespace, call, progress, sent)
            except EngineEndedError as error:
                # An engine may end between storing what was on its way and saying so.
                raise EngineEndedError(
                    f"the engine has ended: {counted(sent.stored, 'trace')} stored, up to {sent.place}, perhaps with some of the next "
                    f"{BATCH_LINES} lines. Run the command again with what follows there: of what is stored, lines without a trace_id "
                    "would come twice"
                ) from error
            except TracebankError as error:
                raise EngineError(f"{error}; {counted(sent.stored, 'trace')} stored before") from error
            indexed = await _follow_indexing(call, progress)
    stored, failed = sent.stored, sent.failed
    if stalled := indexed.get("stalled"):
        told = f"{counted(stored, 'trace')} imported, but not all can be found yet: {stalled}"
    else:
        told = f"{counted(stored, 'trace')} imported and searchable" + (
            "" if indexed.get("meaning", True) else f" (by words alone: {indexed['note']})"
        )
    err.print(
        told + (f"; {counted(failed, 'line')} {'was' if failed == 1 else 'were'} not" if failed else ""), markup=False, highlight=False
    )
    return 1 if failed or stalled else 0


async def _send(sources: Sequence[tuple[str, Iterator[Line]]], namespace: str | None, call: Call, progress: Progress, sent: _Sent) -> None:
    """Let the engine store all lines. Of those that are bad, tell the number and the problem."""
    reading = progress.add_task("stored", total=None)
    for name, lines in sources:
        for batch, too_long in _batches(lines):
            result = await last(call("import", lines=batch, namespace=namespace))
            errors = sorted((*result["errors"], *too_long), key=lambda error: error[0])
            sent.stored += result["stored"]
            sent.failed += len(errors)
            sent.place = f"line {max(number for number, _ in (*batch, *too_long))} of {name}"
            progress.update(reading, completed=sent.stored)
            for number, problem in errors:
                print(f"tracebank: {name}, line {number}: {problem}", file=sys.stderr)
    progress.update(reading, total=sent.stored)


def _open(name: str, stack: ExitStack) -> Iterator[Line]:
    if name == "-" and sys.stdin is None:
        raise EngineError("standard input cannot be read: it is closed")
    try:
        file: BinaryIO = sys.stdin.buffer if name == "-" else open(name, "rb")  # noqa: SIM115 - the stack closes it
    except OSError as error:
        raise EngineError(f"{name} cannot be read: {error.strerror}") from error
    stack.enter_context(file)
    return _readable(name, _lines(file))


def _readable(name: str, lines: Iterator[Line]) -> Iterator[Line]:
    """Yield the same lines. Raises: EngineError where the file cannot be read to its end."""
    try:
        yield from lines
    except OSError as error:
        raise EngineError(f"{name} cannot be read: {error.strerror}") from error


def _lines(file: BinaryIO) -> Iterator[Line]:
    """Yield the lines that are not blank, with their numbers; of one that is too long no more than shows that."""
    number = 0
    while line := file.readline(LINE_BYTES + 1):
        number += 1
        # Bytes that are no UTF-8 must not end the import: they become lone surrogates, which the line's check reports.
        text = line.decode("utf-8", "surrogateescape")
        if number == 1:
            # Editors of some systems put a mark before the text.
            text = text.removeprefix("\ufeff")
        if len(line) > LINE_BYTES:
            yield number, text
            while len(line) > LINE_BYTES and not line.endswith(b"\n"):
                line = file.readline(LINE_BYTES + 1)
        elif text := text.strip():
            yield number, text


def _batches(lines: Iterator[Line]) -> Iterator[tuple[list[Line], list[Line]]]:
    """Yield lines to be sent together, and the numbers and problems of those between them that are too long to be sent."""
    batch: list[Line] = []
    too_long: list[Line] = []
    room = BATCH_BYTES
    for number, line in lines:
        size = len(json.dumps(line))
        if size > LINE_BYTES:
            too_long.append((number, f"line: must be at most {LINE_BYTES:,} bytes, its escapes included: split this trace into several"))
            continue
        if batch and (size > room or len(batch) == BATCH_LINES):
            yield batch, too_long
            batch, too_long, room = [], [], BATCH_BYTES
        batch.append((number, line))
        room -= size
    if batch or too_long:
        yield batch, too_long


def _progress() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=err, transient=True)


async def _follow_indexing(call: Call, progress: Progress) -> dict[str, Any]:
    """Wait until all can be found; return the last event, or one like it where the engine has ended."""
    bar = None
    try:
        async for event in call("wait_indexed"):
            if "stalled" in event:
                return event
            if event["pending"] or event.get("loading"):
                bar = progress.add_task("indexed", total=event["pending"]) if bar is None else bar
                total = progress.tasks[bar].total or 0
                progress.update(bar, completed=max(0, total - event["pending"]))
            else:
                return event
    except EngineEndedError:
        return {"stalled": "the engine has ended, and the next one goes on"}
    return {}


@command
async def export(
    namespace: OnlyNamespaceOption = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="A file; default, and -: standard output.")] = None,
) -> None:
    """Export every trace as JSON Lines, in the form that import takes."""
    async with engine() as call:
        with writing(output) as file:
            async for event in call("export", namespace=namespace):
                file.writelines(json.dumps(trace, ensure_ascii=False) + "\n" for trace in event["traces"])
                if note := event.get("note"):
                    err.print(plain(note), markup=False, highlight=False)
