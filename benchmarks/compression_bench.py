"""How much shorter prompts become, and what survives.

    python benchmarks/compression_bench.py prompts
    python benchmarks/compression_bench.py answers FILE

`prompts` shortens the realistic agent prompts beside this file with the lossless steps alone. `answers` takes JSON Lines of
{"question", "answers", "context"} (plain or gzip) and compares extraction with head, tail, head and tail, random sentences and
sentences by BM25: the share of contexts in which an answer survives, the tokens kept, and the time. One JSON line a row.
The model is not used unless `--model DIRECTORY` names where its export is, or may be made.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken

from tracebank.compression import compress
from tracebank.compression.extract.relevance import Meaning
from tracebank.compression.extract.units import split_units
from tracebank.compression.extract.words import Bag, bm25, rarity
from tracebank.compression.pipeline import LOSSLESS, shortened
from tracebank.index.words import query_terms
from tracebank.tokens import Tokenizer
from tracebank.tokens.exact import TiktokenTokenizer

RATIOS = (2, 4, 8)
Method = Callable[[dict[str, Any], int], str]


def prompts(tokenizer: Tokenizer) -> None:
    """Print what each lossless step saves on each prompt."""
    for path in sorted((Path(__file__).parent / "prompts").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        draft, reports = shortened(text, LOSSLESS, tokenizer)
        before = tokenizer.count(text)
        saved = {report.name: report.tokens_before - report.tokens_after for report in reports}
        print(
            json.dumps({"prompt": path.stem, "tokens": before, "left": draft.tokens, "saved": round(1 - draft.tokens / before, 3)} | saved)
        )


def answers(rows: Sequence[dict[str, Any]], tokenizer: Tokenizer, meaning: Meaning | None) -> None:
    """Print, for each method and ratio, how often an answer survives."""
    for name, method in _methods(tokenizer, meaning).items():
        for ratio in RATIOS:
            kept, left, times_ms = [], [], []
            for row in rows:
                total = tokenizer.count(row["context"])
                began = time.perf_counter()
                text = method(row, total // ratio)
                times_ms.append((time.perf_counter() - began) * 1e3)
                tokens = tokenizer.count(text)
                assert tokens <= total // ratio
                left.append(tokens / total)
                kept.append(any(_words(answer) in _words(text) for answer in row["answers"]))
            figures = {"retained": round(statistics.mean(kept), 3), "ratio": round(1 / statistics.mean(left), 2)}
            print(json.dumps({"method": name, "at": ratio} | figures | {"p50_ms": round(statistics.median(times_ms), 1)}), flush=True)


def _words(text: str) -> str:
    return " " + " ".join(re.findall(r"[^\W_]+", text.lower())) + " "


def _methods(tokenizer: Tokenizer, meaning: Meaning | None) -> dict[str, Method]:
    def cut(head_ratio: float) -> Method:
        return lambda row, budget: (
            compress(row["context"], budget_tokens=budget, tokenizer=tokenizer, strategy="head_tail", head_ratio=head_ratio).text
        )

    def extract(**options: Any) -> Method:
        return lambda row, budget: compress(row["context"], budget_tokens=budget, tokenizer=tokenizer, strategy="extract", **options).text

    def asked(row: dict[str, Any], budget: int, meaning: Meaning | None = None) -> str:
        return extract(query=row["question"], meaning=meaning)(row, budget)

    methods: dict[str, Method] = {
        "head": cut(1.0), "tail": cut(0.0), "head_tail": cut(0.5),
        "random sentences": lambda row, budget: _sentences(row["context"], _at_random, budget, tokenizer),
        "bm25 sentences": lambda row, budget: _sentences(row["context"], _by_words(row["question"]), budget, tokenizer),
        "extract, no question": extract(), "extract, words": asked,
    }  # fmt: skip
    return methods | ({"extract, words and meaning": lambda row, budget: asked(row, budget, meaning)} if meaning else {})


def _at_random(pieces: Sequence[str]) -> list[int]:
    return random.Random(0).sample(range(len(pieces)), len(pieces))


def _by_words(question: str) -> Callable[[Sequence[str]], list[int]]:
    def order(pieces: Sequence[str]) -> list[int]:
        bags = [Bag.of(piece) for piece in pieces]
        return list(np.argsort(-bm25(query_terms(question), bags, rarity(bags)), kind="stable"))

    return order


def _sentences(text: str, order: Callable[[Sequence[str]], list[int]], budget: int, tokenizer: Tokenizer) -> str:
    pieces = [text[unit.start : unit.end] for unit in split_units(text)]
    chosen: set[int] = set()
    left = budget
    for at in order(pieces):
        cost = tokenizer.count(pieces[at])
        if cost <= left:
            chosen.add(at)
            left -= cost
    return "".join(pieces[at] for at in sorted(chosen))


def _meaning(directory: Path) -> Meaning:
    from tracebank.embedding import load_model

    model = load_model("", device="cpu", precision="auto", engine="auto", directory=directory)

    def read(texts: Sequence[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors = np.empty((len(texts), model.dim), np.float32)
        for at in range(0, len(order), 8):
            vectors[order[at : at + 8]] = model.encode([texts[i] for i in order[at : at + 8]])
        return vectors

    return read


def main() -> None:
    """Read the arguments and run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="prompts", choices=["prompts", "answers"])
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    tokenizer = TiktokenTokenizer(tiktoken.get_encoding("o200k_base"))
    if options.what == "prompts":
        prompts(tokenizer)
    elif options.file is None:
        parser.error("answers needs a FILE")
    else:
        opened = gzip.open if options.file.suffix == ".gz" else open
        with opened(options.file, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        answers(rows, tokenizer, _meaning(options.model) if options.model else None)


if __name__ == "__main__":
    main()
