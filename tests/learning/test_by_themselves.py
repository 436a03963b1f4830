"""What learning does by itself: each part goes on, whatever happens to the others and to itself."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from samples import WAIT_S, settings_of

from tracebank.engine import Engine
from tracebank.learning import Episode, Episodes
from tracebank.store import episodes, lesson_groups

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("tiny")]

STEPS: list[dict[str, Any]] = [{"action": "run_tests()", "observation": "12 passed", "ok": True}]
SOON: dict[str, Any] = {"flush_s": 0.05, "consolidate_after_s": 0.01, "abandon_after_s": 3_000.0}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has failed is done again at once."""
    for name in ("RETRY_S", "STORING_RETRY_S"):
        monkeypatch.setattr(f"tracebank.learning.learner.{name}", 0.01)


async def happened(event: asyncio.Event) -> None:
    """Wait for an event."""
    async with asyncio.timeout(WAIT_S):
        await event.wait()


async def test_a_fault_in_consolidation_ends_nothing_and_is_told_until_it_is_mended(tmp_path: Path) -> None:
    """Not even one of our own: steps are stored meanwhile, and consolidation goes on when it can."""
    async with Engine.open(settings_of(tmp_path, learning=SOON)) as engine:
        consolidator, failed, done = engine.learner.consolidator, asyncio.Event(), asyncio.Event()
        consolidate = consolidator.consolidate

        async def broken() -> dict[str, Any]:
            failed.set()
            raise RuntimeError("a fault of our own")

        async def mended() -> dict[str, Any]:
            report = await consolidate()
            done.set()
            return report

        consolidator.consolidate = broken  # type: ignore[method-assign]
        for number in range(2):
            await engine.add({"task": f"t{number}", "lessons": ["Close the file before it is moved."]}, engine.session())
        await happened(failed)
        assert engine.problems["consolidation"] == "a fault of our own"
        episode_id = (await engine.log_steps({"task": "t", "steps": STEPS}, engine.session())).episode_id
        await happened(engine.learner.episodes.step_log.stored)
        assert len(await engine.store.read(lambda db: episodes.steps_of(db, episode_id))) == 1
        consolidator.consolidate = mended  # type: ignore[method-assign]
        await happened(done)
        assert "consolidation" not in engine.problems
        assert await engine.store.read(lesson_groups.counts) == {"equal": 1}


@pytest.mark.parametrize("part", ["rotate", "drop"])
async def test_a_journal_that_fails_holds_up_steps_only_until_it_works_again(tmp_path: Path, part: str) -> None:
    """The system may refuse to close or delete a file; no step is lost, and none is there twice."""
    async with Engine.open(settings_of(tmp_path, learning=SOON)) as engine:
        log = engine.learner.episodes.step_log
        works, failed = getattr(log._journal, part), asyncio.Event()
        loop = asyncio.get_running_loop()

        def refuse(*_: object) -> None:
            setattr(log._journal, part, works)
            loop.call_soon_threadsafe(failed.set)
            raise OSError(5, "Input/output error")

        setattr(log._journal, part, refuse)
        episode_id = (await engine.log_steps({"task": "t", "steps": STEPS}, engine.session())).episode_id
        await happened(failed)
        await engine.log_steps({"episode_id": episode_id, "steps": STEPS}, engine.session())
        await happened(log.stored)
        assert len(await engine.store.read(lambda db: episodes.steps_of(db, episode_id))) == 2
        assert not list((tmp_path / "data" / "journal").iterdir())


async def test_an_abandoned_episode_that_cannot_be_closed_keeps_no_other_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again, and told until it is closed."""
    now = [1_000_000.0]
    abandon, tried, closed, mended = Episodes._abandon, asyncio.Event(), asyncio.Event(), asyncio.Event()
    async with Engine.open(settings_of(tmp_path, learning=SOON), clock=lambda: now[0]) as engine:
        first, second = [(await engine.log_steps({"task": f"t{i}", "steps": STEPS}, engine.session())).episode_id for i in range(2)]
    now[0] += 3_001.0

    async def one_fails(self: Episodes, episode: Episode) -> None:
        if episode.episode_id == first and not mended.is_set():
            raise ZeroDivisionError
        await abandon(self, episode)
        (closed if episode.episode_id == first else tried).set()

    monkeypatch.setattr(Episodes, "_abandon", one_fails)
    async with Engine.open(settings_of(tmp_path, learning=SOON), clock=lambda: now[0]) as engine:
        await happened(tried)
        assert set(engine.learner.episodes.step_log.open) == {first}
        assert engine.problems["closing abandoned episodes"] == "ZeroDivisionError"
        mended.set()
        await happened(closed)
        assert "closing abandoned episodes" not in engine.problems
        for episode_id in (first, second):
            assert await engine.trace(episode_id, engine.session()) is not None
