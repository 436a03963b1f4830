"""Hours in minutes: clients that add, find, shorten and look at figures, and whether the engine grows by it.

    .venv/bin/python benchmarks/soak.py [--minutes 10] [--clients 4]

The traces are a fixed number that is written again and again, with other content: what grows is then no data. Prints
a JSON line with memory, threads, open files and latencies in the third tenth of the time, and at the end.
Linux only (it reads /proc).
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from _clients import COMMAND, RefusedError, StdioSession, engine_pid, environment, footprint, spread, wait_until_warm

TRACES_PER_CLIENT = 200
WINDOW = 0.1
# After two tenths every trace has been stored once, and the caches are full: what grows from then on should not.
FILLED = 2
WORDS = (
    "retry timeout socket cache index queue worker lease token batch vector chunk merge branch commit deploy rollback schema migrate "
    "latency budget prompt agent lesson trace episode failure success partial outcome test flaky clock fixture mock event loop thread lock"
).split()


@dataclass(slots=True)
class Watch:
    """When each call ended, which kind it was, and how long it took."""

    calls: list[tuple[float, str, float]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def latencies(self, since: float, until: float) -> dict[str, dict[str, float]]:
        """Return the spread of each kind of call within a time."""
        kinds = sorted({kind for _, kind, _ in self.calls})
        found = {kind: [ms for at, k, ms in self.calls if k == kind and since <= at < until] for kind in kinds}
        return {kind: spread(values) for kind, values in found.items() if values}


def text(chance: random.Random, words: int) -> str:
    """Return made-up text; common words are common."""
    return " ".join(WORDS[min(int(chance.expovariate(0.1)), len(WORDS) - 1)] for _ in range(words)) + "."


def arguments_of(kind: str, number: int, chance: random.Random) -> dict[str, Any]:
    """Return made-up arguments for a call of this client."""
    match kind:
        case "add_trace":
            content = text(chance, chance.randrange(10, 400))
            trace_id = f"c{number}-{chance.randrange(TRACES_PER_CLIENT)}"
            return {"trace_id": trace_id, "task": text(chance, 12), "content": content, "lessons": [text(chance, 15)]}
        case "retrieve":
            return {"query": text(chance, chance.choice((2, 8))), "k": 5}
        case "compress_prompt":
            return {"text": text(chance, 3_000), "ratio": 0.5}
    return {}


def work(number: int, env: dict[str, str], until: float, watch: Watch) -> None:
    """Be one client: call after call until the time is over."""
    chance = random.Random(number)
    session = StdioSession(env)
    while time.perf_counter() < until:
        kind = chance.choices(("add_trace", "retrieve", "compress_prompt", "stats"), (40, 45, 10, 5))[0]
        arguments = arguments_of(kind, number, chance)
        began = time.perf_counter()
        try:
            session.call(kind, **arguments)
        except (RefusedError, EOFError, OSError) as error:
            watch.errors.append(f"{kind}: {error!r}")
        ended = time.perf_counter()
        watch.calls.append((ended, kind, (ended - began) * 1e3))
    session.close()


def soak(home: str, minutes: float, clients: int) -> dict[str, Any]:
    """Run the clients, look at the engine ten times, and compare the first with the last."""
    env = environment(home)
    first = StdioSession(env)
    wait_until_warm(first)
    pid = engine_pid(env)
    watch, began = Watch(), time.perf_counter()
    length_s = minutes * 60
    threads = [threading.Thread(target=work, args=(n, env, began + length_s, watch)) for n in range(clients)]
    for thread in threads:
        thread.start()
    seen = []
    for tenth in range(1, 11):
        # What comes last is looked at while the clients are still there.
        time.sleep(max(0.0, began + length_s * tenth / 10 - (0.5 if tenth == 10 else 0.0) - time.perf_counter()))
        seen.append({"minutes": round((time.perf_counter() - began) / 60, 2), **footprint(pid)})
        print(json.dumps(seen[-1]), file=sys.stderr, flush=True)
    for thread in threads:
        thread.join()
    wait_until_warm(first)
    figures = first.call("stats")
    first.close()
    return {
        "minutes": minutes,
        "clients": clients,
        "calls": len(watch.calls),
        "calls_per_s": round(len(watch.calls) / length_s, 1),
        "errors": len(watch.errors),
        "first_errors": watch.errors[:3],
        "engine_start": seen[FILLED],
        "engine_end": seen[-1],
        "rss_mb": [look["rss_mb"] for look in seen],
        "latency_start_ms": watch.latencies(began + length_s * WINDOW * FILLED, began + length_s * WINDOW * (FILLED + 1)),
        "latency_end_ms": watch.latencies(began + length_s * (1 - WINDOW), float("inf")),
        "traces": figures["store"]["traces"],
        "store_mb": round(figures["store"]["bytes"] / 1e6, 1),
        "same_engine": engine_pid(env) == pid,
    }


def main() -> None:
    """Run it in a directory of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tracebank-soak-", ignore_cleanup_errors=True) as home:
        try:
            print(json.dumps(soak(home, options.minutes, options.clients)))
        finally:
            subprocess.run([COMMAND, "stop"], env=environment(home), check=False, capture_output=True)


if __name__ == "__main__":
    main()
