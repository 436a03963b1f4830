"""What tests of several modules share."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from samples import MODELS_VARIABLE, WAIT_S, TinyModel

from tracebank.embedding import EmbeddingModel
from tracebank.embedding.sentence import SentenceTransformerModel
from tracebank.store import Store


def pytest_configure(config: pytest.Config) -> None:
    """Give the processes of this run one directory for the exported model: an export takes half a minute."""
    if not hasattr(config, "workerinput"):  # a worker inherits it
        os.environ[MODELS_VARIABLE] = directory = tempfile.mkdtemp(prefix="tracebank-models-")
        config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))
    if config.getoption("numprocesses", None):
        # Workers share the cores already: threads of torch would only wait for each other.
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Tests marked anyio run on asyncio: the engine is built on it."""
    return "asyncio"


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's settings and data directory out of every test."""
    for name in [name for name in os.environ if name.startswith("TRACEBANK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TRACEBANK_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture(scope="session")
def model() -> SentenceTransformerModel:
    """The real all-MiniLM-L6-v2, loaded once."""
    return SentenceTransformerModel.load("", device="cpu")


@pytest.fixture(scope="session")
def word_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny token classifier with weights by chance, in the files of a real one."""
    import torch
    from transformers import BertConfig, BertForTokenClassification, BertTokenizerFast

    directory = tmp_path_factory.mktemp("word-model")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,:;!?-()<>/=#`\"'{}[]"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (directory / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=64, num_labels=2, initializer_range=1.0,
    )  # fmt: skip
    BertForTokenClassification(config).save_pretrained(directory)
    BertTokenizerFast(vocab_file=str(directory / "vocab.txt")).save_pretrained(directory)
    return directory


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store, closed at the end."""
    opened = Store.open(tmp_path / "store.sqlite3")
    yield opened
    opened.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 4 MiB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(directory)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("a file system of limited size cannot be mounted here")
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


@pytest.fixture
def ballast(small_disk: Path) -> Callable[[], None]:
    """What fills that file system to the last byte."""

    def fill() -> None:
        with contextlib.suppress(OSError), (small_disk / "ballast").open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4_096)

    return fill


@pytest.fixture
def load_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], EmbeddingModel]], None]:
    """Let engines get their model from a function."""

    def load_with(load: Callable[[], EmbeddingModel]) -> None:
        monkeypatch.setattr("tracebank.semantics.load_model", lambda *_, **__: load())

    return load_with


@pytest.fixture
def arrived(load_with: Callable[[Callable[[], EmbeddingModel]], None]) -> Iterator[threading.Event]:
    """An event that a tiny model waits for to be loaded."""
    event = threading.Event()

    def load() -> TinyModel:
        assert event.wait(WAIT_S)
        return TinyModel()

    load_with(load)
    yield event
    event.set()


@pytest.fixture
def tiny(load_with: Callable[[Callable[[], EmbeddingModel]], None]) -> Iterator[TinyModel]:
    """A tiny model in place of the real one."""
    model = TinyModel()
    load_with(lambda: model)
    yield model
    model.gate.set()
