"""What survives a restart of the engine, and what must not."""

from __future__ import annotations

import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from samples import WAIT_S, TinyModel, everything, settings_of, settled, warm

from tracebank.embedding import EmbeddingModel
from tracebank.engine import Engine

pytestmark = pytest.mark.anyio

QUESTION = {"query": "upload", "detail": "full", "tags": ["ours"], "namespace": ["house", "other"], "metadata": {"kind": "test"}}


def hits(engine: Engine) -> int:
    """Return how many answers came from the cache."""
    return int(engine.asking.answers.report()["results"]["hits"])


async def asked_and_closed(tmp_path: Path, **flags: Any) -> Any:
    """Store two traces, ask, close the engine, and return the answer."""
    async with Engine.open(settings_of(tmp_path, **flags)) as engine:
        session = engine.session("house")
        for name in ("one", "two"):
            await engine.add(
                {"task": f"upload {name}", "trace_id": name, "tags": ["ours"], "lessons": ["Look."], "metadata": {"kind": "test"}}, session
            )
        await engine.add({"task": "elsewhere", "namespace": "other"}, session)
        await settled(engine)
        return await engine.retrieve(QUESTION, session)


async def test_an_answer_survives_a_restart(tmp_path: Path, tiny: TinyModel) -> None:
    """It is the same in every part, and asks neither the model nor an index."""
    before = await asked_and_closed(tmp_path)
    tiny.batches.clear()
    async with Engine.open(settings_of(tmp_path)) as engine:
        await settled(engine)
        after = await engine.retrieve(QUESTION, engine.session("house"))
        assert after == before
        assert after is await engine.retrieve(QUESTION, engine.session("house"))
        assert hits(engine) == 2
        assert tiny.texts == []


async def test_after_a_restart_an_answer_is_there_before_the_model(
    tmp_path: Path, tiny: TinyModel, load_with: Callable[[Callable[[], EmbeddingModel]], None]
) -> None:
    """With all the meaning that it had."""
    before = await asked_and_closed(tmp_path)
    arrived = threading.Event()

    def load() -> EmbeddingModel:
        assert arrived.wait(WAIT_S)
        return tiny

    load_with(load)
    async with Engine.open(settings_of(tmp_path)) as engine:
        assert not engine.retriever.deep
        assert await engine.retrieve(QUESTION, engine.session("house")) == before
        assert before.dense
        arrived.set()


async def test_the_vectors_of_questions_survive_a_restart(tmp_path: Path, tiny: TinyModel) -> None:
    """Also where the answer does not: after a write the index is asked, and the model is not."""
    await asked_and_closed(tmp_path)
    async with Engine.open(settings_of(tmp_path)) as engine:
        await engine.add(
            {"task": "upload three", "trace_id": "three", "tags": ["ours"], "metadata": {"kind": "test"}}, engine.session("house")
        )
        await settled(engine)
        tiny.batches.clear()
        found = await engine.retrieve(QUESTION, engine.session("house"))
        assert (len(found.page.results), found.dense, tiny.texts, hits(engine)) == (3, True, [], 0)


@pytest.mark.parametrize("flags", [{"retrieval": {"candidates": 150}}, {"index": {"chunk_tokens": 100, "linger_ms": 0}}])
async def test_with_other_settings_nothing_is_taken_over(tmp_path: Path, tiny: TinyModel, flags: dict[str, Any]) -> None:
    """They may change any answer."""
    await asked_and_closed(tmp_path)
    async with Engine.open(settings_of(tmp_path, **flags)) as engine:
        await settled(engine)
        await engine.retrieve(QUESTION, engine.session("house"))
        assert hits(engine) == 0


async def test_a_damaged_file_is_an_empty_cache(tmp_path: Path, tiny: TinyModel) -> None:
    """Each of them; the engine opens and answers."""
    before = await asked_and_closed(tmp_path)
    for path in (tmp_path / "data" / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:-2])
    async with Engine.open(settings_of(tmp_path)) as engine:
        await settled(engine)
        assert (await engine.retrieve(QUESTION, engine.session("house"))).page == before.page
        assert hits(engine) == 0


async def test_what_is_kept_is_its_owners_alone(tmp_path: Path, tiny: TinyModel) -> None:
    """It is as personal as the store."""
    await asked_and_closed(tmp_path)
    files = list((tmp_path / "data" / "cache").iterdir())
    assert sorted(path.name for path in files) == ["answers", "asked", "vectors"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


async def test_what_is_forgotten_is_in_no_file(tmp_path: Path, tiny: TinyModel) -> None:
    """From the moment on when `forget` returns, and after the engine has closed."""
    await asked_and_closed(tmp_path)
    cache = tmp_path / "data" / "cache"

    def told() -> bool:
        return any(b"upload one" in path.read_bytes() for path in cache.iterdir())

    assert told()
    async with Engine.open(settings_of(tmp_path)) as engine:
        await settled(engine)
        (row,) = [stored.row for stored in await everything(engine.store) if stored.trace.trace_id == "one"]
        await engine.forget(lambda db: [row])
        assert not told()
        found = await engine.retrieve(QUESTION, engine.session("house"))
        assert [result.trace_id for result in found.page.results] == ["two"]
        await engine.asking.keeper.save()
        assert not told()
    assert not told()


async def test_switched_off_nothing_is_written_and_what_was_there_goes(tmp_path: Path, tiny: TinyModel) -> None:
    """`cache.disk_bytes = 0`."""
    await asked_and_closed(tmp_path)
    async with Engine.open(settings_of(tmp_path, cache={"disk_bytes": 0})) as engine:
        await warm(engine)
        await engine.retrieve(QUESTION, engine.session("house"))
    assert list((tmp_path / "data" / "cache").iterdir()) == []
