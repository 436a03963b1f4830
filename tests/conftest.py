"""What tests of several modules share."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from samples import TinyModel

from tracebank.embedding import EmbeddingModel
from tracebank.embedding.sentence import SentenceTransformerModel
from tracebank.store import Store


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
def no_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens are estimated: nothing is downloaded for a test, and tiktoken's variable is as it was afterwards."""

    def fail(name: str) -> None:
        raise OSError(f"no network, no {name}")

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("tracebank.tokens.loading._get_encoding", fail)


@pytest.fixture
def load_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], EmbeddingModel]], None]:
    """Let engines get their model from a function."""

    def load_with(load: Callable[[], EmbeddingModel]) -> None:
        monkeypatch.setattr("tracebank.semantics.load_model", lambda *_, **__: load())

    return load_with


@pytest.fixture
def tiny(load_with: Callable[[Callable[[], EmbeddingModel]], None]) -> Iterator[TinyModel]:
    """A tiny model in place of the real one."""
    model = TinyModel()
    load_with(lambda: model)
    yield model
    model.gate.set()
