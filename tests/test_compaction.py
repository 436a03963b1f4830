"""Shorter vectors for large namespaces: made in the background, as good as the whole ones, and given up again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import TinyModel, settings_of, settled

from tracebank import compaction
from tracebank.engine import Engine
from tracebank.errors import IndexFaultError
from tracebank.index import ChromaVectorIndex, IndexedText
from tracebank.index.projection import fit, load
from tracebank.meaning import Meaning
from tracebank.records import parse_trace
from tracebank.reporting import report
from tracebank.store import traces

pytestmark = pytest.mark.anyio

WORDS = [f"{a}{b}" for a in "kiwi plum fig pear lime nut oat rye".split() for b in ("", "berry", "wood", "field", "stone", "light")]
SHORT = {"compression": 16, "compression_from": 200, "linger_ms": 0}
WHOLE = SHORT | {"compression": "off"}


@pytest.fixture(autouse=True)
def searched_by_chroma(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small as they are, the namespaces are not held in memory; and they are filled in several steps."""
    monkeypatch.setattr("tracebank.retrieval.dense.RESIDENT_CHUNKS", 0)
    monkeypatch.setattr(compaction, "QUIET_TRACES", 60)
    monkeypatch.setattr(compaction, "LOOK_EVERY_S", 3_600.0)


async def add(engine: Engine, numbers: Sequence[int], namespace: str = "default") -> None:
    """Store traces of random words, and wait until they are indexed."""
    rng = random.Random(numbers[0])
    raw = [{"task": f"{i} " + " ".join(rng.choices(WORDS, k=6)), "trace_id": f"{i}"} for i in numbers]
    items = [parse_trace(r, limits=engine.limits, namespace=namespace, trace_id="") for r in raw]
    await engine.add_many(items)
    await settled(engine)


def meaning_of(engine: Engine) -> Meaning:
    """Return what answers."""
    assert engine.vectors is not None
    return Meaning(engine.vectors, engine.embedding, engine.retriever.dense.model_id)


def index_of(engine: Engine) -> ChromaVectorIndex:
    """Return the index that answers."""
    assert isinstance(engine.vectors, ChromaVectorIndex)
    return engine.vectors


async def look(engine: Engine) -> None:
    """Bring the index to the shape that it should have."""
    await engine.semantics.compaction.look(meaning_of(engine))


async def found(engine: Engine) -> list[str]:
    """Return what a question finds."""
    answer = await engine.retrieve({"query": "kiwiberry plumwood figstone", "k": 10}, engine.session())
    assert answer.dense
    return [result.trace_id for result in answer.page.results]


async def test_a_large_namespace_gets_shorter_vectors_and_finds_the_same(tmp_path: Path, tiny: TinyModel) -> None:
    """What is stored later too; `stats` tells what it saves. Switched off, the vectors are whole again."""
    async with Engine.open(settings_of(tmp_path, index=WHOLE)) as engine:
        await add(engine, range(250))
        whole = await found(engine)
    async with Engine.open(settings_of(tmp_path, index=SHORT)) as engine:
        await settled(engine)
        await look(engine)
        index, space = index_of(engine), engine.spaces["default"]
        assert (index.pair(space).serving.dims, index.count(space)) == (16, 250)
        assert await found(engine) == whole
        told = (await report(engine, "index"))["index"]["short_vectors"]["default"]
        assert told["recall_at_10"] >= compaction.LEAST_RECALL
        assert told["bytes"] < told["bytes_whole"]
        await add(engine, range(250, 260))
        await engine.forget(lambda db: traces.rows_of(db, [whole[0]]))
        assert index.count(space) == 259
        assert await found(engine) != whole
    async with Engine.open(settings_of(tmp_path, index=WHOLE)) as engine:
        await settled(engine)
        await look(engine)
        index = index_of(engine)
        assert (index.pair(space).serving.dims, index.count(space)) == (None, 259)
        assert len(index._client.list_collections()) == 1
        assert len(list((tmp_path / "data" / "index" / "vectors-1").glob("*/header.bin"))) == 1


async def test_what_is_written_while_a_namespace_is_filled_is_in_both_generations(
    tmp_path: Path, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is deleted meanwhile comes back in none."""
    async with Engine.open(settings_of(tmp_path, index=SHORT)) as engine:
        await add(engine, range(199))
        await look(engine)
        space, index = engine.spaces["default"], index_of(engine)
        filled = asyncio.Event()
        loop, fill = asyncio.get_running_loop(), index.fill

        def filling(namespace: int, texts: Sequence[IndexedText], up_to_row: int | None) -> None:
            fill(namespace, texts, up_to_row)
            loop.call_soon_threadsafe(filled.set)

        monkeypatch.setattr(index, "fill", filling)
        await add(engine, range(199, 240))
        looking = asyncio.create_task(look(engine))
        await filled.wait()
        gone = await engine.store.read(lambda db: traces.rows_of(db, ["3", "150", "239"]))
        await asyncio.gather(add(engine, range(240, 260)), engine.forget(lambda db: gone))
        await looking
        assert index.pair(space).serving.dims == 16
        ids = set(index._opened(index.pair(space).serving).collection.get(include=[])["ids"])
        sql = "SELECT DISTINCT hex(text_hash) FROM chunks"
        assert ids == {h.lower() for (h,) in await engine.store.read(lambda db: db.execute(sql).fetchall())}


@pytest.mark.parametrize("what", ["rebuilt", "forgotten"])
async def test_an_index_that_is_emptied_while_a_namespace_is_filled_does_no_harm(
    tmp_path: Path, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The next look finds it as it is then."""
    async with Engine.open(settings_of(tmp_path, index=WHOLE)) as engine:
        await add(engine, range(250))
    async with Engine.open(settings_of(tmp_path, index=SHORT)) as engine:
        await settled(engine)
        space, index = engine.spaces["default"], index_of(engine)
        loop, fill = asyncio.get_running_loop(), index.fill
        emptied: list[asyncio.Task[Any]] = []

        def empty() -> None:
            everything = "SELECT id FROM traces"
            forget = partial(engine.forget, lambda db: [row for (row,) in db.execute(everything)])
            emptied.append(asyncio.create_task(engine.indexer.rebuild("vectors") if what == "rebuilt" else forget()))

        def filling(*arguments: Any) -> None:
            fill(*arguments)
            if not emptied:
                loop.call_soon_threadsafe(empty)

        monkeypatch.setattr(index, "fill", filling)
        await look(engine)
        await emptied[0]
        await settled(engine)
        await look(engine)
        expected = (16, 250) if what == "rebuilt" else (None, 0)
        assert (index.pair(space).serving.dims, index.count(space)) == expected


async def test_what_was_interrupted_goes_on(tmp_path: Path, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """From where it was, at the next start."""
    async with Engine.open(settings_of(tmp_path, index=WHOLE)) as engine:
        await add(engine, range(250))
    with monkeypatch.context() as patched:
        fill = ChromaVectorIndex.fill

        def failing(self: ChromaVectorIndex, namespace: int, texts: Sequence[IndexedText], up_to_row: int | None) -> None:
            if up_to_row is not None and up_to_row > 200:
                raise OSError("the machine is going down")
            fill(self, namespace, texts, up_to_row)

        patched.setattr(ChromaVectorIndex, "fill", failing)
        async with Engine.open(settings_of(tmp_path, index=SHORT)) as engine:
            await settled(engine)
            with pytest.raises(OSError, match="going down"):
                await look(engine)
            assert engine.retriever.deep
    begun: list[Any] = []
    monkeypatch.setattr(compaction, "fit", lambda *args: begun.append(args))
    async with Engine.open(settings_of(tmp_path, index=SHORT)) as engine:
        await settled(engine)
        await look(engine)
        index, space = index_of(engine), engine.spaces["default"]
        assert (index.pair(space).serving.dims, index.count(space), begun) == (16, 250, [])


async def test_vectors_that_find_too_little_are_not_taken(tmp_path: Path, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The namespace keeps its whole vectors, and it is not tried again at once."""
    monkeypatch.setattr(compaction, "LEAST_RECALL", 1.1)
    begun = 0

    def counting(*args: Any) -> Any:
        nonlocal begun
        begun += 1
        return fit(*args)

    monkeypatch.setattr(compaction, "fit", counting)
    async with Engine.open(settings_of(tmp_path, index=SHORT | {"compression": "auto"})) as engine:
        await add(engine, range(210))
        await look(engine)
        await look(engine)
        pair = index_of(engine).pair(engine.spaces["default"])
        assert (pair.serving.dims, pair.following, begun) == (None, None, 2)


async def test_a_namespace_that_cannot_be_shortened_keeps_no_other_from_it(
    tmp_path: Path, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told, and tried again; with fewer texts than the numbers that are wanted it is not even tried."""
    monkeypatch.setattr(compaction, "fit", lambda sample, dims: fit(sample[: dims - 1] if len(sample) == 230 else sample, dims))
    async with Engine.open(settings_of(tmp_path, index=SHORT)) as engine:
        for name, numbers in (("first", range(230)), ("second", range(230, 450))):
            await add(engine, numbers, name)
        with pytest.raises(ExceptionGroup) as caught:
            await look(engine)
        (error,) = caught.value.exceptions
        assert isinstance(error, IndexFaultError)
        assert "no projection could be found: ValueError: n_components=16 must be between" in str(error)
        assert [index_of(engine).pair(engine.spaces[name]).serving.dims for name in ("first", "second")] == [None, 16]
        engine.semantics.compaction.settings = engine.settings.index.model_copy(update={"compression": 300})
        assert [engine.semantics.compaction.dims(1, count, 384, None) for count in (300, 301)] == [None, 300]


@pytest.mark.parametrize("length", [0, 5, 200, -30], ids=lambda length: f"cut at {length}")
async def test_a_projection_that_is_damaged_is_made_again_with_its_index(tmp_path: Path, tiny: TinyModel, length: int) -> None:
    """It would keep the namespace from being searched, and written, for ever."""
    async with Engine.open(settings_of(tmp_path, index=SHORT)) as engine:
        await add(engine, range(220))
        await look(engine)
        space = engine.spaces["default"]
        file = tmp_path / "data" / "index" / "vectors-1" / f"{index_of(engine).pair(space).serving.name}.npz"
    file.write_bytes(file.read_bytes()[:length])
    async with Engine.open(settings_of(tmp_path, index=SHORT)) as engine:
        await add(engine, range(220, 230))
        await look(engine)
        assert (index_of(engine).pair(space).serving.dims, index_of(engine).count(space)) == (16, 230)
        assert (engine.indexer.faults, engine.indexer.rebuilds["vectors"]) == ({}, 1)


def test_a_projection_keeps_what_tells_and_survives_on_disk(tmp_path: Path) -> None:
    """The main directions of a sample of three dimensions in forty; what lies elsewhere is told as drift."""
    rng = np.random.default_rng(7)
    plane = rng.normal(size=(3, 40)).astype(np.float32)
    sample = rng.normal(size=(500, 3)).astype(np.float32) @ plane + 1
    projection = fit(sample, 3)
    assert projection.kept == pytest.approx(1.0, abs=1e-3)
    assert projection.kept_of(sample) == pytest.approx(1.0, abs=1e-3)
    assert projection.kept_of(rng.normal(size=(50, 40)).astype(np.float32)) < 0.5
    projection.save(tmp_path / "p.npz")
    assert np.array_equal(load(tmp_path / "p.npz")(sample), projection(sample))
    assert np.linalg.norm(projection(sample), axis=1) == pytest.approx(1.0, abs=1e-4)
