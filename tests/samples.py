"""Sample values, and the one stand-in of the suite: a tiny model at the edge where the real one would compute."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import threading
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tracebank.chunking import Chunk, chunks_of, text_hash, word_spans
from tracebank.embedding import Prompts, Vectors, load_model
from tracebank.embedding.sentence import resolve
from tracebank.engine import Engine
from tracebank.errors import EmbeddingError
from tracebank.index import ChromaVectorIndex, IndexedText, IndexedTrace
from tracebank.index.chroma import guarded
from tracebank.records import Lesson, Limits, Outcome, Trace, parse_trace
from tracebank.scores import Scores, ordinal_of, row_of
from tracebank.settings import EmbeddingSettings, Settings, load_settings
from tracebank.store import Added, Store, StoredTrace, models, outbox, traces

LIMITS = Limits()
NOW_MS = 1_790_000_000_000
WAIT_S = 30.0
# Names the directory with the exported model. All processes of a run share it, and the first one fills it.
MODELS_VARIABLE = "MODELS_OF_THIS_TEST_RUN"


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
    """Return the directory with the export of the bundled model in each precision, made once by a child process as the engine does it."""
    directory = Path(os.environ[MODELS_VARIABLE])
    load_model(EmbeddingSettings(engine="onnx", device="cpu", precision="fp32"), directory)
    return directory


def tiny_transformer(directory: Path, *, pooling: str = "mean", **saved_with: Any) -> str:
    """Write a sentence-transformers model with weights by chance and the bundled model's words; return where it is."""
    from sentence_transformers import SentenceTransformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    with warnings.catch_warnings(action="ignore"):  # newer versions have them elsewhere
        from sentence_transformers.models import Pooling, Transformer

    bare, whole = directory / "bare", directory / f"tiny-{pooling}"
    tokenizer = AutoTokenizer.from_pretrained(resolve(""))
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(bare)
    tokenizer.save_pretrained(bare)
    transformer = Transformer(str(bare), max_seq_length=64)
    SentenceTransformer(modules=[transformer, Pooling(64, pooling)], device="cpu", **saved_with).save_pretrained(str(whole))
    return str(whole)


def bag_of_words(directory: Path, *words: str) -> Path:
    """Write a sentence-transformers model that is no transformer; return where it is."""
    from sentence_transformers import SentenceTransformer

    with warnings.catch_warnings(action="ignore"):  # newer versions have it elsewhere
        from sentence_transformers.models import BoW

    SentenceTransformer(modules=[BoW(vocab=list(words))], device="cpu").save_pretrained(str(directory / "bag"))
    return directory / "bag"


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


def indexed(row: int, *chunks: str, **fields: Any) -> IndexedTrace:
    """Return a trace as the index of words takes it."""
    whole: dict[str, Any] = {"text": "\n".join(chunks), "outcome": "unknown", "tags": (), "occurred_at_ms": 0}
    return IndexedTrace(row=row, chunks=chunks, **{**whole, **fields})


def text_of(text: str, *, key: bytes | None = None, **fields: Any) -> IndexedText:
    """Return a text as the index of vectors takes it, with the vector of `TinyModel`."""
    whole: dict[str, Any] = {"vector": tiny_vector(text), "trace_id": "t", "outcome": "unknown", "occurred_at_ms": 0}
    return IndexedText(key=key or text_hash(text), text=text, **{**whole, **fields})


class ChunkIndex:
    """Chroma's index with a text for each chunk, whose key tells which it is: so it can be tested like the one of words."""

    def __init__(self, directory: Path) -> None:
        self._index = ChromaVectorIndex(directory, model="tiny")

    def __getattr__(self, name: str) -> Any:
        """Everything else is the index's."""
        return getattr(self._index, name)

    def apply(self, namespace: int, upserts: Sequence[IndexedTrace], removals: Sequence[int]) -> None:
        """Write a text for each chunk; delete what the rows had before."""
        texts = [
            text_of(text, key=chunk_key(trace.row, i), occurred_at_ms=trace.occurred_at_ms)
            for trace in upserts
            for i, text in enumerate(trace.chunks)
        ]
        kept = {text.key for text in texts}
        stale = {chunk_key(row, i) for row in [*(t.row for t in upserts), *removals] for i in range(1_500)} - kept
        self._index.apply(namespace, texts, sorted(stale & self.keys(namespace)))

    def keys(self, namespace: int) -> set[bytes]:
        """Return the keys of all that is there."""
        return {
            bytes.fromhex(id_)
            for id_ in guarded(lambda: self._index._opened(self._index.pair(namespace).serving).collection.get(include=[])["ids"])
        }

    def found(self, namespace: int, text: str) -> set[tuple[int, int]]:
        """Return the chunks that a search finds, however far away."""
        return {
            (int.from_bytes(key[:8], "big"), int.from_bytes(key[8:], "big"))
            for key in self._index.query(namespace, tiny_vector(text), 1_500)
        }


def by_chunk(scores: Scores) -> dict[tuple[int, int], float]:
    """Return the scores of chunks by (row, ordinal), the best first."""
    return {(row_of(number), ordinal_of(number)): score for number, score in by_row(scores).items()}


def by_row(scores: Scores) -> dict[int, float]:
    """Return the scores of traces by row, the best first."""
    return dict(sorted(scores.by_number().items(), key=lambda item: (-item[1], item[0])))


def keys_of(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return the (row, ordinal) of chunks, in the same order."""
    return [(row_of(int(number)), ordinal_of(int(number))) for number in numbers]


def chunk_key(row: int, ordinal: int) -> bytes:
    """Return 16 bytes that tell a chunk."""
    return row.to_bytes(8, "big") + ordinal.to_bytes(8, "big")


def settings_of(tmp_path: Path, **flags: Any) -> Settings:
    """Return settings that wait for nothing."""
    return load_settings(tmp_path / "data", **{"index": {"linger_ms": 0}, **flags})


def spoil(path: Path) -> None:
    """Fill a file that is in use with garbage, no shorter than it was: who has mapped it would die of a bus error."""
    with path.open("r+b") as file:
        file.write(b"garbage" * (1_000 + path.stat().st_size // len(b"garbage")))


async def warm(engine: Engine) -> None:
    """Wait until meaning takes part in an engine's searches, or will not."""
    async with asyncio.timeout(WAIT_S):
        await engine.warm.wait()


async def settled(engine: Engine) -> None:
    """Wait until both indexes of an engine have all that was stored."""
    await warm(engine)
    assert await engine.indexer.wait(outbox.SINKS, up_to=None, timeout_s=WAIT_S)
