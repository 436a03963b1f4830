"""What each step of retrieval brings, on data of your own: nDCG@10, recall@5 and recall@10 with and without it.

    python benchmarks/retrieval_ablation.py TRACES.jsonl QUESTIONS.jsonl [TRACES.jsonl QUESTIONS.jsonl …]

TRACES as `tracebank import` takes them, with `trace_id`; QUESTIONS one JSON object a line: {"query": "…", "gold": ["trace_id", …]}.
Each pair is a namespace of its own, all pairs together are one set. Prints a table: each row leaves one step out, the last all of them.
`--data-dir` keeps what was imported, so that the next run begins with the questions.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

from tracebank.engine import Engine
from tracebank.index import field
from tracebank.records import Filters, parse_trace
from tracebank.retrieval import context, fusion, late
from tracebank.settings import load_settings
from tracebank.store import traces

Constant = tuple[ModuleType, str, float]
# A step is left out by taking its share away.
STEPS: Mapping[str, Sequence[Constant]] = {
    "pairs of words": [(field, "PAIR_BOOST", 0.0)],
    "BM25 of the whole trace": [(fusion, "WHOLE_WEIGHT", 0.0)],
    "the task once more": [(fusion, "TASK_WEIGHT", 0.0)],
    "neighbours in time": [(context, "LENDING_TRACES", 0)],
    "word by word": [(late, "READ_TRACES", 0)],
}
ROWS: Mapping[str, Sequence[Constant]] = {
    "all steps": [],
    **{f"without {name}": constants for name, constants in STEPS.items()},
    "none of them": [constant for constants in STEPS.values() for constant in constants],
}
DEPTH = 10
INDEXING_TIMEOUT_S = 3_600.0


@contextmanager
def without(constants: Sequence[Constant]) -> Iterator[None]:
    """Leave steps out."""
    with ExitStack() as stack:
        for module, name, value in constants:
            stack.enter_context(patch.object(module, name, value))
        yield


def measured(ranked: Sequence[str], gold: set[str]) -> tuple[float, float, float]:
    """Return nDCG@10, recall@5 and recall@10 of one question."""
    gains = [1 / math.log2(place + 2) for place, found in enumerate(ranked[:DEPTH]) if found in gold]
    ideal = sum(1 / math.log2(place + 2) for place in range(min(DEPTH, len(gold))))
    return sum(gains) / ideal, *(len(gold.intersection(ranked[:depth])) / len(gold) for depth in (5, DEPTH))


def namespace_of(file: Path) -> str:
    """Return where the traces of a file go: the same for the same file."""
    return f"{file.stem}-{hashlib.blake2b(file.read_bytes(), digest_size=4).hexdigest()}"


async def fill(engine: Engine, files: Sequence[Path]) -> None:
    """Import each file into a namespace of its own, and wait until all is searchable by meaning."""
    await engine.warm.wait()
    for file in files:
        raw = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        parsed = [parse_trace(one, limits=engine.limits, namespace=namespace_of(file), trace_id=one["trace_id"]) for one in raw]
        await engine.add_many(parsed)
    await engine.indexer.wait(("words", "vectors"), up_to=None, timeout_s=INDEXING_TIMEOUT_S)


async def figures(engine: Engine, files: Sequence[Path]) -> list[float]:
    """Return the mean of each metric over the questions of all files."""
    found: list[tuple[float, float, float]] = []
    for traces_file, questions_file in zip(files[::2], files[1::2], strict=True):
        space = engine.spaces[namespace_of(traces_file)]
        for line in questions_file.read_text(encoding="utf-8").splitlines():
            asked = json.loads(line)
            searched = await engine.retriever.search([asked["query"]], [space], Filters())
            rows = [ranked.row for ranked in searched.ranking[:DEPTH]]
            stored = await engine.store.read(lambda db, rows=rows: traces.load(db, rows))
            found.append(measured([stored[row].trace.trace_id for row in rows], set(asked["gold"])))
    return [statistics.mean(column) for column in zip(*found, strict=True)]


async def main(files: Sequence[Path], data_dir: Path | None) -> None:
    """Fill an engine once, and ask everything once for each row."""
    with tempfile.TemporaryDirectory(prefix="tracebank-ablation-", ignore_cleanup_errors=True) as home:
        async with Engine.open(load_settings(data_dir or Path(home))) as engine:
            await fill(engine, files[::2])
            print("| | nDCG@10 | recall@5 | recall@10 |\n|---|---|---|---|")
            for name, constants in ROWS.items():
                with without(constants):
                    print(f"| {name} | {' | '.join(f'{figure:.4f}' for figure in await figures(engine, files))} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--data-dir", type=Path, help="where to keep what was imported; else it is deleted at the end")
    chosen = parser.parse_args()
    if len(chosen.files) % 2:
        parser.error("give pairs of files: traces, questions")
    asyncio.run(main(chosen.files, chosen.data_dir))
