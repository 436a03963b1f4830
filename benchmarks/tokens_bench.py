"""Counting tokens: ours against tiktoken, each in a process of its own, on the same vocabulary (nothing is downloaded).

    .venv/bin/python benchmarks/tokens_bench.py [FILE …]

Without files it counts this project's sources and documents. Prints, for o200k_base, what each adds to a process's memory, how long
it takes to load, and the time of the first and of later counts, with the ratio of ours to tiktoken's.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tracebank.reporting import memory_bytes

ROOT = Path(__file__).resolve().parent.parent
ENCODING = "o200k_base"
REPEATS = 5
#: A piece that has to be cut counts some tokens more.
MOST_APART = 1_000
SENTENCE = "The agent opened the file, read the lines and wrote a lesson."


def ours() -> Callable[[str], int]:
    """Load ours."""
    from tracebank.tokens import load_tokenizer

    return load_tokenizer(ENCODING).count


def theirs() -> Callable[[str], int]:
    """Load tiktoken with the same vocabulary."""
    import tiktoken

    from tracebank.tokens import Vocabulary

    shipped = Vocabulary.shipped(ENCODING)
    ranks = {token: shipped.ranks[shipped.tokens[token]] for token in shipped.tokens}
    encoding = tiktoken.Encoding(ENCODING, pat_str=shipped.pattern, mergeable_ranks=ranks, special_tokens={})
    ranks.clear()
    return lambda text: len(encoding.encode_ordinary(text))


def measure(load: Callable[[], Callable[[str], int]], texts: dict[str, str]) -> dict[str, Any]:
    """Return the figures of one of them, in this process."""
    before, began = memory_bytes(), time.perf_counter()
    count = load()
    row: dict[str, Any] = {"load_ms": (time.perf_counter() - began) * 1e3, "tokens": {}, "first_ms": {}, "ms": {}}
    for name, text in texts.items():
        times = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            row["tokens"][name] = count(text)
            times.append((time.perf_counter() - began) * 1e3)
        row["first_ms"][name], row["ms"][name] = times[0], min(times)
    row["memory_mb"] = (memory_bytes() - before) / 2**20
    return row


def texts_of(files: list[Path]) -> dict[str, str]:
    """Return what is counted, by its name."""
    if files:
        return {file.name: file.read_text(encoding="utf-8") for file in files}
    sources = "\n".join(file.read_text(encoding="utf-8") for file in sorted((ROOT / "server").rglob("*.py")))
    documents = "\n".join(file.read_text(encoding="utf-8") for file in sorted(ROOT.glob("*.md")))
    return {
        "a sentence": SENTENCE,
        "a page of 2,000 tokens": documents[:9_000],
        "documents": documents,
        "sources": sources,
        "Chinese, one sentence": "智能体在执行任务时应当记录每一步的结果，并在失败后分析原因。" * 2_000,
        **_strange(random.Random(7)),
    }


def _strange(rng: random.Random) -> dict[str, str]:
    """Return texts in which nearly every piece is new, which is where ours is slowest."""
    han, letters = [chr(point) for point in range(0x4E00, 0x6E00)], "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.choices("etaoinshrdlucmfwypvbgk", k=rng.randrange(2, 10))) for _ in range(20_000)]
    return {
        "20,000 words by chance": " ".join(rng.choices(words, k=100_000)),
        "base64": base64.encodebytes(rng.randbytes(300_000)).decode(),
        "Chinese by chance": "。".join("".join(rng.choices(han, k=rng.randrange(8, 30))) for _ in range(10_000)),
        "letters without a blank": "".join(rng.choices(letters, k=300_000)),
    }


def main() -> None:
    """Measure both, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--only", choices=["ours", "theirs"], help="measure one of them in this process, and print JSON")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure({"ours": ours, "theirs": theirs}[options.only], texts_of(options.files))))
        return
    rows = {}
    for name in ("ours", "theirs"):
        command = [sys.executable, __file__, "--only", name, *map(str, options.files)]
        rows[name] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    mine, other = rows["ours"], rows["theirs"]
    for figure in ("memory_mb", "load_ms"):
        print(f"{figure}: {mine[figure]:.1f}, tiktoken {other[figure]:.1f}")
    print("| text | tokens | first, ms | again, ms | first and again, ratio |\n|---|---|---|---|---|")
    for name, tokens in mine["tokens"].items():
        if abs(tokens - other["tokens"][name]) > tokens / MOST_APART:
            raise SystemExit(f"{name}: {tokens} tokens, but tiktoken counts {other['tokens'][name]}")
        first, again = (f"{mine[key][name]:.3g} / {other[key][name]:.3g}" for key in ("first_ms", "ms"))
        ratios = ", ".join(f"{mine[key][name] / other[key][name]:.1f}" for key in ("first_ms", "ms"))
        print(f"| {name} | {tokens:,} | {first} | {again} | {ratios} |")


if __name__ == "__main__":
    main()
