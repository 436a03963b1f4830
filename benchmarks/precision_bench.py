"""What int8 costs: nDCG@10, recall@5 and recall@10 of the whole of retrieval in each precision, on data of your own.

    python benchmarks/precision_bench.py TRACES.jsonl QUESTIONS.jsonl [TRACES.jsonl QUESTIONS.jsonl …]

The files are those of `retrieval_ablation.py`. Each precision has an engine and a directory of its own; `--models` names the
directory of an export that is there already. Embedding all of it twice takes its time.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

from retrieval_ablation import figures, fill

from tracebank.engine import Engine
from tracebank.settings import load_settings

PRECISIONS = ("fp32", "int8")


async def row(precision: str, files: Sequence[Path], models: Path | None) -> list[float]:
    """Return the figures of one precision. Raises: ModelLoadError where the model has none of it."""
    wanted = {"engine": "onnx", "precision": precision, **({"cache_dir": str(models)} if models else {})}
    with tempfile.TemporaryDirectory(prefix="tracebank-precision-", ignore_cleanup_errors=True) as home:
        async with Engine.open(load_settings(Path(home), embedding=wanted)) as engine:
            await engine.embedding.loaded()
            await fill(engine, files[::2])
            return await figures(engine, files)


async def main(files: Sequence[Path], models: Path | None) -> None:
    """Print a row for each precision, and the difference."""
    print("| | nDCG@10 | recall@5 | recall@10 |\n|---|---|---|---|")
    found: list[list[float]] = []
    for precision in PRECISIONS:
        found.append(await row(precision, files, models))
        print(f"| {precision} | {' | '.join(f'{figure:.4f}' for figure in found[-1])} |", flush=True)
    print(f"| difference | {' | '.join(f'{other - one:+.4f}' for one, other in zip(*found, strict=True))} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--models", type=Path, help="directory with an export of the model; else it is exported for each")
    chosen = parser.parse_args()
    if len(chosen.files) % 2:
        parser.error("give pairs of files: traces, questions")
    asyncio.run(main(chosen.files, chosen.models))
