"""What int8 costs: nDCG@10, recall@5 and recall@10 of the whole of retrieval in each precision, on data of your own.

Where torch sees an accelerator two rows more: all on it, in half precision, and (auto) what the engine does, documents on it and
questions on the processor. Beside the figures, how long embedding and indexing took.

    python benchmarks/precision_bench.py TRACES.jsonl QUESTIONS.jsonl [TRACES.jsonl QUESTIONS.jsonl …]

The files are those of `retrieval_ablation.py`. Each precision has an engine and a directory of its own; `--models` names the
directory of an export that is there already. Embedding all of it twice takes its time.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from retrieval_ablation import figures, fill

from tracebank.embedding.sentence import seen_accelerator
from tracebank.engine import Engine
from tracebank.settings import load_settings

PROCESSOR = ("fp32", "int8")


def accelerators() -> list[str]:
    """Return the devices to be measured where torch sees more than the processor."""
    return [there, "auto"] if (there := seen_accelerator()) else []


async def row(precision: str, files: Sequence[Path], models: Path | None) -> tuple[list[float], float]:
    """Return the figures of one precision, and the seconds of the import. Raises: ModelLoadError where the model has none of it."""
    wanted = {"engine": "onnx", "device": "cpu", "precision": precision} if precision in PROCESSOR else {"device": precision}
    wanted |= {"cache_dir": str(models)} if models else {}
    with tempfile.TemporaryDirectory(prefix="tracebank-precision-", ignore_cleanup_errors=True) as home:
        async with Engine.open(load_settings(Path(home), embedding=wanted)) as engine:
            await engine.embedding.loaded()
            started = time.perf_counter()
            await fill(engine, files[::2])
            taken_s = time.perf_counter() - started
            return await figures(engine, files), taken_s


async def main(files: Sequence[Path], models: Path | None) -> None:
    """Print a row for each precision, and the difference."""
    print("| | nDCG@10 | recall@5 | recall@10 | import, s |\n|---|---|---|---|---|")
    first: list[float] = []
    for precision in (*PROCESSOR, *accelerators()):
        found, taken_s = await row(precision, files, models)
        print(f"| {precision} | {' | '.join(f'{figure:.4f}' for figure in found)} | {taken_s:.0f} |", flush=True)
        first = first or found
        print(f"| … less fp32 | {' | '.join(f'{one - other:+.4f}' for one, other in zip(found, first, strict=True))} | |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--models", type=Path, help="directory with an export of the model; else it is exported for each")
    chosen = parser.parse_args()
    if len(chosen.files) % 2:
        parser.error("give pairs of files: traces, questions")
    asyncio.run(main(chosen.files, chosen.models))
