"""Sample values, and the one stand-in of the suite: a tiny model at the edge where the real one would compute."""

from __future__ import annotations

import asyncio
import atexit
import functools
import hashlib
import shutil
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tracebank.chunking import Chunk, chunks_of, word_spans
from tracebank.embedding import Prompts, Vectors, load_model
from tracebank.engine import Engine
from tracebank.errors import EmbeddingError
from tracebank.index import IndexedTrace
from tracebank.records import Lesson, Limits, Outcome, Trace, parse_trace
from tracebank.settings import EmbeddingSettings, Settings, load_settings
from tracebank.store import Added, Store, StoredTrace, models, outbox, traces

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
        "lessons": (
            Lesson(content="Patch the clock where it is used."),
            Lesson(title="Flaky", description="by date", content="Freeze it."),
        ),
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
    return chunks_of(value, word_spans, tokens=112, overlap_tokens=28)


class TinyModel:
    """Embeds a text as its hashed words. It counts its batches, fails on a word, and waits at a gate, as a test likes."""

    name = "tiny"
    dim = 64
    prompts = Prompts()
    batch_tokens = 2_048
    concurrency = 1
    unseen_tokens = 0

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


@functools.cache
def exported_models() -> Path:
    """Return the directory with the export of the bundled model, made once by a child process as the engine does it."""
    directory = Path(tempfile.mkdtemp(prefix="tracebank-models-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    load_model(EmbeddingSettings(engine="onnx", device="cpu"), directory)
    return directory


async def put(store: Store, *values: Trace, priority: int = outbox.INTERACTIVE, now_ms: int = NOW_MS) -> list[Added]:
    """Store traces in one write."""
    return await store.write(lambda db: [traces.upsert(db, value, cut(value), now_ms=now_ms, priority=priority) for value in values])


async def model_of(store: Store, name: str) -> int:
    """Return the number of a model, which is the one that serves from now on."""
    plan = await store.write(lambda db: models.plan(db, name, "{}"))
    await store.write(lambda db: models.serve(db, wanted.id if (wanted := plan.next) else plan.serving.id))
    return (plan.next or plan.serving).id


async def everything(store: Store) -> list[StoredTrace]:
    """Return all traces of a store."""
    return await store.read(lambda db: traces.page(db, [], after=0, limit=100_000))


def indexed(row: int, *chunks: str, stale: int = 0, **fields: Any) -> IndexedTrace:
    """Return a trace as an index takes it, with the vectors of `TinyModel`."""
    whole: dict[str, Any] = {
        "trace_id": f"t{row}",
        "text": "\n".join(chunks),
        "vectors": np.stack([tiny_vector(chunk) for chunk in chunks]),
        "outcome": "unknown",
        "tags": (),
        "occurred_at_ms": 0,
    }
    return IndexedTrace(row=row, chunks=chunks, stale_chunks=stale, **{**whole, **fields})


def settings_of(tmp_path: Path, **flags: Any) -> Settings:
    """Return settings that wait for nothing."""
    return load_settings(tmp_path / "data", **{"tokens": {"timeout_s": 0}, "index": {"linger_ms": 0}, **flags})


async def warm(engine: Engine) -> None:
    """Wait until meaning takes part in an engine's searches, or will not."""
    async with asyncio.timeout(WAIT_S):
        await engine.warm.wait()


async def settled(engine: Engine) -> None:
    """Wait until both indexes of an engine have all that was stored."""
    await warm(engine)
    assert await engine.indexer.wait(outbox.SINKS, up_to=None, timeout_s=WAIT_S)
