"""Indexes and what is kept of answers are of the store that lies beside them, and of no other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from samples import TinyModel, settings_of, settled

from tracebank.engine import STORE_NAME, Engine
from tracebank.errors import DataDirError
from tracebank.origin import ORIGIN_NAME, Origin
from tracebank.reporting import examine
from tracebank.store.identity import Identity

pytestmark = pytest.mark.anyio

SECRET = "xyzzy-plugh-4711"


async def filled(tmp_path: Path, *names: str) -> None:
    """Store traces, and ask for them, so that an answer is kept."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        for name in names:
            await engine.add({"task": f"upload {name}", "trace_id": name}, engine.session())
        await settled(engine)
        await engine.retrieve({"query": "upload"}, engine.session())


def holding(directory: Path) -> set[str]:
    """Return the names of the files that hold the secret."""
    return {path.name for path in directory.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()}


@pytest.mark.parametrize("moved", ["a copy is put back", "the store is moved away"])
async def test_a_store_that_is_another_one_meets_nothing_of_the_former(tmp_path: Path, tiny: TinyModel, moved: str) -> None:
    """Neither is it found, nor does it stay on the disk; what the store has is indexed anew."""
    await filled(tmp_path, "first")
    data = tmp_path / "data"
    shutil.copy(data / STORE_NAME, tmp_path / "copy")
    await filled(tmp_path, SECRET)
    assert holding(data)
    (data / STORE_NAME).unlink()
    known = []
    if moved == "a copy is put back":
        shutil.copy(tmp_path / "copy", data / STORE_NAME)
        known = ["first"]
    async with Engine.open(settings_of(tmp_path)) as engine:
        await settled(engine)
        found = await engine.retrieve({"query": "upload"}, engine.session())
        assert [result.trace_id for result in found.page.results] == known
        # With the number that the other trace had.
        await engine.add({"task": "upload again", "trace_id": "again"}, engine.session())
        await settled(engine)
        found = await engine.retrieve({"query": "upload again"}, engine.session())
        assert (found.dense, sorted(result.trace_id for result in found.page.results)) == (True, sorted(["again", *known]))
        assert all(well for _, well, _ in await examine(engine))
    assert not holding(data)


@pytest.mark.parametrize("written", ["as it was", "before there was such a file", "damaged"])
async def test_the_same_store_keeps_its_indexes(tmp_path: Path, tiny: TinyModel, written: str) -> None:
    """Nothing is embedded or written again."""
    await filled(tmp_path, "first")
    file = tmp_path / "data" / "index" / ORIGIN_NAME
    before = json.loads(file.read_text())
    if written == "damaged":
        file.write_text("[")
    if written == "before there was such a file":
        file.unlink()
    async with Engine.open(settings_of(tmp_path)) as engine:
        assert not engine.words.fresh
        assert (await engine.store.read(lambda db: db.execute("SELECT count(*) FROM outbox").fetchone())) == (0,)
    after = json.loads(file.read_text())
    assert (after["store"], after["last_seq"] >= before["last_seq"]) == (before["store"], True)


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    """So the index waits: what it took without it could not be told from another store's."""
    origin = Origin(tmp_path / "index")
    origin.settle(Identity("id", 3), [])
    origin.reach(2)
    written = tmp_path / "index" / ORIGIN_NAME
    written.unlink()
    written.mkdir()
    with pytest.raises(DataDirError, match=r"store\.json cannot be written: .*; free some space"):
        origin.reach(4)
    written.rmdir()
    origin.reach(4)
    assert json.loads(written.read_text()) == {"store": "id", "last_seq": 4}
