"""Preparing answers in idle time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from samples import WAIT_S, TinyModel, settings_of, settled

from tracebank.engine import Engine
from tracebank.settings import Settings

pytestmark = pytest.mark.anyio

QUESTION = {"query": "upload"}
# Long enough that only the test itself prepares anything, by calling `prepare`.
NEVER = {"idle_s": 80_000}


def settings(tmp_path: Path, **cache: Any) -> Settings:
    """Return settings with these for the cache."""
    return settings_of(tmp_path, cache=cache)


async def asked_twice(engine: Engine) -> None:
    """Store a trace and ask for it as often as makes a question likely."""
    session = engine.session()
    await engine.add({"task": "upload one", "trace_id": "one"}, session)
    await settled(engine)
    for question in (QUESTION, {"query": "asked once"}, QUESTION):
        await engine.retrieve(question, session)


def counted(engine: Engine) -> tuple[int, int, int]:
    """Return hits, misses, and how many calls were timed."""
    report = engine.asking.answers.report()["results"]
    return int(report["hits"]), int(report["misses"]), int(engine.metrics.latencies()["retrieve"]["count"])


async def test_what_a_write_made_unusable_is_prepared_and_counts_as_nobodys_call(tmp_path: Path, tiny: TinyModel) -> None:
    """The likely question only; the next one who asks has a hit, and a page with what was written."""
    async with Engine.open(settings(tmp_path, **NEVER)) as engine:
        await asked_twice(engine)
        session = engine.session()
        await engine.add({"task": "upload two", "trace_id": "two"}, engine.session())
        before = counted(engine)
        await engine.asking.warmer.prepare()
        assert counted(engine) == before
        assert engine.asking.warmer.report() == {"questions": 2, "prepared": 1, "used": 0, "interrupted": 0}
        found = await engine.retrieve(QUESTION, session)
        assert {result.trace_id for result in found.page.results} == {"one", "two"}
        assert counted(engine) == (before[0] + 1, before[1], before[2] + 1)
        assert engine.asking.warmer.report()["used"] == 1
        assert [trace_id for _, trace_id in session.recalled] == [result.trace_id for result in found.page.results]
        assert await engine.retrieve(QUESTION, session) is found
        assert engine.asking.warmer.report()["used"] == 1


async def test_what_is_there_is_not_prepared_again(tmp_path: Path, tiny: TinyModel) -> None:
    """Only what is missing costs anything."""
    async with Engine.open(settings(tmp_path, **NEVER)) as engine:
        await asked_twice(engine)
        await engine.asking.warmer.prepare()
        assert engine.asking.warmer.report()["prepared"] == 0


async def test_it_happens_by_itself_when_nobody_calls(tmp_path: Path, tiny: TinyModel) -> None:
    """After a start too: here for what a write had made unusable before the engine closed."""
    async with Engine.open(settings(tmp_path, **NEVER)) as engine:
        await asked_twice(engine)
        await engine.add({"task": "upload two", "trace_id": "two"}, engine.session())
    tiny.batches.clear()
    async with Engine.open(settings(tmp_path, idle_s=0.01)) as engine, asyncio.timeout(WAIT_S):
        while not engine.asking.warmer.report()["prepared"]:  # noqa: ASYNC110 - it says so nowhere else
            await asyncio.sleep(0.01)
        assert len((await engine.retrieve(QUESTION, engine.session())).page.results) == 2
        assert engine.asking.warmer.report()["used"] == 1


async def test_it_stops_at_once_when_somebody_asks(tmp_path: Path, tiny: TinyModel) -> None:
    """Here while the model is at work for it; later it is taken up again."""
    async with Engine.open(settings(tmp_path, idle_s=0.01)) as engine:
        session = engine.session()
        await asked_twice(engine)
        engine.embedding.cache.clear()
        while tiny.entered.acquire(blocking=False):
            pass
        tiny.gate.clear()
        await engine.store.write(lambda db: db.execute("UPDATE traces SET updated_at_ms = updated_at_ms + 1"))
        engine.asking.warmer.news()
        assert await asyncio.to_thread(tiny.entered.acquire, timeout=WAIT_S)
        other = asyncio.create_task(engine.retrieve({"query": "else"}, session))
        async with asyncio.timeout(WAIT_S):
            while not engine.asking.warmer.report()["interrupted"]:  # noqa: ASYNC110 - it says so nowhere else
                await asyncio.sleep(0)
        tiny.gate.set()
        await other
        async with asyncio.timeout(WAIT_S):
            while not engine.asking.warmer.report()["prepared"]:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)


async def test_it_can_be_switched_off(tmp_path: Path, tiny: TinyModel) -> None:
    """`cache.warm = 0`."""
    async with Engine.open(settings(tmp_path, warm=0)) as engine:
        await asked_twice(engine)
        await engine.asking.warmer.run()
        assert engine.asking.warmer.report()["prepared"] == 0
