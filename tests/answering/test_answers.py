"""Answers that are kept: served while nothing that they were made of has changed, found once for all who ask at once."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from samples import WAIT_S, TinyModel, everything, settings_of, settled, warm

from tracebank.embedding import EmbeddingModel
from tracebank.engine import Engine, Session
from tracebank.errors import ModelLoadError

pytestmark = pytest.mark.anyio

QUESTION = {"query": "upload"}


async def stored(engine: Engine, session: Session, *tasks: str) -> None:
    """Store traces and wait until both indexes have them."""
    for task in tasks:
        await engine.add({"task": task, "trace_id": task}, session)
    await settled(engine)


async def entered(model: TinyModel) -> None:
    """Wait until the model computes."""
    assert await asyncio.to_thread(model.entered.acquire, timeout=WAIT_S)


async def test_what_several_ask_at_once_is_found_once(tmp_path: Path, tiny: TinyModel) -> None:
    """One of them may leave; when all have left, the next one begins anew."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        session = engine.session()
        await stored(engine, session, "upload one", "upload two")
        tiny.batches.clear()
        while tiny.entered.acquire(blocking=False):
            pass
        tiny.gate.clear()
        asking = [asyncio.create_task(engine.retrieve(QUESTION, engine.session())) for _ in range(5)]
        await entered(tiny)
        async with asyncio.timeout(WAIT_S):
            while engine.asking.answers.report()["results"]["shared"] < 4:  # noqa: ASYNC110 - it says so nowhere else
                await asyncio.sleep(0)
        asking[0].cancel()
        tiny.gate.set()
        first, *others = await asyncio.gather(*asking[1:])
        assert all(other is first for other in others)
        assert asking[0].cancelled()
        assert tiny.batches == [["upload"]]
        assert engine.asking.answers.report()["results"]["shared"] == 4


async def test_an_answer_from_before_a_write_is_not_served_after_it(tmp_path: Path, tiny: TinyModel) -> None:
    """Nor kept, where the write came while it was being found."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        session = engine.session()
        await stored(engine, session, "upload one")
        while tiny.entered.acquire(blocking=False):
            pass
        tiny.gate.clear()
        early = asyncio.create_task(engine.retrieve({"query": "upload tomorrow"}, session))
        await entered(tiny)
        await engine.add({"task": "upload tomorrow", "trace_id": "late"}, engine.session())
        tiny.gate.set()
        await early
        await settled(engine)
        found = await engine.retrieve({"query": "upload tomorrow"}, session)
        assert found.page.results[0].trace_id == "late"


async def test_feedback_makes_the_answers_of_its_namespace_unusable(tmp_path: Path, tiny: TinyModel) -> None:
    """A memory's worth moves its score."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        session = engine.session()
        await stored(engine, session, "upload one", "upload two")
        before = await engine.retrieve(QUESTION, session)
        await engine.feedback({"trace_ids": ["upload two"], "helpful": True}, session)
        after = await engine.retrieve(QUESTION, session)
        scores = [{result.trace_id: result.score for result in found.page.results} for found in (before, after)]
        assert scores[1]["upload two"] > scores[0]["upload two"]
        assert scores[1]["upload one"] == scores[0]["upload one"]


async def test_a_write_counts_whoever_writes(tmp_path: Path, tiny: TinyModel) -> None:
    """Nobody has to tell the cache: the store's own triggers do."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        session = engine.session()
        await stored(engine, session, "upload one", "upload two")
        assert len((await engine.retrieve(QUESTION, session)).page.results) == 2
        (row,) = [one.row for one in await everything(engine.store) if one.trace.trace_id == "upload one"]
        await engine.store.write(lambda db: db.execute("DELETE FROM traces WHERE id = ?", (row,)))
        assert [r.trace_id for r in (await engine.retrieve(QUESTION, session)).page.results] == ["upload two"]


async def test_an_answer_without_meaning_is_not_served_when_there_is_meaning(tmp_path: Path, arrived: threading.Event) -> None:
    """While the model loads it is kept like any other."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        session = engine.session()
        await engine.add({"task": "upload"}, session)
        await engine.retrieve(QUESTION, session)
        first = await engine.retrieve(QUESTION, session)
        assert await engine.retrieve(QUESTION, session) is first
        assert not first.dense
        arrived.set()
        await warm(engine)
        assert (await engine.retrieve(QUESTION, session)).dense


async def test_an_answer_that_tells_why_there_is_no_meaning_is_served_while_that_is_the_reason(
    tmp_path: Path, load_with: Callable[[Callable[[], EmbeddingModel]], None]
) -> None:
    """Not that the model is loading when it is known that it cannot be; that is kept in turn."""
    arrived = threading.Event()

    def load() -> EmbeddingModel:
        assert arrived.wait(WAIT_S)
        raise ModelLoadError("there is none")

    load_with(load)
    async with Engine.open(settings_of(tmp_path)) as engine:
        session = engine.session()
        await engine.add({"task": "upload"}, session)
        assert "still loading" in (await engine.retrieve(QUESTION, session)).note
        arrived.set()
        await warm(engine)
        after = await engine.retrieve(QUESTION, session)
        assert after.note == "meaning is off: there is none"
        assert await engine.retrieve(QUESTION, session) is after


async def test_rankings_are_counted_with_their_passages(tmp_path: Path, tiny: TinyModel) -> None:
    """A few long memories take more than many short ones."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        session = engine.session()
        await engine.add({"task": "upload", "content": "\n".join(f"The upload {i} was slow." for i in range(2_000))}, session)
        await settled(engine)
        await engine.retrieve(QUESTION, session)
        ((_, kept, _),) = engine.asking.answers._finder.rankings
        (found,) = kept.searched.ranking
        assert len(found.passages) > 100
        taken = sum(sys.getsizeof(passage) + sys.getsizeof(passage[1]) for passage in found.passages)
        assert taken < engine.asking.answers.report()["rankings"]["bytes"] < 2 * taken


async def test_what_tells_of_other_namespaces_is_not_kept(tmp_path: Path, tiny: TinyModel) -> None:
    """A page that names those that have traces would be wrong as soon as there is one more."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        session = engine.session("empty")
        await warm(engine)
        assert "none yet" in (await engine.retrieve(QUESTION, session)).note
        await stored(engine, engine.session("full"), "upload")
        assert "have some: full" in (await engine.retrieve(QUESTION, session)).note
