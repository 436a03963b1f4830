"""Another model takes the place of the present one: nothing is blind, nothing is lost, nothing is done twice."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import WAIT_S, TinyModel, everything, settings_of, settled, warm

from tracebank.embedding import EmbeddingModel, Vectors
from tracebank.engine import Engine
from tracebank.errors import IndexFaultError, ModelLoadError
from tracebank.index import ChromaVectorIndex
from tracebank.model_change import ModelChange
from tracebank.reporting import examine, report
from tracebank.settings import EmbeddingSettings
from tracebank.store import outbox

pytestmark = pytest.mark.anyio

TASKS = [f"task {i} of the upload" for i in range(12)]


class Turned(TinyModel):
    """Another model: its vectors are those of `TinyModel` turned round, and a question of it finds nothing in the other's."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors, when the gate is open."""
        return np.ascontiguousarray(super().encode(texts)[:, ::-1])


class World:
    """The models that there are, by name. One that is missing cannot be loaded."""

    def __init__(self) -> None:
        self.models: dict[str, TinyModel] = {"former": TinyModel(), "next": Turned(), "third": Turned()}

    def load(self, settings: EmbeddingSettings, directory: Path) -> EmbeddingModel:
        """Load as `load_model` does."""
        if settings.model not in self.models:
            raise ModelLoadError(f"there is no {settings.model}")
        return self.models[settings.model]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """The models, in place of those on the disk."""
    made = World()
    monkeypatch.setattr("tracebank.semantics.load_model", made.load)
    return made


def opened(tmp_path: Path, model: str) -> Any:
    """Open the engine with this model."""
    return Engine.open(settings_of(tmp_path, embedding={"model": model}))


async def filled(tmp_path: Path) -> None:
    """Store the tasks with the former model."""
    async with opened(tmp_path, "former") as engine:
        for i, task in enumerate(TASKS):
            await engine.add({"task": task, "trace_id": f"t{i}"}, engine.session())
        await settled(engine)


async def changed(engine: Engine) -> None:
    """Wait until a change of the model has ended, one way or the other."""
    async with asyncio.timeout(WAIT_S):
        await asyncio.gather(*(task for task in engine.background.tasks if task.get_name() in ("model change", "former model")))
        await asyncio.gather(*(task for task in engine.background.tasks if task.get_name() == "former model"))


async def begun(world: World, name: str) -> None:
    """Wait until a model has been asked."""
    assert await asyncio.to_thread(world.models[name].entered.acquire, True, WAIT_S)


def directories(tmp_path: Path) -> list[str]:
    """Return the names of the vector indexes on the disk."""
    return sorted(path.name for path in (tmp_path / "data" / "index").glob("vectors*"))


async def first(engine: Engine, query: str) -> tuple[str, bool]:
    """Return what is found first, and whether by meaning."""
    found = await engine.retrieve({"query": query}, engine.session())
    return found.page.results[0].trace_id, found.dense


async def test_the_former_model_answers_until_the_new_one_has_everything(tmp_path: Path, world: World) -> None:
    """What is stored meanwhile is found before and after; then nothing of the former index is left."""
    await filled(tmp_path)
    world.models["next"].gate.clear()
    async with opened(tmp_path, "next") as engine:
        await warm(engine)
        await begun(world, "next")
        assert await first(engine, "task 7") == ("t7", True)
        assert "task 7" in world.models["former"].texts
        assert (await report(engine, "embedding"))["embedding"]["next"] == {"model": "next", "pending": len(TASKS)}
        await engine.add({"task": "stored meanwhile", "trace_id": "late"}, engine.session())
        await engine.indexer.wait(outbox.SINKS, up_to=None, timeout_s=WAIT_S)
        assert await first(engine, "stored meanwhile") == ("late", True)
        world.models["next"].gate.set()
        await changed(engine)
        assert engine.embedding.name == "next"
        for query, best in (("task 7", "t7"), ("stored meanwhile", "late")):
            assert await first(engine, query) == (best, True)
            assert query in world.models["next"].texts
        assert all(well for _, well, _ in await examine(engine))
        assert directories(tmp_path) == ["vectors-2"]
        assert (await report(engine, "embedding"))["embedding"]["next"] is None
        await engine.add({"task": "stored after", "trace_id": "after"}, engine.session())
        await settled(engine)
        assert "stored after" not in world.models["former"].texts
    world.models.pop("former")
    async with opened(tmp_path, "next") as engine:
        await settled(engine)
        assert await first(engine, "stored after") == ("after", True)
        assert len(await everything(engine.store)) == len(TASKS) + 2


async def test_a_change_that_is_cut_short_goes_on_where_it_was(tmp_path: Path, world: World) -> None:
    """No text is embedded again whose vector had been kept."""
    await filled(tmp_path)
    following = world.models["next"]
    following.gate.clear()
    async with Engine.open(settings_of(tmp_path, embedding={"model": "next"}, index={"batch_chunks": 4})) as engine:
        await begun(world, "next")
        following.gate.set()
        await engine.indexer.wait(("vectors_next",), up_to=None, timeout_s=0)
        async with asyncio.timeout(WAIT_S), engine.indexer._done:
            await engine.indexer._done.wait()
        following.gate.clear()
    following.gate.set()
    async with opened(tmp_path, "next") as engine:
        await warm(engine)
        await changed(engine)
        assert engine.embedding.name == "next"
        assert all(well for _, well, _ in await examine(engine))
    assert sorted(set(following.texts)) == sorted(TASKS)
    assert len(following.texts) < 2 * len(TASKS)


@pytest.mark.parametrize("wanted", ["former", "third"])
async def test_who_changes_their_mind_gets_what_they_want_last(tmp_path: Path, world: World, wanted: str) -> None:
    """The model that was begun is dropped; the former one has to do nothing for it."""
    await filled(tmp_path)
    world.models["next"].gate.clear()
    async with opened(tmp_path, "next") as engine:
        await begun(world, "next")
        world.models["next"].gate.set()
    before = len(world.models["former"].texts)
    async with opened(tmp_path, wanted) as engine:
        await warm(engine)
        await changed(engine)
        assert await first(engine, "task 7") == ("t7", True)
        assert engine.embedding.name == wanted
        assert all(well for _, well, _ in await examine(engine))
        waiting = await engine.store.read(lambda db: db.execute("SELECT count(*) FROM outbox").fetchone()[0])
        assert (waiting, len(directories(tmp_path))) == (0, 1)
    assert set(world.models["former"].texts[before:]) <= {"task 7"}


async def test_a_model_that_cannot_be_loaded_leaves_the_former_one_at_work(tmp_path: Path, world: World) -> None:
    """`stats` and `doctor` tell it; nothing piles up for it; when it is there the change begins."""
    await filled(tmp_path)
    missing = world.models.pop("next")
    async with opened(tmp_path, "next") as engine:
        await warm(engine)
        await changed(engine)
        assert "there is no next" in engine.problems["model change"]
        assert [found for what, well, found in await examine(engine) if what == "model" and not well] == [
            "there is no next; former answers"
        ]
        await engine.add({"task": "stored meanwhile", "trace_id": "late"}, engine.session())
        await settled(engine)
        assert await first(engine, "stored meanwhile") == ("late", True)
        assert await engine.store.read(lambda db: outbox.waiting(db, "vectors_next")) == 0
    world.models["next"] = missing
    async with opened(tmp_path, "next") as engine:
        await warm(engine)
        await changed(engine)
        assert engine.embedding.name == "next"
        assert await first(engine, "stored meanwhile") == ("late", True)


async def test_a_model_that_cannot_embed_what_is_stored_does_not_take_over(tmp_path: Path, world: World) -> None:
    """The former one goes on answering, and it is told why. What that one cannot embed either is no reason."""
    await filled(tmp_path)
    world.models["next"].failing = "task 7"
    async with opened(tmp_path, "next") as engine:
        await warm(engine)
        await changed(engine)
        assert "next cannot embed 1 of the traces, the present model all but 0" in engine.problems["model change"]
        assert engine.embedding.name == "former"
        assert await first(engine, "task 7") == ("t7", True)
        assert await engine.store.read(lambda db: outbox.waiting(db, "vectors_next")) == 0
        assert (engine.semantics.change, directories(tmp_path)) == (None, ["vectors-1"])
        # What is forgotten then is due for no index that will never be there.
        await engine.forget(lambda db: [1])
        await asyncio.gather(*(task for task in engine.background.tasks if task.get_name() == "erasing"))
        assert not (engine.settings.data_dir / "index" / "scrub-due").exists()
    world.models["former"].failing = world.models["next"].failing = "poison"
    async with opened(tmp_path, "next") as engine:
        await engine.add({"task": "poison", "trace_id": "poison"}, engine.session())
        await warm(engine)
        await changed(engine)
        assert engine.embedding.name == "next"
        assert await first(engine, "task 7") == ("t7", True)


async def test_a_new_index_that_cannot_be_written_does_not_take_over(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was given up after some attempts; the former one goes on answering."""
    await filled(tmp_path)
    apply = ChromaVectorIndex.apply

    def failing(self: ChromaVectorIndex, *arguments: Any) -> None:
        if self._directory.name == "vectors-2":
            raise IndexFaultError("it is broken")
        apply(self, *arguments)

    monkeypatch.setattr(ChromaVectorIndex, "apply", failing)
    async with opened(tmp_path, "next") as engine:
        await warm(engine)
        await changed(engine)
        assert "the index of next cannot be filled" in engine.problems["model change"]
        assert (engine.embedding.name, await first(engine, "task 7")) == ("former", ("t7", True))


@pytest.mark.parametrize("error", [IndexFaultError("it is broken"), ValueError("a fault of our own")])
async def test_nothing_waits_for_a_change_that_has_failed(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Whatever it was: what is stored afterwards is queued for no index that nobody fills."""

    async def failing(self: ModelChange) -> None:
        raise error

    monkeypatch.setattr(ModelChange, "_check", failing)
    await filled(tmp_path)
    async with opened(tmp_path, "next") as engine:
        await warm(engine)
        await changed(engine)
        assert engine.problems["model change"] == str(error)
        await engine.add({"task": "stored meanwhile", "trace_id": "late"}, engine.session())
        assert await engine.store.read(lambda db: outbox.waiting(db, "vectors_next")) == 0


async def test_a_change_that_is_begun_anew_uses_nothing_of_an_earlier_one(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was stored or forgotten in between is not in an index that was left behind."""
    await filled(tmp_path)
    async with opened(tmp_path, "next") as engine:
        await warm(engine)
        await changed(engine)
    with monkeypatch.context() as patched:
        # As a kill would leave it.
        patched.setattr("tracebank.semantics.Semantics._tidy", lambda self, used: None)
        async with opened(tmp_path, "former") as engine:
            await warm(engine)
            await changed(engine)
            await engine.add({"task": "stored meanwhile", "trace_id": "late"}, engine.session())
            await settled(engine)
    assert directories(tmp_path) == ["vectors-1", "vectors-2"]
    async with opened(tmp_path, "next") as engine:
        await warm(engine)
        await changed(engine)
        assert engine.embedding.name == "next"
        assert await first(engine, "stored meanwhile") == ("late", True)
        assert all(well for _, well, _ in await examine(engine))


async def _lose_the_model(tmp_path: Path, world: World) -> None:
    world.models.pop("former")


async def _lose_the_settings(tmp_path: Path, world: World) -> None:
    with sqlite3.connect(tmp_path / "data" / "tracebank.sqlite3") as db:
        db.execute("UPDATE models SET settings = '{\"colour\": 1}'")


async def _change_the_files(tmp_path: Path, world: World) -> None:
    with sqlite3.connect(tmp_path / "data" / "tracebank.sqlite3") as db:
        db.execute("UPDATE models SET name = 'former@1' WHERE name = 'former'")


@pytest.mark.parametrize("spoil", [_lose_the_model, _lose_the_settings, _change_the_files])
async def test_where_the_former_model_is_gone_the_new_one_answers_at_once(tmp_path: Path, world: World, spoil: Any) -> None:
    """By meaning for what it has embedded, by words for the rest."""
    await filled(tmp_path)
    await spoil(tmp_path, world)
    async with opened(tmp_path, "next") as engine:
        await settled(engine)
        assert engine.embedding.name == "next"
        assert await first(engine, "task 7") == ("t7", True)
        assert all(well for _, well, _ in await examine(engine))


async def test_what_is_forgotten_during_a_change_is_in_neither_index(tmp_path: Path, world: World) -> None:
    """The next one hears of it behind everything else, so it is erased from that later, and a file says so until then."""
    await filled(tmp_path)
    secret = "xyzzy-plugh-4711"
    async with opened(tmp_path, "former") as engine:
        await engine.add({"task": f"the key is {secret}", "trace_id": "secret"}, engine.session())
        await settled(engine)
        rows = [one.row for one in await everything(engine.store) if one.trace.trace_id == "secret"]
    world.models["next"].gate.clear()
    async with opened(tmp_path, "next") as engine:
        await warm(engine)
        await asyncio.to_thread(world.models["next"].entered.acquire)
        assert await engine.forget(lambda db: rows) == 1
        due = engine.settings.data_dir / "index" / "scrub-due"
        assert due.exists()
        world.models["next"].gate.set()
        async with asyncio.timeout(WAIT_S):
            await asyncio.gather(*(task for task in engine.background.tasks if task.get_name() == "erasing"))
        assert not due.exists()
        await changed(engine)
        left = {path.name for path in engine.settings.data_dir.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()}
        assert left == set()
