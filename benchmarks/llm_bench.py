"""The language-model client against simpler ways, in one run, over TLS on loopback.

    .venv/bin/python benchmarks/llm_bench.py [--latency-ms 50] [--calls 100] [--http2] > figures.jsonl

`faults` meets each fault once in each protocol, with a second provider behind the first: what was sent, and who answered.

The provider is a local server, for the times in a process of its own. `pooled`: one client for all calls; `per_call`: the same client
made and closed for every call. The rest of a call (reservation and settlement on disk, counting, checking) is in both.
Each way runs `--rounds` times, in turns, and the medians are compared. Needs the development extras.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from tracebank.llm import Completion, LlmClient, Request, Spending, World
from tracebank.metrics import Metrics
from tracebank.settings import LlmSettings
from tracebank.store import Store
from tracebank.tokens import load_tokenizer

PROVIDER = Path(__file__).parents[1] / "tests" / "llm" / "provider.py"
sys.path.insert(0, str(PROVIDER.parent))
from provider import Meeting, Raw, Refusal, Reply, Reset, Slow, Status, Truncated, serving  # noqa: E402 - the tests are no package

Run = Callable[[], Awaitable[None]]


@contextmanager
def local_provider(args: argparse.Namespace) -> Iterator[dict[str, str]]:
    """Serve from a process of its own; yields the settings of the provider."""
    command = [sys.executable, str(PROVIDER), "--tls", "--latency-ms", str(args.latency_ms), *(["--http2"] if args.http2 else [])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        yield {"model": "tiny", **json.loads(child.stdout.readline())}
        child.communicate()


class Clients:
    """Makes clients that share one store, as those of one engine do."""

    def __init__(self, store: Store, provider: dict[str, str]) -> None:
        self._settings = LlmSettings.model_validate({"providers": [provider], "daily_tokens": 10**12})
        spending = Spending(store, daily_tokens=10**12, daily_usd=1.0, clock=time.time)
        self._world = World(spending=spending, metrics=Metrics(), tokenizer=load_tokenizer("o200k_base"), compress=None, environ={})

    @asynccontextmanager
    async def one(self) -> AsyncIterator[LlmClient]:
        """Yield a client with no connection yet."""
        client = LlmClient(self._settings, self._world)
        try:
            yield client
        finally:
            await client.close()


def _requests(number: int) -> list[Request]:
    return [Request(prompt=f"question {i}", fresh=True) for i in range(number)]


def _check(results: list[Any]) -> None:
    assert all(isinstance(result, Completion) for result in results), results


async def _compared(ways: dict[str, Run], rounds: int) -> dict[str, float]:
    """Return each way's median time in seconds. In turns, so that a busy machine is busy for all."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            began = time.perf_counter()
            await run()
            taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in taken.items()}


async def pooled_or_not(clients: Clients, args: argparse.Namespace, concurrency: int) -> dict[str, Any]:
    """Calls through one client, and through a client for each."""

    async def pooled() -> None:
        async with clients.one() as client:
            _check(await client.batch_query(_requests(args.calls), concurrency=concurrency))

    async def per_call() -> None:
        turns = asyncio.Semaphore(concurrency)

        async def ask(request: Request) -> Completion:
            async with turns, clients.one() as client:
                return await client.query(request)

        _check(await asyncio.gather(*(ask(request) for request in _requests(args.calls))))

    s = await _compared({"pooled": pooled, "per_call": per_call}, args.rounds)
    rates = {f"{name}_per_s": round(args.calls / taken, 1) for name, taken in s.items()}
    return {
        "bench": "pooled_or_not",
        "concurrency": concurrency,
        "calls": args.calls,
        **rates,
        "ratio": round(s["per_call"] / s["pooled"], 2),
    }


async def batch_or_not(clients: Clients, args: argparse.Namespace) -> dict[str, Any]:
    """Twenty questions, ten at a time, and one after the other."""
    async with clients.one() as client:
        await client.query(_requests(1)[0])

        async def batch() -> None:
            _check(await client.batch_query(_requests(20), concurrency=10))

        async def in_sequence() -> None:
            _check([await client.query(request) for request in _requests(20)])

        s = await _compared({"batch": batch, "in_sequence": in_sequence}, args.rounds)
    taken = {f"{name}_ms": round(taken * 1e3, 1) for name, taken in s.items()}
    return {"bench": "batch_or_not", "concurrency": 10, "calls": 20, **taken, "ratio": round(s["in_sequence"] / s["batch"], 2)}


PROTOCOLS = ("chat", "responses", "messages")
SCHEMA = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"], "additionalProperties": False}
FAULTS: dict[str, Meeting] = {
    "429 with Retry-After": Status(429, {"retry-after": "1"}),
    "429 with Retry-After of an hour": Status(429, {"retry-after": "3600"}),
    "500": Status(500),
    "503": Status(503),
    "reset in mid-body": Reset(),
    "slow bytes": Slow(),
    "invalid JSON": Raw(b"{nope"),
    "truncated JSON": Truncated(),
    "wrong schema": Reply('{"name": 1}'),
    "refusal": Refusal(),
    "empty content": Reply(""),
}


async def fault(store: Store, name: str, protocol: str) -> dict[str, Any]:
    """Meet one fault once, then always: a retry answers the first time, the next provider the second."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(round(seconds, 2))

    async with serving(answer=lambda _: Reply('{"title": "x"}')) as first, serving(answer=lambda _: Reply('{"title": "x"}')) as second:
        about = {"model": "tiny", "protocol": protocol}
        providers = [{**about, "name": "first", "base_url": first.base_url}, {**about, "name": "second", "base_url": second.base_url}]
        settings = LlmSettings.model_validate({"providers": providers, "attempt_timeout_s": 0.3, "attempts": 3, "breaker_failures": 99})
        spending = Spending(store, daily_tokens=10**12, daily_usd=1.0, clock=time.time)
        client = LlmClient(
            settings,
            World(spending=spending, metrics=Metrics(), tokenizer=load_tokenizer("o200k_base"), compress=None, environ={}, sleep=sleep),
        )
        request = Request(prompt="lesson", schema=SCHEMA, fresh=True)
        first.meets(FAULTS[name])
        once = await client.query_with_fallback(request)
        sent, pauses_s = len(first.calls) + len(second.calls), list(slept)
        first.meets(*[FAULTS[name]] * 3)
        always = await client.query_with_fallback(request)
        await client.close()
    return {
        "bench": "faults", "fault": name, "protocol": protocol,
        "once": once.provider, "sent": sent, "pauses_s": pauses_s, "always": always.provider,
    }  # fmt: skip


async def _main(args: argparse.Namespace) -> None:
    with local_provider(args) as provider, tempfile.TemporaryDirectory() as directory:
        store = Store.open(Path(directory, "bench.sqlite3"))
        try:
            clients = Clients(store, provider)
            async with clients.one() as client:
                # Imports are paid once a process, by whichever way comes first.
                await client.query(_requests(1)[0])
            for concurrency in (1, 10):
                show(await pooled_or_not(clients, args, concurrency))
            show(await batch_or_not(clients, args))
            for name in FAULTS:
                for protocol in PROTOCOLS:
                    show(await fault(store, name, protocol))
        finally:
            store.close()


def show(figures: dict[str, Any]) -> None:
    """Print a line for programs, and one for people."""
    print(json.dumps(figures), flush=True)
    print("  ".join(f"{name} {value}" for name, value in figures.items()), file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency-ms", type=float, default=50.0)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--http2", action="store_true")
    asyncio.run(_main(parser.parse_args()))
