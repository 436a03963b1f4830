"""How much shorter prompts become, and what survives.

    python benchmarks/compression_bench.py prompts
    python benchmarks/compression_bench.py answers FILE
    python benchmarks/compression_bench.py times FILE

`prompts` shortens the realistic agent prompts beside this file: by the lossless steps alone, by those that lose least, and to a
half. `answers` takes JSON Lines of {"question", "answers", "context"} (plain or gzip) and compares extraction with head, tail,
head and tail, random sentences, sentences by BM25 and, where the extra `tracebank[bench]` is installed, the summarisers of sumy: the
share of contexts in which an answer survives, the tokens kept, and the time. `times` lets an engine shorten the same contexts for
the first time and again, 32,000 tokens of them, and a mebibyte. One JSON line a row.
The model is not used by `answers` unless `--model DIRECTORY` names where its export is, or may be made; `--words DIRECTORY`
adds a token classifier (LLMLingua-2).
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import random
import re
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tracebank.compression import compress
from tracebank.compression.extract.relevance import Meaning
from tracebank.compression.extract.units import split_units
from tracebank.compression.extract.words import Bag, bm25, rarity
from tracebank.compression.pipeline import LEAST_LOSS, LOSSLESS, shortened
from tracebank.embedding import Embedded, TokenEncoder, load_model
from tracebank.embedding.token_classifier import TokenClassifier
from tracebank.engine import Engine
from tracebank.index.analysis import query_terms
from tracebank.settings import EmbeddingSettings, Settings
from tracebank.tokens import Tokenizer, load_tokenizer

RATIOS = (2, 4, 8)
Method = Callable[[dict[str, Any], int], str]


def prompts(tokenizer: Tokenizer) -> None:
    """Print what each step saves on each prompt, and what is left at a half."""
    for path in sorted((Path(__file__).parent / "prompts").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        before = tokenizer.count(text)
        lossless, reports = shortened(text, LOSSLESS, tokenizer)
        least, more = shortened(lossless.text, LEAST_LOSS, tokenizer)
        half = compress(text, budget_tokens=before // 2, tokenizer=tokenizer)
        saved = {report.name: report.tokens_before - report.tokens_after for report in (*reports, *more)}
        row = {"prompt": path.stem, "tokens": before, "lossless": lossless.tokens, "saved": round(1 - lossless.tokens / before, 3)}
        row |= {"least_loss": least.tokens, "half": half.tokens, "half_by": half.steps[-1].name if half.steps else "", "steps": saved}
        print(json.dumps(row))


def answers(rows: Sequence[dict[str, Any]], tokenizer: Tokenizer, meaning: Meaning | None, words: TokenClassifier | None) -> None:
    """Print, for each method and ratio, how often an answer survives."""
    for name, method in _methods(tokenizer, meaning, words).items():
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


def _methods(tokenizer: Tokenizer, meaning: Meaning | None, words: TokenClassifier | None) -> dict[str, Method]:
    def cut(head_ratio: float) -> Method:
        return lambda row, budget: (
            compress(row["context"], budget_tokens=budget, tokenizer=tokenizer, strategy="head_tail", head_ratio=head_ratio).text
        )

    def extract(*, asks: bool = False, **options: Any) -> Method:
        options = {"strategy": "extract", **options}
        return lambda row, budget: (
            compress(
                row["context"], budget_tokens=budget, tokenizer=tokenizer, query=row["question"] if asks else "", **options
            ).text
        )  # fmt: skip

    methods: dict[str, Method] = {
        "head": cut(1.0), "tail": cut(0.0), "head_tail": cut(0.5),
        "random sentences": lambda row, budget: _sentences(row["context"], _at_random, budget, tokenizer),
        "bm25 sentences": lambda row, budget: _sentences(row["context"], _by_words(row["question"]), budget, tokenizer),
        "extract, no question": extract(), "extract, words": extract(asks=True),
    }  # fmt: skip
    methods |= _published(tokenizer)
    if meaning:
        methods["extract, words and meaning"] = extract(asks=True, meaning=meaning)
        methods["auto, words and meaning"] = extract(strategy="auto", asks=True, meaning=meaning)
    methods["auto, no question"] = extract(strategy="auto")
    if words:
        methods["auto, model of words, no question"] = extract(strategy="auto", words=words.words)
        methods["auto, model of words"] = extract(strategy="auto", asks=True, words=words.words, meaning=meaning)
    return methods


def _published(tokenizer: Tokenizer) -> dict[str, Method]:
    """Return the summarisers of sumy, on our sentences: its own splitting needs a download.

    They take a number of sentences and no budget: it shrinks by a tenth until the text fits.
    """
    try:
        from sumy.models.dom import ObjectDocumentModel, Paragraph, Sentence
        from sumy.summarizers.kl import KLSummarizer
        from sumy.summarizers.lex_rank import LexRankSummarizer
        from sumy.summarizers.lsa import LsaSummarizer
        from sumy.summarizers.text_rank import TextRankSummarizer
    except ImportError:
        print(json.dumps({"method": "sumy", "skipped": "pip install 'tracebank[bench]'"}))
        return {}

    class Words:
        def to_words(self, sentence: str) -> tuple[str, ...]:
            return tuple(re.findall(r"\w+", sentence.lower()))

    def shorten(summarise: Any, row: dict[str, Any], budget: int) -> str:
        text = row["context"]
        pieces = [piece for unit in split_units(text) if (piece := text[unit.start : unit.end].strip())]
        document = ObjectDocumentModel([Paragraph([Sentence(piece, Words()) for piece in pieces])])
        count = max(1, len(pieces) * budget // tokenizer.count(text))
        while tokenizer.count(short := "\n".join(map(str, summarise(document, count)))) > budget:
            count = int(count * 0.9)
        return short

    summarisers = {"LexRank": LexRankSummarizer, "TextRank": TextRankSummarizer, "LSA": LsaSummarizer, "KL": KLSummarizer}
    return {f"{name} (sumy)": partial(shorten, make()) for name, make in summarisers.items()}


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
    model = load_model(EmbeddingSettings(), directory)

    def read(texts: Sequence[str]) -> list[Embedded]:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found: dict[int, Embedded] = {}
        for at in range(0, len(order), 4):
            batch = order[at : at + 4]
            some = [texts[i] for i in batch]
            vectors, tokens = model.encode_tokens(some) if isinstance(model, TokenEncoder) else (model.encode(some), [None] * len(some))
            found.update((i, Embedded(vector=vector, tokens=own)) for i, vector, own in zip(batch, vectors, tokens, strict=True))
        return [found[i] for i in range(len(texts))]

    return read


async def times(rows: Sequence[dict[str, Any]], directory: Path) -> None:
    """Print how long an engine takes, with the processor's time, which others on the machine change less."""
    with tempfile.TemporaryDirectory() as home:
        settings = Settings(data_dir=Path(home), embedding=EmbeddingSettings(cache_dir=str(directory)))
        async with Engine.open(settings) as engine:
            await engine.embedding.loaded()
            some = rows[:12]
            for name in ("first time", "again"):
                took = [await _timed(engine, row["context"], row["question"], 700) for row in some]
                print(json.dumps({"what": name, "texts": len(took), "p50_ms": _p50(took, 0), "cpu_p50_ms": _p50(took, 1)}))
            whole = "\n".join(row["context"] for row in rows[12:])
            for name, chars in (("32,000 tokens", 145_000), ("1 MiB", 1 << 20)):
                took = [await _timed(engine, whole[:chars], rows[0]["question"], 4_000)]
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
                print(json.dumps({"what": name, "p50_ms": _p50(took, 0), "cpu_p50_ms": _p50(took, 1), "peak_mib": peak}))


async def _timed(engine: Engine, text: str, question: str, budget_tokens: int) -> tuple[float, float]:
    began, cpu = time.perf_counter(), time.process_time()
    await engine.compress(text, budget_tokens=budget_tokens, ratio=None, query=question)
    return (time.perf_counter() - began) * 1e3, (time.process_time() - cpu) * 1e3


def _p50(took: Sequence[tuple[float, float]], which: int) -> float:
    return round(statistics.median(one[which] for one in took), 1)


def main() -> None:
    """Read the arguments and run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="prompts", choices=["prompts", "answers", "times"])
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--words", type=Path)
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    tokenizer = load_tokenizer("o200k_base")
    if options.what == "prompts":
        prompts(tokenizer)
    elif options.file is None:
        parser.error(f"{options.what} needs a FILE")
    else:
        opened = gzip.open if options.file.suffix == ".gz" else open
        with opened(options.file, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines][: options.limit]
        if options.what == "times":
            asyncio.run(times(rows, options.model or Path(tempfile.gettempdir()) / "tracebank-models"))
        else:
            words = TokenClassifier.load(options.words) if options.words else None
            answers(rows, tokenizer, _meaning(options.model) if options.model else None, words)


if __name__ == "__main__":
    main()
