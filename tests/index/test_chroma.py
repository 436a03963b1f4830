"""What is particular to search by meaning in Chroma."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import chromadb
import numpy as np
import pytest
from samples import indexed, tiny_vector

from tracebank.errors import IndexFaultError
from tracebank.index import ChromaVectorIndex, IndexedTrace


@pytest.fixture
def index(tmp_path: Path) -> Iterator[ChromaVectorIndex]:
    """An empty index, in use."""
    opened = ChromaVectorIndex(tmp_path / "it", model="tiny")
    opened.mark_filled()
    yield opened
    opened.close()


def random_trace(row: int, count: int, seed: int) -> IndexedTrace:
    """Return a trace of `count` chunks in random directions."""
    vectors = np.random.default_rng(seed).normal(size=(count, 48)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return IndexedTrace(
        row=row, trace_id=f"{row}", text="", chunks=tuple(str(i) for i in range(count)), vectors=vectors, outcome="unknown", tags=(),
        occurred_at_ms=0,
    )  # fmt: skip


def test_answers_are_cosines_the_nearest_first(index: ChromaVectorIndex) -> None:
    """Not Chroma's distances, and exact for every chunk that is found."""
    trace = random_trace(7, 300, seed=1)
    assert trace.vectors is not None
    index.apply(1, [trace], [])
    question = random_trace(1, 1, seed=2).vectors
    assert question is not None
    found = index.query(1, question[0], 20)
    exact = {(7, i): float(cosine) for i, cosine in enumerate(trace.vectors @ question[0])}
    assert list(found) == sorted(exact, key=lambda key: -exact[key])[:20]
    assert found == pytest.approx({key: exact[key] for key in found}, abs=1e-5)


def test_more_can_be_asked_for_than_there_is(index: ChromaVectorIndex) -> None:
    """Then everything comes, also above the width of Chroma's own search."""
    index.apply(1, [random_trace(7, 900, seed=3)], [])
    question = random_trace(1, 1, seed=4).vectors
    assert question is not None
    assert len(index.query(1, question[0], 900)) == 900
    assert len(index.query(1, question[0], 5_000)) == 900


def test_any_chroma_client_can_read_the_collection(tmp_path: Path, index: ChromaVectorIndex) -> None:
    """Ids, texts and the basics of the trace are there."""
    index.apply(3, [indexed(7, "the first", "the second", trace_id="mine", outcome="failure", occurred_at_ms=5)], [])
    index.close()
    client = chromadb.PersistentClient(str(tmp_path / "it"), settings=chromadb.config.Settings(anonymized_telemetry=False))
    found = client.get_collection("namespace-3").get(include=["documents", "metadatas", "embeddings"])
    assert (found["ids"], found["documents"]) == (["7-0", "7-1"], ["the first", "the second"])
    assert found["metadatas"] == [{"trace_id": "mine", "outcome": "failure", "occurred_at_ms": 5}] * 2
    assert np.allclose(np.asarray(found["embeddings"]), [tiny_vector("the first"), tiny_vector("the second")])
    client.close()


def test_a_directory_of_another_model_is_set_aside(tmp_path: Path, index: ChromaVectorIndex) -> None:
    """Its vectors mean something else, even where they are as long."""
    index.apply(1, [indexed(7, "a")], [])
    index.close()
    other = ChromaVectorIndex(tmp_path / "it", model="another")
    assert (other.fresh, other.count(1)) == (True, 0)
    other.close()


def test_a_trace_without_all_of_its_vectors_is_refused(index: ChromaVectorIndex) -> None:
    """Rather than searched in part."""
    whole = random_trace(7, 2, seed=5)
    assert whole.vectors is not None
    for vectors in (None, whole.vectors[:1]):
        partial = IndexedTrace(
            row=7, trace_id="x", text="", chunks=("a", "b"), vectors=vectors, outcome="unknown", tags=(), occurred_at_ms=0
        )
        with pytest.raises(IndexFaultError, match="trace 'x' has 2 chunks and not as many vectors"):
            index.apply(1, [partial], [])
    assert index.count(1) == 0
