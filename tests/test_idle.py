"""Time in which nobody calls."""

from __future__ import annotations

import asyncio

import pytest

from tracebank.idle import Idle

pytestmark = pytest.mark.anyio


async def test_it_is_idle_when_nobody_has_called_for_a_while() -> None:
    """A call begins the wait anew."""
    idle = Idle()
    waiting = asyncio.create_task(idle.wait(0.05))
    for _ in range(5):
        await asyncio.sleep(0)
        idle.touch()
        assert not waiting.done()
    await waiting


async def test_work_goes_on_to_its_end_while_nobody_calls() -> None:
    """And its error is heard."""
    idle = Idle()
    done = asyncio.Event()

    async def work() -> None:
        done.set()

    assert await idle.run(work)
    assert done.is_set()

    async def fail() -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await idle.run(fail)


async def test_work_ends_when_somebody_calls_and_when_it_is_cancelled() -> None:
    """At once, wherever it is."""
    idle = Idle()
    ended: list[str] = []
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("ended")

    for end in ("call", "cancel"):
        begun.clear()
        running = asyncio.create_task(idle.run(work))
        await begun.wait()
        if end == "call":
            idle.touch()
            assert not await running
        else:
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
    assert ended == ["ended"] * 2
