"""Episodes: what logging a step costs, how many commits it takes, what a kill -9 loses, how long a completion takes.

    .venv/bin/python benchmarks/episodes_bench.py [commits latency kill completion model] > figures.jsonl

Each part has a data directory of its own and prints one JSON line to standard output, and a row for people to standard
error. Linux only (it kills the engine by its process id).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from _clients import RefusedError, Session, StdioSession, direct, engine_pid, environment, run, spread, timed_ms, wait_until_warm

from tracebank.engine import Engine
from tracebank.settings import load_settings
from tracebank.store import outbox

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "llm"))
from provider import Call, Reply, serving

Figures = dict[str, Any]
CLIENTS, STEPS_PER_S, KILLS = 8, 100, 5


def place(home: str) -> dict[str, str]:
    """Return the environment of this data directory; where models are exported to may be shared."""
    shared = "TRACEBANK_EMBEDDING__CACHE_DIR"
    return {**environment(home), **({shared: os.environ[shared]} if shared in os.environ else {})}


def step(number: int) -> dict[str, Any]:
    """Return a step of ordinary size; every seventh has failed."""
    answer = f"line {number} of the answer, with what an agent usually sees of a command. " * 4
    return {"action": f"run_check(part={number})", "observation": answer, "ok": number % 7 != 3, "duration_ms": 12.5}


def settled_commits(session: Session) -> int:
    """Return how many commits there were, when no step is left to be stored."""
    while session.call("stats", section="learning")["learning"]["buffered_steps"]:
        time.sleep(0.05)
    return int(session.call("stats", section="store")["store"]["commits"])


def commits(home: str) -> Figures:
    """Commits for 10 steps logged one by one over stdio, those of the timer included."""
    session = StdioSession(place(home))
    wait_until_warm(session)
    # The engine's own commits, when it has opened its indexes, are over by then.
    while not session.call("stats", section="index")["index"]["meaning"]:
        time.sleep(0.05)
    before = settled_commits(session)
    episode = session.call("log_steps", task="Count the commits")["episode_id"]
    for number in range(10):
        session.call("log_steps", episode_id=episode, steps=[step(number)])
    took = settled_commits(session) - before
    session.close()
    return {"steps": 10, "commits": took, "steps_per_commit": round(10 / took, 1) if took else None}


def latency(home: str) -> Figures:
    """How long a call of `log_steps` takes over a direct session, and a ping beside it."""
    session = StdioSession(place(home))
    wait_until_warm(session)
    straight = direct(home)
    episode = straight.call("log_steps", task="Measure a step")["episode_id"]
    pings, logged = [], []
    for number in range(1_000):
        logged.append(timed_ms(partial(straight.call, "log_steps", episode_id=episode, steps=[step(number)])))
        pings.append(timed_ms(partial(straight.request, "ping", {})))
    session.close()
    return {"log_steps_ms": spread(logged), "ping_ms": spread(pings)}


class Logger(threading.Thread):
    """A client that logs steps at its share of the rate until it is told to end; it keeps count of what was acknowledged."""

    def __init__(self, env: dict[str, str], ending: threading.Event) -> None:
        super().__init__()
        self._session, self._ending = StdioSession(env), ending
        self.episode_id = self._session.call("log_steps", task="Lose nothing")["episode_id"]
        self.acknowledged: list[str] = []
        self.retried = 0

    def run(self) -> None:
        """Log until the end; a call that the engine's death has cut short is made again."""
        number, began = 0, time.perf_counter()
        # By the clock, so that what an engine's death has held up is caught up with.
        while not self._ending.wait(max(0.0, began + number * CLIENTS / STEPS_PER_S - time.perf_counter())):
            number += 1
            action = f"step {number} of {self.episode_id}"
            try:
                self._session.call("log_steps", episode_id=self.episode_id, steps=[{**step(number), "action": action}])
                self.acknowledged.append(action)
            except RefusedError as error:
                if not error.retry:
                    raise
                self.retried += 1

    def missing(self) -> int:
        """Return how many acknowledged steps the memory does not have."""
        result = self._session.request("resources/read", {"uri": f"trace://{self.episode_id}"})
        content = json.loads(result["contents"][0]["text"])["content"]
        self._session.close()
        return sum(f"): {action}\n" not in content for action in self.acknowledged)


def kill(home: str) -> Figures:
    """Steps lost when the engine is killed at work, with 8 clients that log 100 steps a second together."""
    env = place(home)
    StdioSession(env).close()
    ending, chance = threading.Event(), random.Random(7)
    clients = [Logger(env, ending) for _ in range(CLIENTS)]
    began = time.perf_counter()
    for client in clients:
        client.start()
    for _ in range(KILLS):
        time.sleep(chance.uniform(2.0, 4.0))
        # The one before may not have been replaced yet.
        while not json.loads(run(env, "status", "--json"))["running"]:
            time.sleep(0.1)
        os.kill(engine_pid(env), signal.SIGKILL)
    time.sleep(3.0)
    ending.set()
    for client in clients:
        client.join()
    took_s = time.perf_counter() - began
    acknowledged = sum(len(client.acknowledged) for client in clients)
    lost = sum(client.missing() for client in clients)
    retried = sum(client.retried for client in clients)
    rate = round(acknowledged / took_s, 1)
    return {"kills": KILLS, "acknowledged": acknowledged, "acknowledged_per_s": rate, "to_be_retried": retried, "lost": lost}


def completion(home: str) -> Figures:
    """How long `complete_episode` takes for 50 steps, with a memory of earlier episodes, and its parts."""
    session = StdioSession(place(home))
    wait_until_warm(session)
    straight = direct(home)
    took = []
    for round_ in range(40):
        task = f"Check the {('east', 'west', 'north', 'south')[round_ % 4]} depot, round {round_}"
        episode = straight.call("log_steps", task=task, steps=[step(number) for number in range(50)])["episode_id"]
        took.append(timed_ms(partial(straight.call, "complete_episode", episode_id=episode, outcome="success")))
        # An episode lasts longer than it takes to index the one before.
        wait_until_warm(straight)
    latencies = session.call("stats", section="latencies")["latencies"]
    session.close()
    parts = {name: figures["p50_ms"] for name, figures in latencies.items() if name.startswith("episode_") or name == "store_steps"}
    return {"complete_episode_ms": spread(took), "parts_p50_ms": parts}


async def _with_a_model(home: str) -> Figures:
    lessons = json.dumps({"lessons": [{"title": "Check", "description": "for depots", "content": "Run every check before the report."}]})

    def answer(call: Call) -> Reply:
        return Reply(lessons if "response_format" in call.body else "Every check of the depot was run.")

    total, alone, parts = [], [], list[dict[str, float]]()
    # In a thread of its own: the provider's work is not the engine's.
    with _provider(answer) as base_url:
        settings = load_settings(Path(home), llm={"providers": [{"model": "tiny", "base_url": base_url}], "daily_tokens": 10**12})
        async with Engine.open(settings) as engine:
            await engine.warm.wait()
            session = engine.session()
            judge = engine.learner.episodes._judge
            for round_ in range(21):
                task, taken = f"Check the {('east', 'west', 'north', 'south')[round_ % 4]} depot, round {round_}", dict[str, float]()
                logged = await engine.log_steps({"task": task, "steps": [step(number) for number in range(50)]}, session)
                judge._part = partial(_timed_part, taken)  # type: ignore[method-assign]
                began = time.perf_counter()
                await engine.complete_episode({"episode_id": logged.episode_id, "outcome": "success"}, session)
                took = (time.perf_counter() - began) * 1e3
                # An episode lasts longer than it takes to index the one before.
                await engine.indexer.wait(outbox.SINKS, up_to=None, timeout_s=60.0)
                # The same parts, one after the other: each waits for the one before.
                turn, in_turn = asyncio.Lock(), dict[str, float]()
                judge._part = partial(_timed_part, in_turn, turn=turn)  # type: ignore[method-assign]
                again = await engine.log_steps({"task": task, "steps": [step(number) for number in range(50)]}, session)
                began = time.perf_counter()
                await engine.complete_episode({"episode_id": again.episode_id, "outcome": "success"}, session)
                took_in_turn = (time.perf_counter() - began) * 1e3
                await engine.indexer.wait(outbox.SINKS, up_to=None, timeout_s=60.0)
                if round_:  # the first pays for imports and the connection
                    total.append(took)
                    parts.append(taken)
                    alone.append(took_in_turn)
    slowest = [max(one.values()) for one in parts]
    ratios = [whole / most for whole, most in zip(total, slowest, strict=True)]
    return {
        "complete_episode_ms": spread(total),
        "slowest_part_ms": spread(slowest),
        "total_to_slowest": round(statistics.median(ratios), 2),
        "in_sequence_ms": spread(alone),
        "times_faster": round(statistics.median(alone) / statistics.median(total), 2),
    }


async def _timed_part(
    taken: dict[str, float], name: str, work: Awaitable[Any], fallback: Any, problems: dict[str, str], turn: asyncio.Lock | None = None
) -> Any:
    async with turn or contextlib.nullcontext():
        began = time.perf_counter()
        result = await work
        taken[name] = (time.perf_counter() - began) * 1e3
        return result


@contextlib.contextmanager
def _provider(answer: Callable[[Call], Reply], latency_s: float = 0.2) -> Iterator[str]:
    """Serve a language model from a thread; yields its address."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    served = serving(answer=answer, latency_s=latency_s)
    try:
        yield asyncio.run_coroutine_threadsafe(served.__aenter__(), loop).result().base_url
    finally:
        asyncio.run_coroutine_threadsafe(served.__aexit__(None, None, None), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def model(home: str) -> Figures:
    """How long `complete_episode` takes for 50 steps with a language model of 200 ms, side by side and in sequence."""
    return asyncio.run(_with_a_model(home))


PARTS = {"commits": commits, "latency": latency, "kill": kill, "completion": completion, "model": model}


def main() -> None:
    """Run the parts that are asked for, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    for name in parser.parse_args().parts or PARTS:
        with tempfile.TemporaryDirectory(prefix="tracebank-bench-") as home:
            try:
                figures = PARTS[name](home)
            finally:
                run(place(home), "stop")
        print(json.dumps({"part": name, **figures}), flush=True)
        print(f"{name:12} {figures}", file=sys.stderr)


if __name__ == "__main__":
    main()
