"""Tracebank and the other memory servers in one run: how fast, how large, what each finds, what each survives.

    python benchmarks/field_bench.py --home DIRECTORY [TRACES.jsonl QUESTIONS.jsonl …]

The first run installs every server below the directory, some 3 GB (basic-memory needs a `python3.12`); later ones take what is
there. Without --home only Tracebank is measured. TRACES as `tracebank import` takes them, with `trace_id`; QUESTIONS one JSON object
a line: {"query": "…", "gold": ["trace_id", …]}. The first pair is what survival is measured with, too; without one, the project's
examples are stored without their lessons and asked for by these. All speak JSON-RPC over stdio and use the same weights;
_field_servers.py says how each is used. Linux.

A server's start is warm when its directory has been used before; Tracebank's engine is running then, as it does between clients.
`ready` is when what was stored first can be found by meaning, too. Memory is resident, of all of a server's processes, right after
the questions. Times are those of a server's default mode, nDCG and recall those of the mode that finds most. Kills hit all of a
server's processes. What is there is asked of a new server.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Thread, Timer
from typing import Any

from _clients import RefusedError, footprint, spread
from _field import PATIENCE_S, Client, Collection, Server, Trace, examples, read
from _field_servers import SERVERS, Tracebank
from retrieval_ablation import measured

WARM_STARTS = 3
WRITES_EACH = 50
KILLS = 5
#: After how long a server that is being written to is killed.
KILLED_AFTER_S = (0.5, 2.5)
#: How long a new server may take to see again what another one has left.
RECOVERY_S = 10.0
FIRST = "Say hello to a new memory, so that it wakes up."
#: Figures of which more is better; of all others less is.
HIGHER = ("nDCG@10", "recall@10")

Row = dict[str, int | float | str]


@contextmanager
def directory_for(server: Server) -> Iterator[Path]:
    """Make an empty directory, and end what still runs in it."""
    with tempfile.TemporaryDirectory(prefix="field-", ignore_cleanup_errors=True) as name:
        try:
            yield Path(name)
        finally:
            server.end(Path(name))


def in_turn(call: Callable[[Any], Any], arguments: Iterable[Any]) -> tuple[list[Any], list[float], list[str]]:
    """Call for each, and return what came (None where it was refused), how long each took in ms, and what the refusals said."""
    answers, durations_ms, refusals = [], [], []
    for argument in arguments:
        began = time.perf_counter()
        try:
            answers.append(call(argument))
        except RefusedError as error:
            answers.append(None)
            refusals.append(str(error))
        durations_ms.append((time.perf_counter() - began) * 1e3)
    return answers, durations_ms, refusals


def times(name: str, durations_ms: Sequence[float]) -> Row:
    """Return the columns of some durations."""
    return {f"{name} {part} ms": spread(durations_ms)[part] for part in ("p50", "p95")}


def memory_mb(pids: Iterable[int]) -> int:
    """Return the resident memory of some processes together; some may be gone."""
    total = 0.0
    for pid in pids:
        with suppress(OSError, KeyError):
            total += footprint(pid)["rss_mb"]
    return round(total)


def start_s(server: Server, directory: Path) -> float:
    """Start a server, and end it."""
    with server.open(directory) as client:
        return client.initialize_ms / 1e3


def score(found: Iterable[Sequence[str] | None], questions: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return the mean nDCG@10 and recall@10."""
    each = [measured(ids or [], set(asked["gold"])) for ids, asked in zip(found, questions, strict=True)]
    ndcg, _, recall = (round(statistics.mean(column), 3) for column in zip(*each, strict=True))
    return ndcg, recall


def performance(server: Server, data: Collection) -> Row:
    """Start it, fill it and ask it: how long each takes, how large it is afterwards, and what it finds."""
    row: Row = {"load": f"{os.getloadavg()[0]:.1f}"}
    with directory_for(server) as directory:
        opened = time.perf_counter()
        with server.open(directory) as client:
            row["first start s"] = round(client.initialize_ms / 1e3, 2)
            row["tools/list bytes"] = len(json.dumps(client.request("tools/list", {}), separators=(",", ":")))
            server.begin(client)
            # What is loaded with the first calls is not the price of the next.
            server.store(client, {"trace_id": "first", "task": FIRST})
            while "first" not in server.find(client, FIRST, server.modes[0]) and time.perf_counter() < opened + PATIENCE_S:
                pass
            row["first found s"] = round(time.perf_counter() - opened, 2)
            server.settle(client)
            row["ready s"] = round(time.perf_counter() - opened, 2)
            began = time.perf_counter()
            _, durations_ms, refusals = in_turn(partial(server.store, client), data.traces)
            server.settle(client)
            row |= times("store", durations_ms)
            row["store until found ms"] = round((time.perf_counter() - began) * 1e3 / len(data.traces), 2)
            row["refused"] = f"{len(refusals)} of {len(data.traces)}"
            questions = [asked["query"] for asked in data.questions]
            scores: dict[str, tuple[float, float]] = {}
            for mode in server.modes:
                found, durations_ms, _ = in_turn(partial(server.find, client, mode=mode), questions)
                scores[mode] = score(found, data.questions)
                if mode == server.modes[0]:
                    row |= times("find", durations_ms)
                    row["memory MB"] = memory_mb(server.processes(client, directory))
            best = max(scores, key=scores.__getitem__)
            row |= {"best mode": best, "nDCG@10": scores[best][0], "recall@10": scores[best][1]}
        row["warm start s"] = round(statistics.median(start_s(server, directory) for _ in range(WARM_STARTS)), 2)
    return row


def write(server: Server, directory: Path, notes: Iterable[Trace], acknowledged: list[Trace], begun: Callable[[Client], None]) -> None:
    """Start a server and write, until there is nothing left or the server is gone."""
    with suppress(EOFError, BrokenPipeError), server.open(directory) as client:
        server.begin(client)
        begun(client)
        for note in notes:
            with suppress(RefusedError):
                server.store(client, note)
                acknowledged.append(note)


def there(server: Server, directory: Path, acknowledged: Sequence[Trace]) -> int:
    """Return how many of the acknowledged a new server has, a while after its start if not at once. Raises: EOFError, RefusedError."""
    with server.open(directory) as client:
        server.begin(client)
        until = time.monotonic() + RECOVERY_S
        while True:
            found = len(server.kept(client, acknowledged) & {note["trace_id"] for note in acknowledged})
            if found == len(acknowledged) or time.monotonic() > until:
                return found
            time.sleep(1)


def two_at_once(server: Server, data: Collection) -> Row:
    """Write with two servers at the same time on one directory, which has been used before."""
    acknowledged: list[Trace] = []
    with directory_for(server) as directory:
        first, *notes = itertools.islice(data.notes(), 1 + 2 * WRITES_EACH)
        write(server, directory, [first], [], lambda _: None)
        halves = notes[:WRITES_EACH], notes[WRITES_EACH:]
        threads = [Thread(target=write, args=(server, directory, half, acknowledged, lambda _: None)) for half in halves]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        kept = there(server, directory, acknowledged)
    return {"two at once: written": str(2 * WRITES_EACH), "acknowledged": str(len(acknowledged)), "there": str(kept)}


def killed(server: Server, data: Collection) -> Row:
    """Kill a server with all its processes while it is being written to, again and again on one directory."""
    acknowledged: list[Trace] = []
    notes, random_s = data.notes(), random.Random(0)

    def kill(client: Client, directory: Path) -> None:
        try:
            for pid in server.processes(client, directory):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        finally:
            client.process.kill()

    with directory_for(server) as directory:
        for _ in range(KILLS):

            def begun(client: Client, directory: Path = directory) -> None:
                # A first note, so that a server that loads a model has done so before its time runs.
                server.store(client, note := next(notes))
                acknowledged.append(note)
                Timer(random_s.uniform(*KILLED_AFTER_S), kill, [client, directory]).start()

            write(server, directory, notes, acknowledged, begun)
        kept = there(server, directory, acknowledged)
    return {f"{KILLS} kills: acknowledged": str(len(acknowledged)), "still there": str(kept)}


def attempt(part: Callable[[Server, Collection], Row], server: Server, data: Collection, reasons: list[str]) -> Row:
    """Do one part with one server; if that cannot be done, say why, and return what there is to say."""
    server.errors.unlink(missing_ok=True)
    print(f"{time.strftime('%H:%M:%S')} {server.name}: {part.__name__}, {data.name}", file=sys.stderr)
    try:
        return part(server, data)
    except (EOFError, OSError, RefusedError, LookupError, ValueError, subprocess.SubprocessError) as error:
        said = server.errors.read_text(errors="replace").splitlines()[-3:] if server.errors.exists() else []
        reasons.append(f"- {server.name}, {part.__name__}, {data.name}: {error!r}; its last lines: {' / '.join(said) or 'none'}")
        return {}


def table(rows: Mapping[str, Row]) -> Iterator[str]:
    """Yield the lines of a table."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    yield f"\n| | {' | '.join(columns)} |"
    yield "|---" * (len(columns) + 1) + "|"
    for name, row in rows.items():
        yield f"| {name} | {' | '.join(str(row.get(column, '–')) for column in columns)} |"


def against(ours: Sequence[Row], theirs: Row) -> dict[str, list[float]]:
    """Return how many times better each of our figures is, from the worst to the best of our rows; a figure of 0 has no ratio."""
    ratios: dict[str, list[float]] = {}
    for column, other in theirs.items():
        mine = [row[column] for row in ours if column in row]
        numbers = [number for number in mine if not isinstance(number, str) and number]
        if numbers and not isinstance(other, str) and other:
            ratios[column] = sorted(round(number / other if column in HIGHER else other / number, 2) for number in numbers)
    return ratios


def compared(rows: Mapping[str, Row]) -> Iterator[str]:
    """Yield the lines that say where Tracebank stands against each of the others."""
    ours = [row for name, row in rows.items() if name.startswith(Tracebank.name)]
    ratios = {name: against(ours, row) for name, row in rows.items() if not name.startswith(Tracebank.name)}
    yield "\nHow many times better Tracebank is:"
    yield from table(
        {name: {column: " to ".join(dict.fromkeys(map(str, of))) for column, of in row.items()} for name, row in ratios.items()}
    )
    behind = {name: ", ".join(column for column, of in row.items() if of[0] < 1) for name, row in ratios.items()}
    yield "\nWhere it is behind:"
    yield from (f"- {name}: {columns or 'nowhere'}" for name, columns in behind.items())


def main(home: Path, chosen: Sequence[type[Server]], collections: Sequence[Collection]) -> None:
    """Measure every server in every way, and print a table for each collection, and one of what was survived."""
    reasons: list[str] = []
    servers: list[Server] = []
    for kind in chosen:
        server = kind(home)
        try:
            server.install()
            servers.append(server)
        except (OSError, subprocess.SubprocessError) as error:
            reasons.append(f"- {server.name} could not be installed: {error!r}; {getattr(error, 'stderr', b'')[-500:]!r}")
    print(f"{os.cpu_count()} processors; {', '.join(f'{server.name} {server.version()}' for server in servers)}")
    for data in collections:
        rows = {server.name: attempt(performance, server, data, reasons) for server in servers}
        if Tracebank.name in rows and len(rows) > 1:  # first and last, for the machine may be busier at one end than at the other
            rows[f"{Tracebank.name}, again"] = attempt(performance, servers[0], data, reasons)
        print(
            f"\n{data.name}: {len(data.traces)} traces, {len(data.questions)} questions",
            *table(rows),
            *(compared(rows) if len(rows) > 1 else ()),
            sep="\n",
            flush=True,
        )
    survived = {
        server.name: attempt(two_at_once, server, collections[0], reasons) | attempt(killed, server, collections[0], reasons)
        for server in servers
    }
    print("", *table(survived), "", *reasons, sep="\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--home", type=Path, help="where the others are installed, and kept")
    parser.add_argument("--servers", nargs="+", choices=[kind.name for kind in SERVERS], help="only these")
    options = parser.parse_args()
    if len(options.files) % 2:
        parser.error("give pairs of files: traces, questions")
    given = [
        Collection(name=traces.stem, traces=read(traces), questions=read(questions))
        for traces, questions in zip(options.files[::2], options.files[1::2], strict=True)
    ] or [examples()]
    wanted = [kind for kind in SERVERS if options.home or kind is Tracebank]
    with tempfile.TemporaryDirectory(prefix="field-home-") as nowhere:
        main(options.home or Path(nowhere), [kind for kind in wanted if not options.servers or kind.name in options.servers], given)
