"""What tests of several modules share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import tiktoken

from tracebank.embedding.sentence import SentenceTransformerModel
from tracebank.engine import Engine
from tracebank.settings import load_settings
from tracebank.store import Store

OpenEngine = Callable[..., AbstractAsyncContextManager[Engine]]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Tests marked anyio run on asyncio: the engine is built on it."""
    return "asyncio"


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's settings and data directory out of every test."""
    import os

    for name in [name for name in os.environ if name.startswith("TRACEBANK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TRACEBANK_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture(scope="session")
def model() -> SentenceTransformerModel:
    """The real all-MiniLM-L6-v2, loaded once."""
    return SentenceTransformerModel.load("", device="cpu")
