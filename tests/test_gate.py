"""A gate that many pass, and that one closes."""

from __future__ import annotations

import asyncio

import pytest

from tracebank.gate import Gate

pytestmark = pytest.mark.anyio


async def test_nobody_passes_until_everybody_who_has_closed_it_is_through() -> None:
    """Two may want it closed at once: the second waits for the first, and whoever passes for both."""
    gate, said = Gate(), []
    first_may_leave = asyncio.Event()

    async def close(name: str, may_leave: asyncio.Event | None = None) -> None:
        async with gate.closed():
            said.append(f"{name} in")
            if may_leave is not None:
                await may_leave.wait()
            assert not passing
            said.append(f"{name} out")

    passing: list[str] = []

    async def go_through() -> None:
        async with gate.passing():
            passing.append("inside")
            said.append("through")
            await asyncio.sleep(0)
            passing.clear()

    async with asyncio.TaskGroup() as group:
        group.create_task(close("a", first_may_leave))
        await asyncio.sleep(0)
        group.create_task(close("b"))
        group.create_task(go_through())
        await asyncio.sleep(0)
        first_may_leave.set()
    assert said.index("a out") < said.index("b in")
    assert said.index("a out") < said.index("through")
    assert sorted(said) == ["a in", "a out", "b in", "b out", "through"]


async def test_who_was_told_that_it_is_open_looks_whether_it_still_is() -> None:
    """Somebody else may have closed it in between."""
    gate, inside = Gate(), False

    async def go_through() -> None:
        nonlocal inside
        async with gate.passing():
            inside = True

    async def close() -> None:
        async with gate.closed():
            for _ in range(5):
                await asyncio.sleep(0)
                assert not inside

    async with asyncio.TaskGroup() as group, gate.closed():
        group.create_task(go_through())
        await asyncio.sleep(0)
        group.create_task(close())
    assert inside


async def test_who_closes_it_waits_for_those_inside() -> None:
    """And they are not disturbed."""
    gate, leave, said = Gate(), asyncio.Event(), []

    async def stay() -> None:
        async with gate.passing():
            await leave.wait()
            said.append("out")

    async def close() -> None:
        async with gate.closed():
            said.append("closed")

    async with asyncio.TaskGroup() as group:
        group.create_task(stay())
        await asyncio.sleep(0)
        group.create_task(close())
        await asyncio.sleep(0)
        leave.set()
    assert said == ["out", "closed"]
