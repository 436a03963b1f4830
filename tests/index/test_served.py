"""The index of vectors on a Chroma server, a real one."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromadb.api.shared_system_client import SharedSystemClient
from samples import WAIT_S, TinyModel, settings_of, settled, text_of, tiny_vector, warm

from tracebank.engine import Engine
from tracebank.errors import IndexFaultError, IndexUnreachableError
from tracebank.index import ChromaServer, ServedVectorIndex, generations
from tracebank.store import outbox

# Chroma's client leaves connections open; they are collected before this module's next test.
pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]

OPEN: list[ServedVectorIndex] = []


def free_port() -> int:
    """Return a port that nobody uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def served(number: int, directory: Path) -> Iterator[None]:
    """Run a server until the body has ended."""
    command = [
        str(Path(sys.executable).with_name("chroma")), "run", "--host", "127.0.0.1", "--port", str(number), "--path", str(directory),
    ]  # fmt: skip
    # Nobody reads what it says of each request: into a pipe it would stop at 64 KiB.
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        while not listens(number):
            with contextlib.suppress(subprocess.TimeoutExpired):
                raise AssertionError(f"the server ended with {server.wait(0.05)}")
        try:
            yield
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server's port."""
    number = free_port()
    with served(number, tmp_path_factory.mktemp("server")):
        yield number


def listens(port: int) -> bool:
    """Return whether somebody takes connections there."""
    with socket.socket() as trying:
        return trying.connect_ex(("127.0.0.1", port)) == 0


def opened(directory: Path, port: int, prefix: str = "ours") -> ServedVectorIndex:
    """Return an index on the server."""
    index = ServedVectorIndex(directory, model="tiny", server=ChromaServer(host="127.0.0.1", port=port, ssl=False, prefix=prefix))
    OPEN.append(index)
    return index


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Close what a test has opened."""
    yield
    while OPEN:
        OPEN.pop().close()
    # Chroma's HTTP client leaves its connections to the collector.
    SharedSystemClient.clear_system_cache()
    with warnings.catch_warnings(action="ignore"):
        gc.collect()


def test_what_is_written_is_found_and_there_at_the_next_start(tmp_path: Path, port: int) -> None:
    """Two data directories on one server see nothing of each other."""
    one, two = opened(tmp_path / "a" / "vectors-1", port, "one"), opened(tmp_path / "b" / "vectors-1", port, "two")
    for index in (one, two):
        assert index.fresh
        index.mark_filled()
    one.apply(1, [text_of("kiwi"), text_of("plum")], [])
    two.apply(1, [text_of("kiwi")], [])
    one.apply(1, [], [text_of("plum").key])
    assert one.query(1, tiny_vector("kiwi"), 5) == pytest.approx({text_of("kiwi").key: 1.0}, abs=1e-4)
    one.close()
    again = opened(tmp_path / "a" / "vectors-1", port, "one")
    assert (again.fresh, again.count(1)) == (False, 1)
    again.clear()
    assert (again.fresh, again.count(1), two.count(1)) == (True, 0, 1)


def test_a_server_that_has_lost_everything_is_filled_again(tmp_path: Path, port: int) -> None:
    """It is noticed at the next start."""
    index = opened(tmp_path / "vectors-1", port, "lost")
    index.mark_filled()
    index.apply(1, [text_of("kiwi")], [])
    index._delete_ours()
    assert opened(tmp_path / "vectors-1", port, "lost").fresh


def test_an_index_that_could_be_emptied_in_part_only_is_not_taken_for_whole(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither now nor at the next start."""
    index = opened(tmp_path / "vectors-1", port, "part")
    index.mark_filled()
    for space in (1, 2):
        index.apply(space, [text_of("kiwi")], [])
    deleted: list[str] = []

    def deleting(self: ServedVectorIndex) -> None:
        for name in sorted(self._ours(), key=lambda name: name != self._marker)[:2]:
            self._client.delete_collection(name)
            deleted.append(name)
        raise IndexUnreachableError("it is away")

    with monkeypatch.context() as patched:
        patched.setattr(ServedVectorIndex, "_delete_ours", deleting)
        with pytest.raises(IndexUnreachableError):
            index.clear()
    assert index.fresh
    assert opened(tmp_path / "vectors-1", port, "part").fresh


def test_a_damaged_list_of_generations_empties_what_is_ours_on_the_server(tmp_path: Path, port: int) -> None:
    """Which of its collections answers nobody knows any more."""
    index = opened(tmp_path / "vectors-1", port, "damaged")
    index.mark_filled()
    index.apply(1, [text_of("kiwi")], [])
    index.close()
    (tmp_path / "vectors-1" / generations.FILE).write_text("[]")
    again = opened(tmp_path / "vectors-1", port, "damaged")
    assert (again.fresh, again.count(1)) == (True, 0)


def test_a_server_that_is_not_there_is_told_with_what_to_do(tmp_path: Path) -> None:
    """And nothing is set aside."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(IndexFaultError, match=r"no Chroma server answers at 127\.0\.0\.1:\d+: start it"):
            opened(tmp_path / "vectors-1", nobody.getsockname()[1])


async def test_an_engine_finds_by_meaning_on_a_server(tmp_path: Path, port: int, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """And after a restart; no vectors are in the data directory's index."""
    monkeypatch.setattr("tracebank.retrieval.dense.RESIDENT_CHUNKS", 0)
    settings = settings_of(tmp_path, chroma={"mode": "http", "port": port})
    for start in range(2):
        async with Engine.open(settings) as engine:
            if not start:
                for i in range(5):
                    await engine.add({"task": f"upload {i}", "trace_id": f"{i}"}, engine.session())
            await settled(engine)
            found = await engine.retrieve({"query": f"upload {start}"}, engine.session())
            assert (found.dense, found.page.results[0].trace_id, engine.problems) == (True, f"{start}", {})
    assert not list((tmp_path / "data" / "index").rglob("chroma.sqlite3"))


async def test_a_server_that_is_away_for_a_while_is_waited_for(tmp_path: Path, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words answer meanwhile, and the note says why. Nothing is rebuilt or set aside; what was stored is found by meaning afterwards."""
    monkeypatch.setattr("tracebank.retrieval.dense.RESIDENT_CHUNKS", 0)
    monkeypatch.setattr("tracebank.indexer.RETRY_S", 0.01)
    number = free_port()
    settings = settings_of(tmp_path, chroma={"mode": "http", "port": number}, retrieval={"wait_ms": 0})
    async with contextlib.AsyncExitStack() as stack:
        with served(number, tmp_path / "server"):
            engine = await stack.enter_async_context(Engine.open(settings))
            await engine.add({"task": "upload before", "trace_id": "before"}, engine.session())
            await settled(engine)
        found = await engine.retrieve({"query": "upload"}, engine.session())
        assert (found.dense, [result.trace_id for result in found.page.results]) == (False, ["before"])
        assert "the index of vectors cannot be reached" in found.note
        failed = asyncio.Event()
        monkeypatch.setattr(logging.getLogger("tracebank.indexer"), "warning", lambda *_: failed.set())
        await engine.add({"task": "upload meanwhile", "trace_id": "meanwhile"}, engine.session())
        await asyncio.wait_for(failed.wait(), WAIT_S)
        with served(number, tmp_path / "server"):
            await settled(engine)
            found = await engine.retrieve({"query": "upload again"}, engine.session())
            assert (found.dense, len(found.page.results)) == (True, 2)
            assert (engine.indexer.rebuilds["vectors"], engine.indexer.faults) == (0, {})
            assert await engine.store.read(outbox.errors) == []
            await stack.aclose()


async def test_a_server_that_is_away_when_the_engine_starts_is_waited_for(
    tmp_path: Path, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for it: words answer, and say what to do. Once it is there, all is found by meaning."""
    monkeypatch.setattr("tracebank.semantics.RETRY_S", 0.01)
    number = free_port()
    settings = settings_of(tmp_path, chroma={"mode": "http", "port": number}, retrieval={"wait_ms": 0})
    async with contextlib.AsyncExitStack() as stack:
        engine = await stack.enter_async_context(Engine.open(settings))
        await warm(engine)
        await engine.add({"task": "upload", "trace_id": "t"}, engine.session())
        assert await engine.indexer.wait(("words",), up_to=None, timeout_s=WAIT_S)
        found = await engine.retrieve({"query": "upload"}, engine.session())
        assert (found.dense, [result.trace_id for result in found.page.results]) == (False, ["t"])
        assert f"meaning is off: no Chroma server answers at 127.0.0.1:{number}: start it" in found.note
        assert "no Chroma server answers" in engine.problems["meaning"]
        with served(number, tmp_path / "server"):
            await settled(engine)
            found = await engine.retrieve({"query": "upload again"}, engine.session())
            assert (found.dense, len(found.page.results), engine.problems) == (True, 1, {})
            await stack.aclose()
    gc.collect()
