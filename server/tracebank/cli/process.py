"""The engine as a process: status, stop, serve, bench, version."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

import typer
from rich.table import Table

from tracebank import __version__, link
from tracebank.cli.base import JsonOption, command, counted, err, out, show_json
from tracebank.errors import InputError
from tracebank.locking import holder_of
from tracebank.places import default_data_dir
from tracebank.serving import http_token, serve_on, token_source

# Somebody looks: an engine that takes longer to answer is told as one that does not.
STATUS_TIMEOUT_S = 5.0


@command
async def status(as_json: JsonOption = False) -> None:
    """Tell whether an engine is running. Starts nothing."""
    data_dir = default_data_dir()
    state = _status(data_dir)
    if as_json:
        show_json(state)
    elif not state["running"]:
        out.print(f"not running ({data_dir})", highlight=False)
    else:
        about = f"process {state['pid'] or '(unknown)'}, version {state['version'] or '(unknown)'}"
        if state["sessions"] is None:
            about += ", which does not answer: it is starting, ending, or hangs,"
        elif state["traces"] is None:
            about += ", for a client of its own alone,"
        else:
            about += f", {counted(state['sessions'], 'client')}, {counted(state['traces'], 'trace')}"
        out.print(f"running: {about} in {data_dir}", highlight=False)


def _status(data_dir: str) -> dict[str, Any]:
    connection = link.connect(data_dir, "status", STATUS_TIMEOUT_S)
    if connection is not None:
        connection.close()
        return {name: value for name, value in connection.about.items() if name != "notes"}
    holder = holder_of(data_dir)
    if holder is None:
        return {"running": False, "data_dir": data_dir, "version": __version__}
    # It serves its own client and nobody else, or nobody for now; what it wrote down is all there is to know.
    return {
        "running": True,
        "pid": holder.get("pid"),
        "version": holder.get("version"),
        "data_dir": data_dir,
        "sessions": 1 if holder.get("mode") == "in-process" else None,
        "uptime_s": round(time.time() - holder["started_at"], 1) if "started_at" in holder else None,
        "traces": None,
    }


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
    table.add_row(f"{rows[0]['many']['texts']} texts of 80 words in one call, ms each", *(str(row["many"]["ms"]) for row in rows))
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
