"""Generated traces with synthetic vectors: clustered, and with the falling spectrum of real embeddings.

Everything follows from a seed and a number, so exact answers can be computed block by block without holding it all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tracebank.chunking import Chunk
from tracebank.records import Outcome, Trace

DIM = 384
BLOCK = 9_999
CHUNKS_PER_TRACE = 3
SEED = 20_261_126
VOCABULARY = 20_000
# One word in so many is a name or a number, which is looked up with its neighbour; as in questions of agents, not in all of them.
NAMED = 20
# Standard deviation of the main directions: of MiniLM's on prose a quarter of them holds about three quarters of the variance.
SPECTRUM = (1.0 + np.arange(DIM)) ** -0.45
TEXTS_PER_CLUSTER = 300
Vectors = NDArray[np.float32]


def _rng(*what: int) -> np.random.Generator:
    return np.random.default_rng([SEED, *what])


_ROTATION = np.linalg.qr(_rng(1).normal(size=(DIM, DIM)))[0].astype(np.float32)
_WORD_SHARE = 1.0 / (1.0 + np.arange(VOCABULARY)) ** 0.9
_WORD_SHARE /= _WORD_SHARE.sum()


def _word(number: int) -> str:
    """Return a made-up word, of letters that no stemmer takes for an ending."""
    if number % NAMED == NAMED - 1:
        return f"w{number}"
    letters = []
    while number:
        number, letter = divmod(number, 20)
        letters.append("bcdfghjklmnpqrtvwxyz"[letter])
    return "w" + "".join(letters) + "ok"


_WORDS = [_word(number) for number in range(VOCABULARY)]


def _unit(rows: Vectors) -> Vectors:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def block_of_vectors(block: int, chunks: int) -> Vectors:
    """Return the vectors of one block of a corpus of so many chunks, float32 [up to BLOCK, DIM]."""
    clusters = max(8, chunks // TEXTS_PER_CLUSTER)
    rng = _rng(2, block)
    size = min(BLOCK, chunks - block * BLOCK)
    centre = rng.integers(clusters, size=size)
    centres = np.stack([_rng(3, int(c)).normal(size=DIM) for c in np.unique(centre)])
    near = centres[np.searchsorted(np.unique(centre), centre)] + 0.8 * rng.normal(size=(size, DIM))
    return _unit((near * SPECTRUM).astype(np.float32) @ _ROTATION)


def questions(count: int, chunks: int) -> Vectors:
    """Return vectors that lie near some of the corpus, as far as a question is from its answer (cosine about 0.7)."""
    first = block_of_vectors(0, chunks)
    rng = _rng(4)
    strays = _unit((rng.normal(size=(count, DIM)) * SPECTRUM).astype(np.float32) @ _ROTATION)
    return _unit(first[rng.integers(len(first), size=count)] + 0.9 * strays)


def traces_of(block: int, chunks: int, namespace: str) -> Iterator[tuple[Trace, list[Chunk]]]:
    """Yield the traces of a block with their chunks: a task and two passages each. One in 100 is `rare`, one in 5 `common`."""
    rng = _rng(5, block)
    size = min(BLOCK, chunks - block * BLOCK) // CHUNKS_PER_TRACE
    words = rng.choice(VOCABULARY, p=_WORD_SHARE, size=(size, 60))
    for i in range(size):
        number = block * BLOCK // CHUNKS_PER_TRACE + i
        said = [_WORDS[word] for word in words[i]]
        task, one, two = f"task {number} " + " ".join(said[:8]), " ".join(said[8:34]), " ".join(said[34:])
        tags = tuple(tag for tag, every in (("rare", 100), ("common", 5)) if number % every == 0)
        outcome = (Outcome.SUCCESS, Outcome.FAILURE, Outcome.PARTIAL)[number % 3]
        content = f"{one}\n{two}"
        trace = Trace(
            trace_id=f"t{number}", namespace=namespace, task=task, content=content, outcome=outcome, tags=tags,
            occurred_at_ms=1_790_000_000_000 + number * 60_000, metadata={"group": number % 50},
        )  # fmt: skip
        yield (
            trace,
            [
                Chunk(part="task", item=0, start=0, end=len(task), text=task),
                Chunk(part="content", item=0, start=0, end=len(one), text=one),
                Chunk(part="content", item=0, start=len(one) + 1, end=len(content), text=two),
            ],
        )


def some_questions(count: int, seed: int) -> list[str]:
    """Return questions in the corpus's words, all different."""
    words = _rng(6, seed).choice(VOCABULARY, p=_WORD_SHARE, size=(count, 8))
    return [f"q{_word(NAMED * i)} " + " ".join(_WORDS[word] for word in row) for i, row in enumerate(words)]


def exact_top(asked: Vectors, chunks: int, top: int, gone: Sequence[int] = ()) -> NDArray[np.int64]:
    """Return the numbers of the nearest chunks of each question, [questions, top], without those that are gone."""
    best_scores = np.full((len(asked), top), -2.0, np.float32)
    best = np.full((len(asked), top), -1, np.int64)
    dropped = np.zeros(chunks, bool)
    dropped[list(gone)] = True
    for block in range(-(-chunks // BLOCK)):
        vectors = block_of_vectors(block, chunks).astype(np.float16).astype(np.float32)
        scores = asked @ vectors.T
        scores[:, dropped[block * BLOCK : block * BLOCK + len(vectors)]] = -2.0
        numbers = np.broadcast_to(block * BLOCK + np.arange(len(vectors)), scores.shape)
        scores, numbers = np.hstack([best_scores, scores]), np.hstack([best, numbers])
        order = np.argsort(-scores, axis=1)[:, :top]
        best_scores, best = np.take_along_axis(scores, order, 1), np.take_along_axis(numbers, order, 1)
    return best
