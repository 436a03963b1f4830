"""The real model: all-MiniLM-L6-v2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tracebank.embedding.sentence import SentenceTransformerModel, identity, resolve
from tracebank.errors import EmbeddingError, ModelLoadError

TEXTS = [
    "How do I reset a flaky test?", "a", "深い記憶", "", "🧠" * 50, "def f(x):\n    return x\n" * 30,
    "A very long text that no model sees to its end. " * 60,
]  # fmt: skip


def test_vectors_have_length_1_and_are_those_of_sentence_transformers(model: SentenceTransformerModel) -> None:
    """Cosine above .9999 with the library's own `encode`, one text at a time."""
    vectors = model.encode(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), model.dim) == (len(TEXTS), 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-5)
    for text, vector in zip(TEXTS, vectors, strict=True):
        own = np.asarray(model.transformer.encode(text, show_progress_bar=False), np.float32)
        assert float(vector @ own / np.linalg.norm(own)) > 0.9999


def test_meaning_is_near(model: SentenceTransformerModel) -> None:
    """Without a word in common."""
    question, near, far = model.encode(["The build is broken", "Compilation fails", "Bake the cake for an hour"])
    assert question @ near > question @ far + 0.2


def test_a_model_is_known_by_its_files_not_by_their_place(tmp_path: Path, model: SentenceTransformerModel) -> None:
    """The same files elsewhere are the same model; a changed configuration is another."""
    assert identity("") == model.name
    assert identity("").startswith("all-MiniLM-L6-v2@")
    first, second = tmp_path / "a" / "mine", tmp_path / "b" / "mine"
    for directory in (first, second):
        directory.mkdir(parents=True)
        (directory / "config.json").write_text("{}")
        (directory / "model.safetensors").write_bytes(b"weights")
    assert identity(str(first)) == identity(str(second))
    (second / "config.json").write_text('{"hidden": 3}')
    assert identity(str(first)) != identity(str(second))
    (second / "config.json").write_text("{}")
    (second / "model.safetensors").write_bytes(b"more weights")
    assert identity(str(first)) != identity(str(second))
    assert identity("someone/some-model") == "someone/some-model"


def test_the_bundled_model_is_a_directory_on_this_machine() -> None:
    """No network is needed."""
    assert Path(resolve("")).is_dir()
    assert resolve("someone/some-model") == "someone/some-model"


def test_a_model_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    """With what the library says of it."""
    directory = tmp_path / "half-a-model"
    shutil.copytree(resolve(""), directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "hidden_size": 100}))
    with pytest.raises(ModelLoadError, match=r"the embedding model .*half-a-model could not be loaded: "):
        SentenceTransformerModel.load(str(directory), device="cpu")


def test_what_cannot_be_embedded_is_an_embedding_error(model: SentenceTransformerModel) -> None:
    """Whatever the library raises."""
    with pytest.raises(EmbeddingError, match="1 texts could not be embedded"):
        model.encode([b"bytes"])  # type: ignore[list-item]
