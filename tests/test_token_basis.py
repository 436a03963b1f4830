"""Token vectors of other directions than before are not compared with those that are kept: they are made again."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import WAIT_S, TinyModel, settings_of, settled, tiny_vector

from tracebank.answering.asking import CACHE_NAME
from tracebank.embedding import PROBE, TokenVectors, Vectors, packed
from tracebank.engine import Engine
from tracebank.errors import StoreError
from tracebank.store import models, outbox
from tracebank.work import load_work

pytestmark = pytest.mark.anyio

TASKS = [f"task {i} of the upload" for i in range(5)]


class Tokenwise(TinyModel):
    """It tells of each token, along directions that a test may turn round."""

    def __init__(self) -> None:
        super().__init__()
        self.directions = np.eye(self.dim, dtype=np.float32)

    def encode_tokens(self, texts: Sequence[str]) -> tuple[Vectors, list[TokenVectors]]:
        """Return the vectors, and those of the words."""
        words = [text.split() for text in texts]
        return self.encode(texts), [
            TokenVectors(
                codes=packed(np.stack([tiny_vector(word) for word in own]) @ self.directions),
                spans=np.array([(text.index(word), text.index(word) + len(word)) for word in own], np.int32),
            )
            for text, own in zip(texts, words, strict=True)
        ]


@pytest.fixture
def tokenwise(load_with: Any) -> Tokenwise:
    """The model of every engine of a test."""
    model = Tokenwise()
    load_with(lambda: model)
    return model


async def kept(engine: Engine) -> dict[bytes, bytes]:
    """Return the token vectors of the store, by the hash of their text."""
    return await engine.store.read(lambda db: dict(db.execute("SELECT text_hash, codes FROM token_vectors").fetchall()))


async def filled(tmp_path: Path) -> dict[bytes, bytes]:
    """Store the tasks, and return what is kept of their tokens."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        for task in TASKS:
            await engine.add({"task": task}, engine.session())
        await settled(engine)
        return await kept(engine)


async def test_the_same_directions_are_gone_on_with(tmp_path: Path, tokenwise: Tokenwise) -> None:
    """Nothing but the known text is embedded at the next start."""
    before = await filled(tmp_path)
    assert len(before) == len(TASKS)
    tokenwise.batches.clear()
    async with Engine.open(settings_of(tmp_path)) as engine:
        await settled(engine)
        assert (await kept(engine), tokenwise.texts) == (before, [PROBE])


@pytest.mark.parametrize("forgotten", [False, True], ids=["other directions", "of a store that does not say which they are"])
async def test_other_directions_are_made_again(tmp_path: Path, tokenwise: Tokenwise, *, forgotten: bool) -> None:
    """Of everything, and what is found is compared with them."""
    before = await filled(tmp_path)
    tokenwise.directions = np.ascontiguousarray(tokenwise.directions[::-1])
    if forgotten:
        tokenwise.directions = np.eye(tokenwise.dim, dtype=np.float32)
        async with Engine.open(settings_of(tmp_path)) as engine:
            await engine.store.write(lambda db: db.execute("UPDATE models SET token_probe = NULL"))
    tokenwise.batches.clear()
    async with Engine.open(settings_of(tmp_path)) as engine:
        await settled(engine)
        now = await kept(engine)
        assert now.keys() == before.keys()
        assert sorted(tokenwise.texts) == sorted([PROBE, *TASKS])
        assert forgotten == (now == before)
        found = await engine.retrieve({"query": TASKS[3]}, engine.session())
        assert found.page.results[0].task == TASKS[3]


async def test_a_kill_midway_leaves_no_trace_without_tokens(tmp_path: Path, tokenwise: Tokenwise, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the next start finds the directions of before."""
    before = await filled(tmp_path)
    directions = tokenwise.directions
    tokenwise.directions = np.ascontiguousarray(directions[::-1])
    with monkeypatch.context() as patched:

        def die(*_: Any) -> None:
            raise OSError("killed")

        patched.setattr("tracebank.token_basis.vectors.any_kept", die)
        async with Engine.open(settings_of(tmp_path)) as engine:
            await engine.warm.wait()
            assert not engine.retriever.deep
            assert await kept(engine) == {}
    tokenwise.directions = directions
    async with Engine.open(settings_of(tmp_path)) as engine:
        await settled(engine)
        assert await kept(engine) == before


async def test_a_disk_that_fails_meanwhile_is_waited_for(tmp_path: Path, tokenwise: Tokenwise, monkeypatch: pytest.MonkeyPatch) -> None:
    """Meaning is not off until the next start for it."""
    monkeypatch.setattr("tracebank.semantics.RETRY_S", 0.01)
    faults, probe = [StoreError("disk I/O error")], models.token_probe

    def failing(db: sqlite3.Connection, model: int) -> bytes | None:
        if faults:
            raise faults.pop()
        return probe(db, model)

    monkeypatch.setattr("tracebank.token_basis.models.token_probe", failing)
    before = await filled(tmp_path)
    assert (len(before), faults) == (len(TASKS), [])


async def test_what_is_forgotten_while_the_model_loads_goes_from_the_index(tmp_path: Path, tokenwise: Tokenwise, load_with: Any) -> None:
    """What had to go before is not forgotten over what has to be made again."""
    await filled(tmp_path)
    tokenwise.directions = np.ascontiguousarray(tokenwise.directions[::-1])
    gate = threading.Event()
    load_with(lambda: tokenwise if gate.wait(WAIT_S) else None)
    async with Engine.open(settings_of(tmp_path)) as engine:
        chosen = "SELECT id FROM traces WHERE task = ?"
        assert await engine.forget(lambda db: [row for (row,) in db.execute(chosen, (TASKS[2],))]) == 1
        gate.set()
        await settled(engine)
        assert engine.vectors is not None
        assert engine.vectors.count(engine.spaces["default"]) == len(TASKS) - 1
        assert len(await kept(engine)) == len(TASKS) - 1


async def test_texts_without_tokens_count_as_texts_to_be_embedded(tmp_path: Path, tokenwise: Tokenwise) -> None:
    """Their batches are as small as those of new texts."""
    await filled(tmp_path)
    async with Engine.open(settings_of(tmp_path)) as engine:
        await settled(engine)

        def batch(db: sqlite3.Connection) -> int:
            db.execute("DELETE FROM token_vectors")
            outbox.again(db, "vectors")
            entries = outbox.due(db, "vectors", limit=100)
            [work] = load_work(db, entries, max_chunks=2, model=1, tokens=True)
            outbox.clear(db, [entry.seq for entry in entries])
            return len(work.entries)

        assert await engine.store.write(batch) == 2


async def test_questions_are_not_compared_in_directions_of_before(tmp_path: Path, tokenwise: Tokenwise) -> None:
    """Their vectors survive a restart, with those of their tokens."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        await engine.add({"task": TASKS[0]}, engine.session())
        await settled(engine)
        await engine.retrieve({"query": "which upload"}, engine.session())
    tokenwise.directions = np.ascontiguousarray(tokenwise.directions[::-1])
    tokenwise.batches.clear()
    kept_on_disk = tmp_path / "data" / CACHE_NAME / "vectors"
    assert kept_on_disk.exists()
    async with Engine.open(settings_of(tmp_path)) as engine:
        await settled(engine)
        assert not kept_on_disk.exists()  # nor after a kill
        await engine.add({"task": TASKS[1]}, engine.session())  # what was answered before is out of date
        await engine.retrieve({"query": "which upload"}, engine.session())
        assert "which upload" in tokenwise.texts
