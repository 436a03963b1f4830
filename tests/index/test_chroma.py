"""What is particular to search by meaning in Chroma."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import chromadb
import numpy as np
import pytest
from samples import WAIT_S, text_of, tiny_vector

from tracebank.index import ChromaVectorIndex, IndexedText, database, generations, leftovers
from tracebank.index.base import mark_directory
from tracebank.index.chroma import FORMAT_VERSION


@pytest.fixture
def index(tmp_path: Path) -> Iterator[ChromaVectorIndex]:
    """An empty index, in use."""
    opened = ChromaVectorIndex(tmp_path / "it", model="tiny")
    opened.mark_filled()
    yield opened
    opened.close()


def random_texts(count: int, seed: int) -> list[IndexedText]:
    """Return texts in random directions."""
    vectors = np.random.default_rng(seed).normal(size=(count, 48)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [text_of(f"{seed} {i}", vector=vector) for i, vector in enumerate(vectors)]


def test_answers_are_cosines_the_nearest_first(index: ChromaVectorIndex) -> None:
    """Not Chroma's distances, and exact for every text that is found."""
    texts, (question,) = random_texts(300, seed=1), random_texts(1, seed=2)
    index.apply(1, texts, [])
    found = index.query(1, question.vector, 20)
    exact = {text.key: float(text.vector @ question.vector) for text in texts}
    assert list(found) == sorted(exact, key=lambda key: -exact[key])[:20]
    assert found == pytest.approx({key: exact[key] for key in found}, abs=1e-5)


def test_more_can_be_asked_for_than_there_is(index: ChromaVectorIndex) -> None:
    """Then everything comes, also above the width of Chroma's own search."""
    index.apply(1, random_texts(900, seed=3), [])
    (question,) = random_texts(1, seed=4)
    assert len(index.query(1, question.vector, 900)) == 900
    assert len(index.query(1, question.vector, 5_000)) == 900


def test_any_chroma_client_can_read_the_collection(tmp_path: Path, index: ChromaVectorIndex) -> None:
    """Texts and the basics of a trace that has each are there."""
    texts = [text_of(text, trace_id="mine", outcome="failure", occurred_at_ms=5) for text in ("the first", "the second")]
    index.apply(3, texts, [])
    index.close()
    client = chromadb.PersistentClient(str(tmp_path / "it"), settings=chromadb.config.Settings(anonymized_telemetry=False))
    found = client.get_collection("namespace-3").get(include=["documents", "metadatas", "embeddings"])
    assert (found["ids"], found["documents"]) == ([text.key.hex() for text in texts], ["the first", "the second"])
    assert found["metadatas"] == [{"trace_id": "mine", "outcome": "failure", "occurred_at_ms": 5}] * 2
    assert np.allclose(np.asarray(found["embeddings"]), [tiny_vector("the first"), tiny_vector("the second")])
    client.close()


def schema_of(directory: Path) -> tuple[set[str], dict[str, int]]:
    """Return the names of the indexes in Chroma's database, and how its index of trigrams is kept."""
    with closing(sqlite3.connect(directory / database.DATABASE)) as db:
        indexes = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
        return indexes, dict(db.execute(f"SELECT k, v FROM {database.WORDS}_config"))


def test_a_new_database_keeps_up_less_for_filters_and_they_work_all_the_same(tmp_path: Path, index: ChromaVectorIndex) -> None:
    """Also one that takes the place of another; what is in use stays as it is."""
    index.clear()
    index.mark_filled()
    indexes, kept = schema_of(tmp_path / "it")
    assert database.STRINGS not in indexes
    assert {"embedding_metadata_int_value", "embedding_metadata_float_value"} < indexes
    assert (kept["automerge"], kept["crisismerge"]) == (database.MERGED_FROM, database.MERGED_AT_ONCE_FROM)
    index.apply(1, [text_of(f"the text {i}", trace_id=f"trace {i}") for i in range(200)], [])
    index.close()
    client = chromadb.PersistentClient(str(tmp_path / "it"), settings=chromadb.config.Settings(anonymized_telemetry=False))
    collection = client.get_collection("namespace-1")
    assert collection.get(where={"trace_id": "trace 7"})["documents"] == ["the text 7"]
    assert sorted(collection.get(where_document={"$contains": "text 19"})["documents"] or []) == sorted(
        ["the text 19", *(f"the text 19{i}" for i in range(10))]
    )
    client.close()


def test_a_database_that_was_there_before_is_left_as_it_is(tmp_path: Path) -> None:
    """To drop an index of millions of texts would take seconds, while clients wait for the engine."""
    chromadb.PersistentClient(str(tmp_path / "it"), settings=chromadb.config.Settings(anonymized_telemetry=False)).close()
    mark_directory(tmp_path / "it", {"format": FORMAT_VERSION, "model": "tiny"})
    opened = ChromaVectorIndex(tmp_path / "it", model="tiny")
    assert not opened.fresh
    indexes, kept = schema_of(tmp_path / "it")
    assert (database.STRINGS in indexes, "automerge" in kept) == (True, False)
    opened.close()


def test_a_chroma_that_has_it_otherwise_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is only faster is no reason to fail."""
    monkeypatch.setattr(database, "WORDS", "no_such_table")
    opened = ChromaVectorIndex(tmp_path / "it", model="tiny")
    opened.apply(1, [text_of("a")], [])
    assert opened.count(1) == 1
    opened.close()


def test_a_directory_of_another_model_is_set_aside(tmp_path: Path, index: ChromaVectorIndex) -> None:
    """Its vectors mean something else, even where they are as long."""
    index.apply(1, [text_of("a")], [])
    index.close()
    other = ChromaVectorIndex(tmp_path / "it", model="another")
    assert (other.fresh, other.count(1)) == (True, 0)
    other.close()


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"1": {}}', '{"1": {"serving": 7, "following": null, "filled_to": 0}}'])
def test_a_damaged_list_of_generations_is_repaired_in_the_same_process(tmp_path: Path, index: ChromaVectorIndex, text: str) -> None:
    """It shows when Chroma is open already: what is written afterwards goes into the new directory, and not into what was set aside."""
    index.apply(1, [text_of("a")], [])
    index.close()
    (tmp_path / "it" / generations.FILE).write_text(text)
    again = ChromaVectorIndex(tmp_path / "it", model="tiny")
    assert (again.fresh, again.count(1)) == (True, 0)
    again.apply(1, [text_of("b")], [])
    again.mark_filled()
    again.close()
    third = ChromaVectorIndex(tmp_path / "it", model="tiny")
    assert (third.fresh, third.count(1)) == (False, 1)
    third.close()


def test_what_chroma_traces_itself_with_is_neither_loaded_nor_asked_for(tmp_path: Path) -> None:
    """Also where the environment asks for it; another package can still have it."""
    code = (
        "import sys; from pathlib import Path; from tracebank.index import ChromaVectorIndex; "
        "ChromaVectorIndex(Path(sys.argv[1]), model='tiny').count(1); print({'grpc', 'google.protobuf'} & set(sys.modules)); "
        "from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter; print(OTLPSpanExporter.__name__)"
    )
    asking = {**os.environ, "CHROMA_OTEL_GRANULARITY": "all", "CHROMA_OTEL_COLLECTION_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "it")], env=asking, capture_output=True, encoding="utf-8", check=True
    )  # fmt: skip
    assert done.stdout.split("\n") == ["set()", "OTLPSpanExporter", ""]


def test_what_was_deleted_cannot_be_put_together_from_chromas_index_of_words(tmp_path: Path, index: ChromaVectorIndex) -> None:
    """It keeps three letters each, with their places."""

    def trigrams_kept() -> bool:
        with closing(sqlite3.connect(tmp_path / "it" / "chroma.sqlite3")) as db:
            blocks = db.execute("SELECT block FROM embedding_fulltext_search_data").fetchall()
        return any(b"qzx" in block for (block,) in blocks)

    secret = text_of("the key is qzx", vector=random_texts(1, seed=7)[0].vector)
    index.apply(1, [secret, *random_texts(40, seed=6)], [])
    index.apply(1, [], [secret.key])
    assert trigrams_kept()
    index.scrub()
    assert not trigrams_kept()
    assert index.count(1) == 40


def test_nobody_counts_while_the_database_is_cleaned(index: ChromaVectorIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chroma would take the other writer's journal for one that was left behind, and roll it back."""
    index.apply(1, random_texts(3, seed=8), [])
    cleaning, cleaned, counted = threading.Event(), threading.Event(), threading.Event()

    def clean(directory: Path) -> None:
        cleaning.set()
        assert cleaned.wait(WAIT_S)
        assert not counted.is_set()

    monkeypatch.setattr(leftovers, "erase_deleted", clean)
    with ThreadPoolExecutor(2) as pool:
        scrubbing = pool.submit(index.scrub)
        assert cleaning.wait(WAIT_S)
        counting = pool.submit(index.count, 1)
        counting.add_done_callback(lambda _: counted.set())
        with pytest.raises(TimeoutError):
            counting.result(0.2)
        cleaned.set()
        scrubbing.result(WAIT_S)
        assert counting.result(WAIT_S) == 3
