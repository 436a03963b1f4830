"""What keeping answers brings: a log of questions replayed, popular ones more often (Zipf), with the cache and without.

    python benchmarks/cache_bench.py [TRACES.jsonl QUESTIONS.jsonl] [--asks 2000] [--seed 7]

TRACES as `tracebank import` takes them; QUESTIONS one JSON object a line: {"query": "…", "namespace": "…"}. Without files both are
generated. One engine in this process: what is timed is `engine.retrieve`. Prints a table; "hit against miss" is the ratio of the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _clients import spread

from tracebank.engine import Engine
from tracebank.records import parse_trace
from tracebank.settings import load_settings

INDEXING_TIMEOUT_S = 3_600.0
WRITE_EVERY = 50
GENERATED = 200
WORDS = "upload deploy cache index timeout retry parser schema migration token worker queue socket lock build test image report".split()


def generated(rng: random.Random) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return traces and questions of five namespaces, each question in words of a trace."""
    traces, questions = [], []
    for number in range(GENERATED):
        task = f"{' '.join(rng.sample(WORDS, 5))} in service {number % 40}"
        traces.append(
            {"task": task, "content": ". ".join(" ".join(rng.choices(WORDS, k=12)) for _ in range(8)), "namespace": f"p{number % 5}"}
        )
        questions.append({"query": f"how did the {task} end", "namespace": f"p{number % 5}"})
    return traces, questions


def zipf(questions: Sequence[Mapping[str, Any]], asks: int, rng: random.Random) -> list[Mapping[str, Any]]:
    """Return a log in which the question of rank r is asked with a weight of 1/r."""
    ranked = rng.sample(list(questions), len(questions))
    return rng.choices(ranked, [1 / rank for rank in range(1, len(ranked) + 1)], k=asks)


async def fill(engine: Engine, traces: Sequence[dict[str, Any]]) -> None:
    """Store the traces and wait until all is searchable by meaning."""
    await engine.warm.wait()
    checked = [parse_trace(one, limits=engine.limits, namespace="default", trace_id=f"t{n}") for n, one in enumerate(traces)]
    await engine.add_many(checked)
    await engine.indexer.wait(("words", "vectors"), up_to=None, timeout_s=INDEXING_TIMEOUT_S)


def forget_answers(engine: Engine) -> None:
    """Empty all levels, and the vectors of questions, too."""
    engine.asking.answers.forget(lambda asked: True)
    engine.embedding.cache.clear()


class Replay:
    """Asks what a log says and notes how long each took, hits and misses apart."""

    def __init__(self, engine: Engine, rng: random.Random) -> None:
        self._engine, self._rng = engine, rng
        self.hits_ms: list[float] = []
        self.misses_ms: list[float] = []

    async def run(self, log: Sequence[Mapping[str, Any]], *, cached: bool = True, writes: bool = False, warmed: bool = False) -> Replay:
        """Replay a log; with `writes` one trace is stored every so often, with `warmed` idle time follows it."""
        engine, session = self._engine, self._engine.session()
        for number, question in enumerate(log):
            if not cached:
                forget_answers(engine)
            if writes and number % WRITE_EVERY == WRITE_EVERY - 1:
                await engine.add({"task": f"{' '.join(self._rng.sample(WORDS, 4))} {number}", "namespace": question["namespace"]}, session)
                await engine.indexer.wait(("words", "vectors"), up_to=None, timeout_s=INDEXING_TIMEOUT_S)
                if warmed:
                    await engine.asking.warmer.prepare()
            before = engine.asking.answers.kept.counts.hits
            began = time.perf_counter()
            await engine.retrieve({"query": question["query"], "namespace": question["namespace"]}, session)
            elapsed_ms = (time.perf_counter() - began) * 1e3
            (self.hits_ms if engine.asking.answers.kept.counts.hits > before else self.misses_ms).append(elapsed_ms)
        return self

    def row(self, name: str) -> str:
        """Return the row of the table."""
        hits, misses = (spread(values) if values else None for values in (self.hits_ms, self.misses_ms))
        every = self.hits_ms + self.misses_ms
        shown = [f"{figures['p50']:.3f} / {figures['p95']:.3f}" if figures else "–" for figures in (hits, misses)]
        ratio = f"{_median(self.misses_ms) / _median(self.hits_ms):,.0f}" if hits and misses else "–"
        return f"| {name} | {len(self.hits_ms) / len(every):.1%} | {sum(every) / len(every):.2f} | {' | '.join(shown)} | {ratio} |"


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


async def main(files: Sequence[Path], asks: int, seed: int) -> None:
    """Fill an engine, replay the log in several ways, start the engine again and ask on."""
    rng = random.Random(seed)
    traces, questions = (_rows(file) for file in files) if files else generated(rng)
    log = zipf(questions, asks, rng)
    distinct = len({json.dumps(question) for question in log})
    print(f"{len(traces)} traces, {asks} asks of {distinct} questions, Zipf 1.0, seed {seed}\n")
    print("| | hit rate | mean, ms | hit, p50 / p95 ms | miss, p50 / p95 ms | hit against miss |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="tracebank-cache-", ignore_cleanup_errors=True) as home:
        # Idle time comes when the benchmark says so.
        settings = load_settings(Path(home), cache={"idle_s": 80_000.0})
        async with Engine.open(settings) as engine:
            await fill(engine, traces)
            print((await Replay(engine, rng).run(log[: asks // 4], cached=False)).row("without"), flush=True)
            forget_answers(engine)
            print((await Replay(engine, rng).run(log)).row("with"), flush=True)
            print((await Replay(engine, rng).run(log)).row("with, the same log again"), flush=True)
            began = time.perf_counter()
        closing_ms = (time.perf_counter() - began) * 1e3
        began = time.perf_counter()
        async with Engine.open(settings) as engine:
            opening_ms = (time.perf_counter() - began) * 1e3
            print((await Replay(engine, rng).run(log)).row("right after a restart, model not awaited"), flush=True)
            size_bytes = sum(engine.asking.keeper.report().values())
            await engine.warm.wait()
            for name, warmed in ((f"a write every {WRITE_EVERY} asks", False), ("… and idle time after it", True)):
                forget_answers(engine)
                print((await Replay(engine, rng).run(log, writes=True, warmed=warmed)).row(name), flush=True)
            figures, warmer = engine.asking.answers.report()["results"], engine.asking.warmer.report()
            print(f"\nOn disk {size_bytes / 1e6:.1f} MB; closing took {closing_ms:.0f} ms, opening {opening_ms:.0f} ms.")
            print(f"In memory {figures['bytes'] / 1e6:.1f} of {figures['limit_bytes'] / 1e6:.1f} MB; warmer: {warmer}")


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--asks", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=7)
    chosen = parser.parse_args()
    if len(chosen.files) not in (0, 2):
        parser.error("give two files, traces and questions, or none")
    asyncio.run(main(chosen.files, chosen.asks, chosen.seed))
