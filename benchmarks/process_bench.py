"""The server as processes: start-up, memory, what the front costs, many clients, kill -9.

    .venv/bin/python benchmarks/process_bench.py [start calls asking memory clients beside crash] [--kills 100] > figures.jsonl

Each part prints one JSON line to standard output and a row for people to standard error. The smallest server that the
SDK can make runs beside ours in `start`: the machine is the same, and as busy. Linux only (it reads /proc).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from _clients import (
    COMMAND,
    RefusedError,
    Session,
    StdioSession,
    direct,
    engine_pid,
    environment,
    exported,
    footprint,
    run,
    spread,
    timed_ms,
    wait_until_warm,
)
from _corpus import some_questions, traces_of

SMALLEST = "from mcp.server import MCPServer\nMCPServer('smallest').run()\n"
Figures = dict[str, Any]


def start(home: str, _: argparse.Namespace) -> Figures:
    """How long a client waits for its first answers, with nothing running, and with an engine there."""
    env = environment(home)
    first = StdioSession(env)
    began = time.perf_counter()
    first.call("add_trace", task="Fix the flaky checkout test", lessons=["Wait for the event, never for a time."])
    found = first.call("retrieve", query="a test that fails now and then")["results"]
    first_answer_ms = first.initialize_ms + (time.perf_counter() - began) * 1e3
    while not list(Path(home, "answers").glob("*/*.json")):
        time.sleep(0.05)
    wait_until_warm(first)
    codes = {first.close()}
    again = []
    for _round in range(5):
        run(env, "stop")
        session = StdioSession(env)
        again.append(session.initialize_ms)
        # The engine has to be up before it can be stopped.
        session.call("stats", section="engine")
        codes.add(session.close())
    warm = [StdioSession(env)]
    wait_until_warm(warm[0])
    warm = [*warm, *(StdioSession(env) for _ in range(40))]
    smallest = [StdioSession(env, [sys.executable, "-c", SMALLEST]) for _ in range(8)]
    figures = {
        "initialize_first_ever_ms": round(first.initialize_ms, 1),
        "first_answer_s": round(first_answer_ms / 1e3, 2),
        "found": len(found),
        "initialize_cold_ms": spread(again),
        "initialize_warm_ms": spread([session.initialize_ms for session in warm[1:]]),
        "initialize_smallest_sdk_server_ms": spread([session.initialize_ms for session in smallest]),
        "client_rss_mb": spread([footprint(session.process.pid)["rss_mb"] for session in warm])["p50"],
        "smallest_sdk_server_rss_mb": spread([footprint(session.process.pid)["rss_mb"] for session in smallest])["p50"],
    }
    return {**figures, "exit_codes": sorted(codes | {session.close() for session in [*warm, *smallest]})}


def calls(home: str, _: argparse.Namespace) -> Figures:
    """What the front adds to a call: through it and straight on the socket, in turn."""
    env = environment(home)
    through = StdioSession(env)
    wait_until_warm(through)
    straight = direct(home)
    for number in range(50):
        through.call("add_trace", task=f"Case {number}: restart the worker after the lease has run out")
    wait_until_warm(through)
    work: dict[str, Callable[[Session, int], object]] = {
        "ping": lambda session, _: session.request("ping", {}),
        "retrieve_cached": lambda session, _: session.call("retrieve", query="a worker that lost its lease"),
        "retrieve": lambda session, number: session.call("retrieve", query=f"a worker that lost its lease {number}"),
        "add_trace": lambda session, number: session.call("add_trace", task="Keep one", trace_id="same", content=str(number)),
    }
    figures: Figures = {}
    for name, action in work.items():
        front: list[float] = []
        socket: list[float] = []
        for number in range(300):
            # Each its own number: what the other has just cached is of no use to it.
            front.append(timed_ms(partial(action, through, 2 * number)))
            socket.append(timed_ms(partial(action, straight, 2 * number + 1)))
        figures[name] = {"front_ms": spread(front), "socket_ms": spread(socket)}
        figures[name]["difference_p50_ms"] = round(figures[name]["front_ms"]["p50"] - figures[name]["socket_ms"]["p50"], 2)
    through.close()
    return figures


def asking(home: str, options: argparse.Namespace) -> Figures:
    """What a question takes the first time and again, for a client that reads in blocks and one that reads byte by byte, in turn."""
    env = environment(home)
    readers = {"in_blocks": StdioSession(env), "byte_by_byte": StdioSession(env, in_blocks=False)}
    session = readers["in_blocks"]
    wait_until_warm(session)
    if options.traces:
        traces = [json.loads(line) for line in options.traces.read_text("utf-8").splitlines()]
    else:
        traces = [{**trace.as_json(), "namespace": "default"} for trace, _ in traces_of(0, 600, "default")]
    for trace in traces:
        session.call("add_trace", **trace)
    wait_until_warm(session)
    took: dict[str, dict[str, list[float]]] = {reader: {"first_ms": [], "again_ms": []} for reader in readers}
    for number, trace in enumerate(traces):
        for reader, asked in readers.items():
            ask = partial(asked.call, "retrieve", query=f"{trace['task'][:120]} ({number}, {reader})")
            for times in took[reader].values():
                times.append(timed_ms(ask))
    embedding_ms = session.call("stats", section="latencies")["latencies"]["embed_query"]["p50_ms"]
    figures: Figures = {reader: {name: spread(times) for name, times in each.items()} for reader, each in took.items()}
    for reader in readers:
        figures[reader]["first_to_embedding"] = round(figures[reader]["first_ms"]["p50"] / embedding_ms, 1)
    for opened in readers.values():
        opened.close()
    return {"embedding_p50_ms": embedding_ms, **figures}


def memory(home: str, _: argparse.Namespace) -> Figures:
    """An idle engine, before and after its model is loaded; and 50 clients, before, during and after."""
    env = environment(home)
    first = StdioSession(env)
    pid = engine_pid(env)
    figures: Figures = {"without_model": footprint(pid)}
    wait_until_warm(first)
    first.call("retrieve", query="anything")
    time.sleep(2)
    figures["idle"] = footprint(pid)
    # Whatever the first sessions leave in caches is no growth.
    for round_number in range(3):
        many = [StdioSession(env) for _ in range(50)]
        for session in many:
            session.request("tools/list", {})
        figures[f"50_clients_{round_number}"] = footprint(pid)
        for session in many:
            session.close()
        time.sleep(1)
        figures[f"after_{round_number}"] = footprint(pid)
    first.close()
    return figures


def clients(home: str, _: argparse.Namespace) -> Figures:
    """Eight clients that write side by side, and what another one finds of it."""
    env = environment(home)
    count, each = 8, 40
    errors: list[str] = []
    latencies: list[float] = []

    def work(worker: int) -> None:
        try:
            session = StdioSession(env)
            for i in range(each):
                task = f"Worker {worker} handled ticket number {worker * 1000 + i}"
                latencies.append(timed_ms(partial(session.call, "add_trace", trace_id=f"w{worker}-{i}", task=task)))
            session.close()
        except (RefusedError, OSError, EOFError) as error:
            errors.append(repr(error))

    took_ms = timed_ms(lambda: in_threads(work, count))
    other = StdioSession(env)
    found = sum(
        other.call("retrieve", query=f"ticket number {w * 1000 + 7}", k=3)["results"][0]["trace_id"] == f"w{w}-7" for w in range(count)
    )
    other.close()
    return {
        "acknowledged": len(latencies),
        "stored": len(exported(env)),
        "found_from_another_client": f"{found} of {count}",
        "adds_per_s": round(count * each / took_ms * 1e3, 1),
        "add_trace_ms": spread(latencies),
        "errors": errors[:3],
    }


def beside(home: str, _: argparse.Namespace) -> Figures:
    """What a question that was never asked takes while another client imports: texts that are new, then the same once more elsewhere."""
    env = environment(home)
    session = StdioSession(env)
    wait_until_warm(session)
    traces = [{**trace.as_json(), "namespace": "default"} for trace, _ in traces_of(0, 3_000, "default")]
    for trace in traces[:200]:
        session.call("add_trace", **trace)
    wait_until_warm(session)
    file = Path(home, "traces.jsonl")
    file.write_text("".join(json.dumps(trace) + "\n" for trace in traces[200:]), encoding="utf-8")
    asked = iter(some_questions(100_000, 0))

    def ask() -> float:
        took_ms = timed_ms(lambda: session.call("retrieve", query=next(asked)))
        time.sleep(0.03)
        return took_ms

    figures: Figures = {"idle_ms": spread([ask() for _ in range(300)])}
    for name in ("new", "known"):
        importing = subprocess.Popen([COMMAND, "import", str(file), "--namespace", name], env=env, stdout=subprocess.DEVNULL)
        began = time.perf_counter()
        latencies: list[float] = []
        while importing.poll() is None:
            latencies.append(ask())
        figures[f"{name}_ms"] = spread(latencies)
        figures[f"{name}_p95_to_idle_p50"] = round(figures[f"{name}_ms"]["p95"] / figures["idle_ms"]["p50"], 1)
        figures[f"{name}_import_s"] = round(time.perf_counter() - began, 1)
    session.close()
    return figures


def in_threads(work: Callable[[int], None], count: int) -> None:
    """Run the work in so many threads, each with its number, and wait for them."""
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def crash(home: str, options: argparse.Namespace) -> Figures:
    """Kill the engine again and again, at any moment, while a client writes."""
    env = environment(home)
    chance = random.Random(0)
    done = threading.Event()
    kills = 0

    def killer() -> None:
        nonlocal kills
        while kills < options.kills:
            time.sleep(chance.uniform(0.05, 1.5))
            try:
                os.kill(engine_pid(env), signal.SIGKILL)
            except (subprocess.CalledProcessError, ProcessLookupError, KeyError):
                continue  # none is up
            kills += 1
        done.set()

    session = StdioSession(env)
    acknowledged: set[str] = set()
    latencies: list[float] = []
    retries = failures = hung_up = number = 0
    thread = threading.Thread(target=killer)
    thread.start()
    while not done.is_set():
        number += 1
        began = time.perf_counter()
        try:
            session.call("add_trace", trace_id=f"t{number}", task=f"Step {number} of a run that is cut short")
            acknowledged.add(f"t{number}")
        except RefusedError as error:
            retries += error.retry
            failures += not error.retry
        except (EOFError, OSError):
            hung_up += 1
            session = StdioSession(env)
        latencies.append((time.perf_counter() - began) * 1e3)
    thread.join()
    lost = len(acknowledged - exported(env))
    return {
        "kills": kills,
        "acknowledged": len(acknowledged),
        "lost": lost,
        "to_be_retried": retries,
        "other_errors": failures,
        "hung_up": hung_up,
        "call_ms": spread(latencies),
        "exit_code": session.close(),
    }


PARTS: dict[str, Callable[[str, argparse.Namespace], Figures]] = {
    "start": start,
    "calls": calls,
    "asking": asking,
    "memory": memory,
    "clients": clients,
    "beside": beside,
    "crash": crash,
}


def show(name: str, figures: Figures) -> None:
    """Print a line for programs, and some for people."""
    print(json.dumps({"part": name, **figures}), flush=True)
    print(name, file=sys.stderr)
    for key, value in rows(figures):
        print(f"  {key:36} {value}", file=sys.stderr)


def rows(figures: Figures, before: str = "") -> Iterator[tuple[str, object]]:
    """Yield a name and a text for every figure, those of one spread together."""
    for key, value in figures.items():
        if not isinstance(value, dict):
            yield before + key, value
        elif any(isinstance(part, dict) for part in value.values()):
            yield from rows(value, f"{before}{key} ")
        else:
            yield before + key, "  ".join(f"{k} {v}" for k, v in value.items())


def main() -> None:
    """Run the parts that are asked for, each in a directory of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--kills", type=int, default=100, help="how often `crash` kills the engine")
    parser.add_argument("--traces", type=Path, help="JSON Lines of traces for `asking`; default: made up")
    options = parser.parse_args()
    for name in options.parts or PARTS:
        with tempfile.TemporaryDirectory(prefix="tracebank-bench-", ignore_cleanup_errors=True) as home:
            try:
                show(name, PARTS[name](home, options))
            finally:
                subprocess.run([COMMAND, "stop"], env=environment(home), check=False, capture_output=True)


if __name__ == "__main__":
    main()
