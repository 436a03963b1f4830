"""How the memory is, and what is done to it in idle time: stats, doctor, consolidate, questions."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from tracebank.cli.base import JsonOption, OnlyNamespaceOption, command, counted, err, out, plain, show_json
from tracebank.remote import engine, last


@command
async def stats(section: Annotated[str, typer.Argument(help="One section, or all.")] = "all", as_json: JsonOption = False) -> None:
    """Show the figures of the memory."""
    async with engine() as call:
        figures = await last(call("stats", section=section))
    if as_json:
        show_json(figures)
        return
    for name, part in figures.items():
        if not part:
            out.print(f"{name}: none", highlight=False)
            continue
        table = Table("name", "value", title=name, title_justify="left", show_header=False)
        for key, value in part.items() if isinstance(part, dict) else enumerate(part, 1):
            # As text: brackets in a name are no markup.
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            table.add_row(Text(plain(key)), Text(plain(shown)))
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
            out.print(plain(f"{finding['what']}: {finding['found']}"), markup=False, highlight=False)
    return 0 if all(finding["well"] for finding in findings) else 1


@command
async def consolidate(
    undo: Annotated[bool, typer.Option("--undo", help="Take back all that was brought together; it is not done again.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring equal and contrary lessons, and episodes of one kind, together now, as in idle time, and show which."""
    async with engine() as call:
        report = await last(call("consolidate", undo=undo))
    if as_json:
        show_json(report)
    elif undo:
        err.print(f"{counted(report['undone'], 'group')} of lessons taken back", highlight=False)
    else:
        for group in report["groups"]:
            out.print(f"[bold]{group['kind']}[/]")
            for member in group["lessons"]:
                out.print(plain(f"  {member['trace_id']} ({member['outcome']}): {member['lesson']}"), markup=False, highlight=False)
        kinds = report["kinds_of_episodes"]
        for kind in kinds["largest"]:
            rate = "outcome unknown" if kind["success_rate"] is None else f"{kind['success_rate']:.0%} succeeded"
            out.print(plain(f"{counted(kind['episodes'], 'episode')} ({rate}): {kind['task']}"), markup=False, highlight=False)
        episodes = f"{counted(kinds['episodes'], 'episode')} of {counted(kinds['kinds'], 'kind')}"
        err.print(f"{counted(len(report['groups']), 'group')} among {counted(report['lessons'], 'lesson')}; {episodes}", highlight=False)


@command
async def questions(
    forget: Annotated[bool, typer.Option("--forget", help="Forget them, and what is kept of their answers.")] = False,
    namespace: OnlyNamespaceOption = None,
    matching: Annotated[str | None, typer.Option(help="Only those like a shell pattern such as '*upload*'.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what was asked, the likeliest to be asked again first; answers to these are prepared in idle time."""
    async with engine() as call:
        told = await last(call("questions", forget=forget, namespace=namespace, matching=matching))
    if as_json:
        show_json(told)
    elif forget:
        err.print(f"{counted(told['forgotten'], 'question')} forgotten", highlight=False)
    else:
        for question in told["questions"]:
            where = ", ".join(question["namespaces"])
            out.print(plain(f"{question['times']}  {where}: {' | '.join(question['query'])}"), markup=False, highlight=False)
