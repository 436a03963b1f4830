"""Indexes and what is kept of answers are of the store that lies beside them, and of no other."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from samples import TinyModel, put, settings_of, settled, trace

from tracebank.answering.asking import CACHE_NAME
from tracebank.engine import STORE_NAME, Engine
from tracebank.errors import DataDirError
from tracebank.origin import ORIGIN_NAME, Origin
from tracebank.reporting import examine
from tracebank.store import Store
from tracebank.store.identity import identity

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
@pytest.mark.parametrize("linked", [(), ("index", "cache")], ids=["", "linked"])
async def test_a_store_that_is_another_one_meets_nothing_of_the_former(
    tmp_path: Path, tiny: TinyModel, moved: str, linked: Sequence[str]
) -> None:
    """Neither is it found, nor does it stay on the disk; what the store has is indexed anew. Links to another disk stay."""
    data = tmp_path / "data"
    data.mkdir()
    for name in linked:
        (tmp_path / "other disk" / name).mkdir(parents=True)
        (data / name).symlink_to(tmp_path / "other disk" / name)
    await filled(tmp_path, "first")
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
    assert not holding(tmp_path)
    assert all((data / name).is_symlink() for name in linked)


async def test_a_copy_that_was_used_for_a_while_leaves_nothing_for_the_store_that_comes_back(tmp_path: Path, tiny: TinyModel) -> None:
    """It goes its own way from where it was put back, however far it comes."""
    await filled(tmp_path, "first")
    data = tmp_path / "data"
    shutil.copy(data / STORE_NAME, tmp_path / "copy")
    await filled(tmp_path, "second", "third", "fourth")
    (data / STORE_NAME).rename(tmp_path / "newer")
    shutil.copy(tmp_path / "copy", data / STORE_NAME)
    await filled(tmp_path, SECRET)
    (tmp_path / "newer").replace(data / STORE_NAME)
    async with Engine.open(settings_of(tmp_path)) as engine:
        await settled(engine)
        found = await engine.retrieve({"query": "upload"}, engine.session())
        assert {result.trace_id for result in found.page.results} == {"first", "second", "third", "fourth"}
        assert all(well for _, well, _ in await examine(engine))
    assert not holding(data)


DAMAGED = {"damaged": "[", "with a number as text": '{"store": "A", "last_seq": "1"}', "with a list": "[]"}


@pytest.mark.parametrize("written", ["as it was", "before there was such a file", *DAMAGED])
async def test_the_same_store_keeps_its_indexes(tmp_path: Path, tiny: TinyModel, written: str) -> None:
    """Nothing is embedded or written again, and answers are kept."""
    await filled(tmp_path, "first")
    kept = {path: path.read_bytes() for path in (tmp_path / "data" / CACHE_NAME).iterdir()}
    file = tmp_path / "data" / "index" / ORIGIN_NAME
    before = json.loads(file.read_text())
    if written in DAMAGED:
        file.write_text(DAMAGED[written])
    if written == "before there was such a file":
        file.unlink()
    async with Engine.open(settings_of(tmp_path)) as engine:
        assert not engine.words.fresh
        assert kept
        assert kept == {path: path.read_bytes() for path in kept}
        assert (await engine.store.read(lambda db: db.execute("SELECT count(*) FROM outbox").fetchone())) == (0,)
    after = json.loads(file.read_text())
    assert (after["store"], after["last_seq"] >= before["last_seq"]) == (before["store"], True)


async def test_what_cannot_be_written_is_told(tmp_path: Path, store: Store) -> None:
    """So the index waits: what it took without it could not be told from another store's."""
    origin = Origin(tmp_path / "index")
    await put(store, trace())
    present = store.read_now(identity)
    await origin.settle(store, [])
    origin.reach(present.last_seq - 1)
    written = tmp_path / "index" / ORIGIN_NAME
    written.unlink()
    written.mkdir()
    with pytest.raises(DataDirError, match=r"store\.json cannot be written: .*; let this user write it"):
        origin.reach(present.last_seq + 1)
    written.rmdir()
    origin.reach(present.last_seq + 1)
    assert json.loads(written.read_text()) == {"store": present.store, "last_seq": present.last_seq + 1}


async def test_a_full_disk_is_told_as_such(store: Store, small_disk: Path, ballast: Callable[[], None]) -> None:
    """There it helps to free some space."""
    ballast()
    with pytest.raises(DataDirError, match=r"store\.json cannot be written: .*; free some space"):
        await Origin(small_disk / "index").settle(store, [])


async def test_what_cannot_be_deleted_is_told(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine does not start over what is of another store, and the next start goes on."""
    directory = tmp_path / "index"
    (directory / "words").mkdir(parents=True)
    (directory / ORIGIN_NAME).write_text('{"store": "another", "last_seq": 1}')
    with monkeypatch.context() as patched:

        def refuse(path: Path) -> None:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

        patched.setattr("tracebank.origin.shutil.rmtree", refuse)
        with pytest.raises(DataDirError, match=r"words is of another store and cannot be deleted: Permission denied; delete what is in "):
            await Origin(directory).settle(store, [])
    await Origin(directory).settle(store, [])
    assert [path.name for path in directory.iterdir()] == [ORIGIN_NAME]
