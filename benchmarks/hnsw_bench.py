"""Which parameters Chroma's graph should have: recall@10 against exact search, time to build and to ask, bytes.

    .venv/bin/python benchmarks/hnsw_bench.py [--texts 20000] [--copies 300]

Synthetic vectors (`_corpus`), asked for 100 as a search does. The last column has one text `--copies` times, as a lesson that
many traces share would be there if each chunk were a point: of its 100 nearest neighbours, those that their own vector
finds. Times are those computed (of all threads), which others on the machine hardly change.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _corpus import BLOCK, Vectors, block_of_vectors, questions

from tracebank.index.chroma import HNSW, import_chroma

ASKED_FOR = 100
CHOICES: dict[str, dict[str, int]] = {
    "ours: 16 neighbours, built with 100, searched with 300": {},
    "searched with 100, as Chroma does by itself": {"ef_search": 100},
    "16 neighbours, built with 200": {"max_neighbors": 16, "ef_construction": 200},
    "12 neighbours, built with 100": {"max_neighbors": 12, "ef_construction": 100},
    "24 neighbours, built with 100": {"max_neighbors": 24, "ef_construction": 100},
    "32 neighbours, built with 200": {"max_neighbors": 32, "ef_construction": 200},
    "searched with 500": {"ef_search": 500},
}


def build(directory: str, vectors: Vectors, choice: dict[str, Any]) -> Any:
    """Return the collection of a new client."""
    import_chroma()
    import chromadb

    client = chromadb.PersistentClient(directory, settings=chromadb.config.Settings(anonymized_telemetry=False))
    collection = client.create_collection("graph", embedding_function=None, configuration={"hnsw": {**HNSW, **choice}})
    for i in range(0, len(vectors), 1_000):
        collection.upsert(ids=[str(n) for n in range(i, min(i + 1_000, len(vectors)))], embeddings=vectors[i : i + 1_000])
    return collection


def nearest(collection: Any, question: Vectors) -> dict[int, float]:
    """Return the numbers and cosines of what a search finds."""
    found = collection.query(query_embeddings=question[None, :], n_results=ASKED_FOR, include=["distances"])
    return {int(id_): 1.0 - distance for id_, distance in zip(found["ids"][0], found["distances"][0], strict=True)}


def measured(vectors: Vectors, asked: Vectors, choice: dict[str, Any]) -> tuple[float, float, float, float]:
    """Return recall@10, seconds to build, milliseconds to ask, and bytes a vector of the graph's files."""
    exact = np.argsort(-(asked @ vectors.T), axis=1)[:, :10]
    with tempfile.TemporaryDirectory() as directory:
        started = time.process_time()
        collection = build(directory, vectors, choice)
        built, started = time.process_time() - started, time.process_time()
        found = [nearest(collection, question) for question in asked]
        took = (time.process_time() - started) / len(asked)
        hits = sum(len(set(wanted.tolist()) & one.keys()) for wanted, one in zip(exact, found, strict=True))
        size = sum(p.stat().st_size for p in Path(directory).glob("*/*.bin"))
    return hits / exact.size, built, took * 1e3, size / len(vectors)


def found_beside(vectors: Vectors, copies: int, choice: dict[str, Any]) -> float:
    """Return how many of the hundred texts nearest to one that is there so many times are found by their own vectors."""
    near = np.argsort(-(vectors @ vectors[0]))[1:101]
    copied = np.concatenate([vectors[:1].repeat(copies, axis=0), vectors])
    with tempfile.TemporaryDirectory() as directory:
        collection = build(directory, copied, choice)
        return float(np.mean([copies + int(number) in nearest(collection, vectors[number]) for number in near]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--copies", type=int, default=300)
    options = parser.parse_args()
    vectors = np.concatenate([block_of_vectors(b, options.texts) for b in range(-(-options.texts // BLOCK))])
    alone = questions(100, options.texts)
    print("| graph | recall@10 | build, s | ask, ms | bytes a vector | found beside copies |\n|---|---|---|---|---|---|")
    for name, choice in CHOICES.items():
        recall, built, took, size = measured(vectors, alone, choice)
        beside = found_beside(vectors[: options.texts // 2], options.copies, choice)
        print(f"| {name} | {recall:.3f} | {built:.1f} | {took:.2f} | {size:,.0f} | {beside:.2f} |", flush=True)


if __name__ == "__main__":
    main()
