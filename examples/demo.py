"""The main job on real input: a real client starts the server over stdio, stores traces, retrieves, compresses.

Run it with `make run`. It works in a directory of its own (build/demo) and leaves your memories alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import anyio
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
COMMAND = Path(sys.executable).with_name("tracebank")
DATA_DIR = HERE.parent / "build" / "demo"
QUESTIONS = [
    "customer tapped twice and paid two times",
    "two writers each wait for the other's rows for ever",
    "the site stayed dead long after the trigger was repaired",
    "schema change froze the whole shop",
]
COMPRESSED_TOKENS = 1_200
console = Console(width=110, highlight=False)


async def call(client: Client, tool: str, arguments: dict[str, Any]) -> tuple[dict[str, Any], str, float]:
    """Return a tool's structured result, its text, and how many milliseconds it took."""
    started = time.perf_counter()
    result = await client.call_tool(tool, arguments)
    elapsed_ms = (time.perf_counter() - started) * 1e3
    text = "\n".join(part.text for part in result.content if hasattr(part, "text"))
    if result.is_error:
        raise SystemExit(f"{tool} failed: {text}")
    return result.structured_content or {}, text, elapsed_ms


async def store(client: Client) -> None:
    """Store the traces that come with the project; a second run finds them unchanged."""
    traces = [json.loads(line) for line in (HERE / "traces.jsonl").read_text(encoding="utf-8").splitlines()]
    done = [await call(client, "add_trace", trace) for trace in traces]
    statuses = [result["status"] for result, _, _ in done]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    median_ms = sorted(elapsed_ms for _, _, elapsed_ms in done)[len(done) // 2]
    console.print(f"[bold]add_trace[/]: {len(done)} traces of engineering work ({counts}), {median_ms:.1f} ms each\n")


async def meaning_is_ready(client: Client) -> None:
    """Wait until everything is indexed by meaning, too (the first start loads the model and embeds the traces)."""
    started = time.perf_counter()
    while True:
        index = (await call(client, "stats", {"section": "index"}))[0]["index"]
        if index["meaning"] and not any(index["pending"].values()):
            break
        await asyncio.sleep(0.2)
    console.print(f"Words are searchable at once; meaning took part after {time.perf_counter() - started:.1f} s\n")


async def retrieve(client: Client) -> None:
    """Ask in other words than the traces use."""
    for question in QUESTIONS:
        result, _, elapsed_ms = await call(client, "retrieve", {"query": question, "k": 2, "max_tokens": 600})
        console.print(f"[bold]retrieve[/] “{question}”  [dim]{elapsed_ms:.0f} ms, {result['tokens']} tokens[/]")
        for found in result["results"]:
            console.print(f"  [cyan]{found['score']:.2f}[/] {found['outcome']:8} {found['task']}")
        for lesson in result["results"][0]["lessons"][:1]:
            console.print(f"       [green]{lesson}[/]")
    _, text, _ = await call(client, "retrieve", {"query": QUESTIONS[0], "k": 1, "max_tokens": 220})
    console.print("\nWhat the agent reads:", style="bold")
    console.print(text + "\n", markup=False, style="dim")


async def compress(client: Client) -> None:
    """Shorten a long agent prompt, keeping what must survive."""
    prompt = (HERE / "long_prompt.md").read_text(encoding="utf-8")
    keep = ["lease_seconds * 1000 // 2", "extend_calls=0"]
    result, _, elapsed_ms = await call(client, "compress_prompt", {"text": prompt, "max_tokens": COMPRESSED_TOKENS, "keep": keep})
    console.print(f"[bold]compress_prompt[/]: {result['original_tokens']:,} → {result['tokens']:,} tokens in {elapsed_ms:.0f} ms")
    for step in result["steps"]:
        console.print(f"  {step['name']:16} {step['before']:6,} → {step['after']:6,}")
    console.print()


async def stats(client: Client) -> None:
    """Show a few of the figures."""
    figures, _, _ = await call(client, "stats", {})
    table = Table("operation", "count", "p50 ms", "p95 ms", "max ms", title="stats: latencies in the engine", title_justify="left")
    for name in ("add_trace", "retrieve", "search", "embed_query", "compress_prompt"):
        row = figures["latencies"].get(name)
        if row:
            table.add_row(name, str(row["count"]), *(f"{row[key]:.1f}" for key in ("p50_ms", "p95_ms", "max_ms")))
    console.print(table)
    memory_mb = figures["engine"]["memory_bytes"] / 1e6
    console.print(f"{figures['store']['traces']} traces, {figures['store']['chunks']} chunks, engine {memory_mb:.0f} MB\n")


def snippets() -> None:
    """Print what to paste into each client."""
    server = {"command": str(COMMAND), "args": []}
    console.print("Paste into your client", style="bold")
    blocks = {
        "Claude Desktop: claude_desktop_config.json, and Cursor: ~/.cursor/mcp.json": json.dumps(
            {"mcpServers": {"tracebank": server}}, indent=2
        ),
        "Claude Code": f"claude mcp add --scope user tracebank -- {COMMAND}",
        "VS Code: .vscode/mcp.json": json.dumps({"servers": {"tracebank": {"type": "stdio", **server}}}, indent=2),
    }
    for title, text in blocks.items():
        console.print(f"\n[cyan]{title}[/]")
        console.out(text, highlight=False)


async def main() -> None:
    """Show the main job from start to end."""
    environment = {**os.environ, "TRACEBANK_DATA_DIR": str(DATA_DIR)}
    console.print(f"\nStarting [bold]{COMMAND}[/] over stdio, memories in {DATA_DIR}\n")
    async with Client(StdioServerParameters(command=str(COMMAND), args=[], env=environment)) as client:
        tools = (await client.list_tools()).tools
        console.print(f"Connected: tools {', '.join(tool.name for tool in tools)}\n")
        await store(client)
        await meaning_is_ready(client)
        await retrieve(client)
        await compress(client)
        await stats(client)
    # Your own engine stays, ready for the next client; this one has done its work.
    await anyio.run_process([str(COMMAND), "stop"], env=environment)
    snippets()


if __name__ == "__main__":
    asyncio.run(main())
