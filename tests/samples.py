"""Sample values, and the one stand-in of the suite: a tiny model at the edge where the real one would compute."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from tracebank.chunking import Chunk, chunks_of
from tracebank.embedding import Vectors
from tracebank.errors import EmbeddingError
from tracebank.records import Lesson, Limits, Outcome, Trace, parse_trace

LIMITS = Limits()
NOW_MS = 1_790_000_000_000
WAIT_S = 30.0


def trace(trace_id: str = "t1", **fields: Any) -> Trace:
    """Return a trace with every field set, except where told otherwise."""
    whole: dict[str, Any] = {
        "namespace": "default",
        "task": "Repair the flaky upload test",
        "content": "The upload test failed on Tuesdays. The clock was mocked in the wrong module. Patching it there fixed it.",
        "outcome": Outcome.SUCCESS,
        "lessons": (Lesson(content="Patch the clock where it is used."), Lesson(title="Flaky", description="by date", content="Freeze it.")),
        "tags": ("python", "pytest"),
        "parent_id": "t0",
        "occurred_at_ms": NOW_MS,
        "metadata": {"attempts": 2, "share": 0.5, "merged": True, "branch": "main"},
    }
    return Trace(trace_id=trace_id, **{**whole, **fields})


def parsed(**raw: Any) -> Trace:
    """Return what comes in as JSON, checked."""
    return parse_trace({"task": "a task", **raw}, limits=LIMITS, namespace="default", trace_id="given")


def cut(value: Trace) -> list[Chunk]:
    """Return the chunks of a trace as the engine cuts them by default."""
    return chunks_of(value, words=80, overlap_words=20)


class TinyModel:
    """Embeds a text as its hashed words. It counts its batches, fails on a word, and waits at a gate, as a test likes."""

    name = "tiny"
    dim = 64

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.failing = ""
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors, when the gate is open."""
        self.batches.append(list(texts))
        self.entered.release()
        assert self.gate.wait(WAIT_S)
        if self.failing and any(self.failing in text for text in texts):
            raise EmbeddingError(f"cannot embed {self.failing!r}")
        return np.stack([tiny_vector(text) for text in texts])

    @property
    def texts(self) -> list[str]:
        """Everything it was asked to embed so far."""
        return [text for batch in self.batches for text in batch]


def tiny_vector(text: str) -> Vectors:
    """Return the unit vector [64] that `TinyModel` gives a text: its words, each at a place of its own."""
    vector = np.full(TinyModel.dim, 1e-3, np.float32)
    for word in text.lower().split():
        vector[hashlib.blake2b(word.encode(), digest_size=1).digest()[0] % TinyModel.dim] += 1
    return vector / np.float32(np.linalg.norm(vector))
