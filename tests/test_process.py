"""What every process that runs an engine does."""

from __future__ import annotations

import asyncio
import gc

import pytest

from tracebank.process import keep_what_came_up

pytestmark = pytest.mark.anyio


async def test_the_collector_no_longer_looks_through_what_came_up() -> None:
    """Once everything has; before, there would be little to leave out."""
    warm = asyncio.Event()
    keeping = asyncio.create_task(keep_what_came_up(warm))
    await asyncio.sleep(0)
    assert gc.get_freeze_count() == 0
    warm.set()
    try:
        await keeping
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()
