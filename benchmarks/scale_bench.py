"""How the engine does at 1 thousand to 1 million chunks: build, disk, memory, latency with and without filters, recall.

    .venv/bin/python benchmarks/scale_bench.py --chunks 1000 100000 [--compression off|auto|N] [--keep DIRECTORY]

The traces are generated and their vectors synthetic (`_corpus`), but all goes through the product: stored by it, indexed by
its indexer, asked through the engine with the real model, each question for the first time. Beside the large namespace lie 200
small ones of 51 chunks. Recall@10 of the search by meaning is against an exact search of everything. Then a fifth of the
namespace is deleted and another fifth written anew, and recall is measured again. Each size has processes of its own, so that
memory is what it alone takes. Ratios are of the time computed, to the search without a filter at the
first size.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _corpus import BLOCK, CHUNKS_PER_TRACE, block_of_vectors, exact_top, questions, some_questions, traces_of

from tracebank import memory
from tracebank.chunking import text_hash
from tracebank.engine import Engine
from tracebank.meaning import Meaning
from tracebank.records import Filters
from tracebank.reporting import memory_bytes
from tracebank.reporting import report as report_of
from tracebank.scores import chunk_number
from tracebank.settings import Settings, load_settings
from tracebank.store import outbox, traces, vectors

LARGE, SMALL = "large", 200
SMALL_CHUNKS = 51
ASKED = 60
TOKENS = 24
PROBES = 100
# What is compared with itself at the first size; all else with the search without a filter.
ALONE = ("embedding alone",)
FILTERS: dict[str, dict[str, Any]] = {
    "no filter": {}, "tag, 1%": {"tags": ["rare"]}, "tag, 20%": {"tags": ["common"]}, "metadata, 2%": {"metadata": {"group": 7}},
    "outcome, 33%": {"outcome": "success"}, "since, 1%": {"since": 0.99}, "since, 20%": {"since": 0.8},
}  # fmt: skip


def settings_of(directory: Path, compression: str) -> Settings:
    """Return the settings of the engine; models are kept outside, so that disk is the data's."""
    index: dict[str, Any] = {"linger_ms": 0}
    if compression != "default":
        index["compression"] = int(compression) if compression.isdigit() else compression
    return load_settings(
        directory, index=index, embedding={"cache_dir": str(directory.parent / "models")}, cache={"results": 0},
        log_level="error",
    )  # fmt: skip


async def store_block(engine: Engine, model: int, block: int, chunks: int, namespace: str, *, drawn: int | None = None) -> None:
    """Store one block's traces with their vectors, as if the model had made them; the indexer finds them there."""
    made = list(traces_of(block, chunks, namespace))
    if drawn is not None:
        made = [(replace(t, trace_id=f"{namespace}-{t.trace_id}"), cut) for t, cut in made]
    rows = block_of_vectors(block, chunks)
    hashes = [text_hash(chunk.text) for _, cut in made for chunk in cut]
    codes = np.random.default_rng(block).integers(256, size=(TOKENS, 32), dtype=np.uint8)

    def write(db: Any) -> None:
        for trace, cut in made:
            traces.upsert(db, trace, cut, now_ms=engine.now_ms(), priority=outbox.BULK)
        vectors.put(db, model, dict(zip(hashes, rows, strict=False)))
        vectors.put_tokens(db, model, dict.fromkeys(hashes, codes))

    await engine.store.write(write)
    engine.spaces = await engine.store.read(traces.namespace_ids)


async def indexed(engine: Engine, started: float) -> None:
    """Wait until everything is in both indexes."""
    while not await engine.indexer.wait(outbox.SINKS, up_to=None, timeout_s=60, hurry=False):
        left = await engine.store.read(lambda db: {sink: outbox.waiting(db, sink) for sink in outbox.SINKS})
        print(f"  {time.perf_counter() - started:.0f} s: to index {left}", file=sys.stderr, flush=True)


async def build(directory: Path, chunks: int, compression: str) -> dict[str, Any]:
    """Store and index everything."""
    async with Engine.open(settings_of(directory, compression)) as engine:
        await engine.warm.wait()
        model = engine.retriever.dense.model_id
        started = time.perf_counter()
        for block in range(-(-chunks // BLOCK)):
            await store_block(engine, model, block, chunks, LARGE)
        for i in range(SMALL if chunks > BLOCK else 0):
            await store_block(engine, model, 0, SMALL_CHUNKS, f"small-{i}", drawn=i)
        stored = time.perf_counter() - started
        engine.indexer.notify()
        await indexed(engine, started)
        await settle(engine)
        return {"stored_s": round(stored, 1), "indexed_s": round(time.perf_counter() - started, 1)}


async def settle(engine: Engine) -> None:
    """Wait until the background has nothing more to do to the index of vectors."""
    assert engine.vectors is not None
    await engine.semantics.compaction.look(Meaning(engine.vectors, engine.embedding, engine.retriever.dense.model_id))


def milliseconds(times: list[tuple[float, float]]) -> dict[str, float]:
    """Return p50 and p95 of (elapsed, computed) seconds, in milliseconds; `cpu_ms` is what others on the machine do not change."""
    ordered = sorted(elapsed for elapsed, _ in times)
    return {
        "p50_ms": round(ordered[len(ordered) // 2] * 1e3, 2), "p95_ms": round(ordered[int(len(ordered) * 0.95)] * 1e3, 2),
        "cpu_ms": round(sorted(computed for _, computed in times)[len(times) // 2] * 1e3, 2),
    }  # fmt: skip


async def ask(engine: Engine, kinds: Mapping[str, tuple[str, Mapping[str, Any]]], count: int) -> dict[str, dict[str, float]]:
    """Ask so many questions of each kind (namespace, arguments), the kinds in turn; return p50, p95 and time computed.

    Each question is new, also to other runs: vectors of questions outlive an engine.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in (*kinds, "embedding alone")}
    session, asked = engine.session(LARGE), iter(some_questions(count * (len(kinds) + 1), time.time_ns() % 2**31))
    for _ in range(count):
        for name, (namespace, arguments) in kinds.items():
            started, computed = time.perf_counter(), time.process_time()
            await engine.retrieve({"query": next(asked), "namespace": namespace, **arguments}, session)
            times[name].append((time.perf_counter() - started, time.process_time() - computed))
        started, computed = time.perf_counter(), time.process_time()
        await engine.embedding.read_questions([next(asked)])
        times["embedding alone"].append((time.perf_counter() - started, time.process_time() - computed))
    return {name: milliseconds(each[count // 10 :]) for name, each in times.items()}


async def recall(engine: Engine, chunks: int, gone: set[int], filters: Filters | None = None) -> float:
    """Return the share of the exact nearest 10 that a search by meaning finds, before fusion."""
    asked = questions(PROBES, chunks)
    exact = exact_top(asked, chunks, 10, sorted(gone))
    space, dense, candidates = engine.spaces[LARGE], engine.retriever.dense, engine.settings.retrieval.candidates
    assert dense is not None
    first = await engine.store.read(lambda db: db.execute("SELECT min(id) FROM traces WHERE namespace_id = ?", (space,)).fetchone()[0])
    hits = 0
    for question, numbers in zip(asked, exact, strict=True):
        wanted = {chunk_number(first_row(first, gone) + int(n) // CHUNKS_PER_TRACE, int(n) % CHUNKS_PER_TRACE) for n in numbers}
        found = (await asyncio.to_thread(dense.nearest, space, question, filters or Filters(), candidates)).cosines
        hits += len(wanted & set(found.numbers[np.argsort(-found.values)[:10]].tolist()))
    return round(hits / (10 * PROBES), 4)


def first_row(first: int, gone: set[int]) -> int:
    """Return the row that the first trace has or had."""
    return first if not gone or 0 not in gone else 1


async def query(directory: Path, chunks: int, compression: str) -> dict[str, Any]:
    """Measure a fresh engine on what was built."""
    async with Engine.open(settings_of(directory, compression)) as engine:
        await engine.warm.wait()
        # The model's own memory and the store's cache come first, in a small namespace.
        small = "small-0" if chunks > BLOCK else LARGE
        await ask(engine, {"": (small, {})}, 30)
        before = memory_bytes()
        await ask(engine, {"": (LARGE, {})}, 20)
        figures: dict[str, Any] = {"memory_mb": round(memory_bytes() / 1e6), "index_memory_mb": round((memory_bytes() - before) / 1e6)}
        kinds = {name: (LARGE, since(filters, chunks)) for name, filters in FILTERS.items()}
        if chunks > BLOCK:
            kinds["a small namespace"] = ("small-7", {})
        figures |= await ask(engine, kinds, ASKED)
        if chunks > BLOCK:
            figures |= {"all 201 namespaces": (await ask(engine, {"all": ("*", {})}, 10))["all"]}
        figures["recall@10"] = await recall(engine, chunks, set())
        figures["memory_after_mb"] = round(memory_bytes() / 1e6)
        return figures


async def compact(directory: Path, chunks: int, compression: str) -> dict[str, Any]:
    """Bring a kept directory to another `--compression`."""
    async with Engine.open(settings_of(directory, compression)) as engine:
        await engine.warm.wait()
        started, computed = time.perf_counter(), time.process_time()
        await settle(engine)
        took = {"compacted_s": round(time.perf_counter() - started, 1), "compacted_cpu_s": round(time.process_time() - computed, 1)}
        return {**took, **(await report_of(engine, "index"))["index"]["short_vectors"].get(LARGE, {})}


def since(filters: Mapping[str, Any], chunks: int) -> dict[str, Any]:
    """Return the filters with a share of the time in place of itself."""
    if "since" not in filters:
        return dict(filters)
    moment = time.gmtime(1_790_000_000 + filters["since"] * (chunks // CHUNKS_PER_TRACE) * 60)
    return {"since": time.strftime("%Y-%m-%dT%H:%M:%SZ", moment)}


async def change(directory: Path, chunks: int, compression: str) -> dict[str, Any]:
    """Delete a fifth, write another fifth anew (deleted and stored again, same vectors), and measure recall."""
    async with Engine.open(settings_of(directory, compression)) as engine:
        await engine.warm.wait()
        chance = random.Random(5)
        count = chunks // CHUNKS_PER_TRACE
        # The first trace stays, so that rows can be counted from it.
        drawn = chance.sample(range(1, count), 2 * (count // 5))
        deleted, anew = drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]
        space = engine.spaces[LARGE]
        sql = "SELECT id FROM traces WHERE namespace_id = ? ORDER BY id"
        rows = [row for (row,) in await engine.store.read(lambda db: db.execute(sql, (space,)).fetchall())]
        started = time.perf_counter()
        for i in range(0, len(deleted), 2_000):
            part = [rows[n] for n in deleted[i : i + 2_000]]
            await engine.store.write(lambda db, part=part: traces.delete(db, part))
        for i in range(0, len(anew), 2_000):
            part = [rows[n] for n in anew[i : i + 2_000]]
            await engine.store.write(lambda db, part=part: rewrite(db, part))
        engine.indexer.notify()
        await indexed(engine, started)
        await settle(engine)
        took = time.perf_counter() - started
        gone = {n * CHUNKS_PER_TRACE + i for n in deleted for i in range(CHUNKS_PER_TRACE)}
        return {"changed_s": round(took, 1), "recall@10 after": await recall(engine, chunks, gone)}


def rewrite(db: Any, rows: list[int]) -> None:
    """Queue traces as an update does: every text may have to go, and comes again."""
    for row in rows:
        hashes = [h for (h,) in db.execute("SELECT text_hash FROM chunks WHERE trace = ?", (row,))]
        (space,) = db.execute("SELECT namespace_id FROM traces WHERE id = ?", (row,)).fetchone()
        outbox.put(db, row, space, stale_texts=hashes, priority=outbox.BULK)


def disk(directory: Path) -> dict[str, float]:
    """Return megabytes by part."""
    parts = {"store": "tracebank.sqlite3*", "vectors": "index/vectors*/**/*", "words": "index/words/**/*"}
    return {name: round(sum(p.stat().st_size for p in directory.glob(glob) if p.is_file()) / 1e6, 1) for name, glob in parts.items()}


def measure(chunks: int, home: Path, compression: str, phase: str) -> dict[str, Any]:
    """Run a phase in a process of its own."""
    directory = home / f"scale-{chunks}"
    command = [sys.executable, __file__, "--phase", phase, "--chunks", str(chunks), "--home", str(directory), "--compression", compression]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OPENBLAS_NUM_THREADS": "1"}  # as the engine's process
    done = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=True, env=environment)
    figures = json.loads(done.stdout.splitlines()[-1])
    if phase != "query":
        figures[f"disk after {phase}, MB"] = disk(directory)
    print(json.dumps({"chunks": chunks, **figures}), file=sys.stderr, flush=True)
    return dict(figures)


def quieter(former: Any, latter: Any) -> Any:
    """Return the lower of two measurements of the same: on a machine that is shared others only make it slower."""
    both = isinstance(former, dict) and isinstance(latter, dict) and "p50_ms" in former
    return {name: min(value, latter[name]) for name, value in former.items()} if both else latter


def report(results: list[dict[str, Any]]) -> None:
    """Print a table, and each p50 over that of the first size."""
    names = [name for name in results[-1] if name != "chunks"]
    print("\n| | " + " | ".join(f"{r['chunks']:,} chunks" for r in results) + " |\n|---|" + "---|" * len(results))
    for name in names:
        cells = []
        for result in results:
            value = result.get(name, "")
            if isinstance(value, dict) and "p50_ms" in value:
                base = results[0][name if name in ALONE else "no filter"]["cpu_ms"]
                value = f"{value['p50_ms']} / {value['p95_ms']} ms, {value['cpu_ms']} ms of CPU ({value['cpu_ms'] / base:.2f}×)"
            elif isinstance(value, dict):
                value = ", ".join(f"{part} {size:,}" for part, size in value.items())
            cells.append(str(value))
        print(f"| {name} | " + " | ".join(cells) + " |")


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--compression", default="default")
    parser.add_argument("--keep", type=Path, help="where the data goes, and stays; default: a temporary directory")
    parser.add_argument(
        "--phases", nargs="+", default=["build", "query", "change"], help="those to run, also compact; a kept directory can be asked again"
    )
    parser.add_argument("--repeat", type=int, default=3, help="how often the sizes are asked in turn; the quietest is reported")
    parser.add_argument("--phase", help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    if options.phase:
        memory.share_one_arena()  # as the engine's process does
        phase = {"build": build, "compact": compact, "query": query, "change": change}[options.phase]
        print(json.dumps(asyncio.run(phase(options.home, options.chunks[0] // 3 * 3, options.compression))))
        return
    home = options.keep or Path(tempfile.mkdtemp(prefix="tracebank-scale-"))
    home.mkdir(parents=True, exist_ok=True)
    sizes = [chunks // CHUNKS_PER_TRACE * CHUNKS_PER_TRACE for chunks in options.chunks]
    results: dict[int, dict[str, Any]] = {chunks: {"chunks": chunks} for chunks in sizes}
    try:
        for phase in options.phases:
            for _ in range(options.repeat if phase == "query" else 1):
                for chunks in sizes:
                    found = measure(chunks, home, options.compression, phase)
                    results[chunks] |= {name: quieter(results[chunks].get(name), value) for name, value in found.items()}
        report(list(results.values()))
    finally:
        if options.keep is None:
            shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
