"""Who waits for an answer goes before what can wait."""

from __future__ import annotations

import asyncio

import pytest
from samples import WAIT_S

from tracebank import precedence as precedence_module
from tracebank.precedence import Precedence

pytestmark = pytest.mark.anyio


async def test_work_waits_for_all_who_wait_for_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """And goes on when the last one has it, also where that was an error."""
    monkeypatch.setattr(precedence_module, "GIVE_WAY_S", WAIT_S)
    monkeypatch.setattr(precedence_module, "BREATH_S", 0)
    precedence = Precedence()

    async def fails_after_another() -> None:
        with precedence.answering():
            with precedence.answering():
                giving_way.append(asyncio.create_task(precedence.give_way()))
            for _ in range(10):
                await asyncio.sleep(0)
                assert not giving_way[0].done()
            raise OSError("gone")

    giving_way: list[asyncio.Task[None]] = []
    with pytest.raises(OSError, match="gone"):
        await fails_after_another()
    await asyncio.wait_for(giving_way[0], WAIT_S)


async def test_who_is_cancelled_ends_also_in_the_moment_in_which_it_may_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancellation that is lost would keep the engine from closing."""
    monkeypatch.setattr(precedence_module, "GIVE_WAY_S", WAIT_S)
    monkeypatch.setattr(precedence_module, "BREATH_S", 0)
    precedence = Precedence()
    with precedence.answering():
        giving_way = asyncio.create_task(precedence.give_way())
        for _ in range(10):
            await asyncio.sleep(0)
    giving_way.cancel()
    with pytest.raises(asyncio.CancelledError):
        await giving_way


async def test_a_slow_answer_does_not_stop_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for so long, and not longer."""
    monkeypatch.setattr(precedence_module, "GIVE_WAY_S", 0.01)
    precedence = Precedence()
    with precedence.answering():
        await asyncio.wait_for(precedence.give_way(), WAIT_S)


async def test_who_has_asked_lately_is_expected_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has at first; and who still waits is not forgotten, however long that takes."""
    precedence = Precedence()
    assert not precedence.lately
    precedence.asked()
    assert precedence.lately
    monkeypatch.setattr(precedence_module, "LATELY_S", 0.0)
    assert not precedence.lately
    with precedence.answering():
        assert precedence.lately


async def test_the_longer_nobody_asks_the_more_is_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """At first nobody has asked, and it is as if nobody had for long."""
    precedence = Precedence()
    assert precedence.texts == precedence_module.LONELY_TEXTS
    precedence.asked()
    assert precedence.texts == precedence_module.ASKED_TEXTS
    monkeypatch.setattr(precedence_module, "LATELY_S", 0.0)
    assert precedence.texts == precedence_module.QUIET_TEXTS
    with precedence.answering():
        assert precedence.texts == precedence_module.ASKED_TEXTS
    monkeypatch.setattr(precedence_module, "LONG_S", 0.0)
    assert precedence.texts == precedence_module.LONELY_TEXTS
    assert precedence_module.LONELY_TEXTS > precedence_module.QUIET_TEXTS > precedence_module.ASKED_TEXTS
