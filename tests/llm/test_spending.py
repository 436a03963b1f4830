"""The day's cap: reserved before, settled after, and never forgotten."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from llm.conftest import NOON, ClientOf, Time, provider_settings
from llm.provider import Held, Reply, serving

from tracebank.errors import LlmCapError, StoreError
from tracebank.llm import Completion, Request, Spending
from tracebank.store import Store
from tracebank.store.spending import Spent, spent

pytestmark = pytest.mark.anyio


def spending_of(store: Store, time: Time, tokens: int = 1_000, usd: float = 1.0) -> Spending:
    """Return a small cap."""
    return Spending(store, daily_tokens=tokens, daily_usd=usd, clock=time.clock)


async def test_what_is_reserved_counts_until_it_is_settled(store: Store, time: Time) -> None:
    """Then only what was used counts; nothing used is nothing counted."""
    spending = spending_of(store, time)
    first = await spending.reserve(Spent(tokens=900, nano_usd=500))
    with pytest.raises(LlmCapError, match=r"llm\.daily_tokens is 1000, 900 are used today and this call may need 101: raise the cap"):
        await spending.reserve(Spent(tokens=101))
    await spending.settle(first, Spent(tokens=300, nano_usd=200))
    second = await spending.reserve(Spent(tokens=700))
    await spending.settle(second, Spent())
    report = await spending.report()
    assert (report["tokens"], report["usd"]) == (300, 2e-7)


async def test_the_cap_in_money_holds_by_itself(store: Store, time: Time) -> None:
    """To the billionth of a dollar."""
    spending = spending_of(store, time)
    await spending.reserve(Spent(nano_usd=999_999_999))
    with pytest.raises(LlmCapError, match=r"llm\.daily_usd is 1, 1\.0000 are spent today"):
        await spending.reserve(Spent(nano_usd=2))
    await spending.reserve(Spent(nano_usd=1))


async def test_many_at_once_cannot_pass_the_cap_together(store: Store, time: Time) -> None:
    """Each is checked against all that were granted before it."""
    spending = spending_of(store, time)
    results = await asyncio.gather(*(spending.reserve(Spent(tokens=300)) for _ in range(20)), return_exceptions=True)
    assert sum(not isinstance(result, LlmCapError) for result in results) == 3


async def test_a_new_day_is_a_new_cap_and_the_old_one_is_settled_where_it_was_reserved(store: Store, time: Time) -> None:
    """A call over midnight belongs to the day on which it began."""
    spending = spending_of(store, time)
    late = await spending.reserve(Spent(tokens=1_000))
    time.now = NOON + 86_400
    await spending.reserve(Spent(tokens=1_000))
    await spending.settle(late, Spent(tokens=10))
    assert (await spending.report())["tokens"] == 1_000
    time.now = NOON
    assert (await spending.report())["tokens"] == 10


async def test_calls_that_begin_together_share_a_commit_and_no_settlement_waits_for_one(store: Store, time: Time) -> None:
    """What is settled is written with what is reserved next, before it."""
    spending = spending_of(store, time)
    before = (await store.read(store.figures))["commits"]
    granted = await asyncio.gather(*(spending.reserve(Spent(tokens=100)) for _ in range(10)))
    assert (await store.read(store.figures))["commits"] == before + 1  # type: ignore[operator]
    for reservation in granted:
        await spending.settle(reservation, Spent(tokens=10))
    await spending.reserve(Spent(tokens=900))
    assert (await store.read(store.figures))["commits"] == before + 2  # type: ignore[operator]
    assert (await spending.report())["tokens"] == 1_000


async def test_a_settlement_that_no_call_takes_along_is_written_by_itself(
    store: Store, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine at rest has its account in order."""
    monkeypatch.setattr("tracebank.llm.spending.SETTLE_S", 0.0)
    spending = spending_of(store, time)
    reservation = await spending.reserve(Spent(tokens=500))
    written = asyncio.Event()
    write = store.write

    async def noting(action: Any) -> Any:
        result = await write(action)
        written.set()
        return result

    monkeypatch.setattr(store, "write", noting)
    await spending.settle(reservation, Spent(tokens=20))
    async with asyncio.timeout(30):
        await written.wait()
    assert (await store.read(lambda db: spent(db, reservation.day))).tokens == 20


async def test_who_is_cancelled_before_anything_was_sent_leaves_nothing_set_aside(store: Store, time: Time) -> None:
    """Others that were asked for at the same time are granted."""
    spending = spending_of(store, time)
    asked = [asyncio.create_task(spending.reserve(Spent(tokens=400))) for _ in range(2)]
    await asyncio.sleep(0)
    asked[0].cancel()
    await asked[1]
    assert (await spending.report())["tokens"] == 400
    await spending.reserve(Spent(tokens=600))


async def test_a_store_that_fails_is_told_to_everyone_who_asked(store: Store, time: Time) -> None:
    """And nothing is granted."""
    spending = spending_of(store, time)
    store.close()
    results = await asyncio.gather(*(spending.reserve(Spent(tokens=1)) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [StoreError] * 3


async def test_what_could_not_be_written_is_written_later(
    store: Store, time: Time, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the store has raised, everyone who asked is told, and no settlement is lost; nor does waiting for it go on for ever."""
    spending = spending_of(store, time)
    reservation = await spending.reserve(Spent(tokens=900))
    await spending.settle(reservation, Spent(tokens=100))

    async def broken(_: Any) -> Any:
        raise RuntimeError("the writer's thread is gone")

    with monkeypatch.context() as failing:
        failing.setattr(store, "write", broken)
        with pytest.raises(StoreError, match="no spending could be reserved: the writer's thread is gone"):
            await spending.reserve(Spent(tokens=10))
        await spending.settled()
    assert "could not be written down: the writer's thread is gone" in caplog.text
    assert (await store.read(lambda db: spent(db, reservation.day))).tokens == 900
    assert (await spending.report())["tokens"] == 100


async def test_who_is_cancelled_in_the_turn_of_the_grant_leaves_nothing_set_aside(
    store: Store, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was granted, and nobody is there to settle it."""
    spending = spending_of(store, time)
    answer = spending._answer

    def answer_and_cancel(*args: Any) -> None:
        answer(*args)
        asking.cancel()

    monkeypatch.setattr(spending, "_answer", answer_and_cancel)
    asking = asyncio.create_task(spending.reserve(Spent(tokens=400)))
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert (await spending.report())["tokens"] == 0


RESERVE_AND_DIE = """
import asyncio, os, signal, sys
from pathlib import Path
from tracebank.llm import Spending
from tracebank.store import Store
from tracebank.store.spending import Spent

async def main():
    spending = Spending(Store.open(Path(sys.argv[1])), daily_tokens=1000, daily_usd=1, clock=lambda: float(sys.argv[2]))
    await spending.settle(await spending.reserve(Spent(tokens=400)), Spent(tokens=100))
    await spending.reserve(Spent(tokens=600))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_a_kill_resets_nothing(tmp_path: Path, time: Time) -> None:
    """What was under way counts as used: the provider may have done the work."""
    path = tmp_path / "killed.sqlite3"
    arguments = [sys.executable, "-c", RESERVE_AND_DIE, str(path), str(NOON)]
    assert (await asyncio.to_thread(subprocess.run, arguments, check=False)).returncode == -signal.SIGKILL
    store = Store.open(path)
    try:
        spending = spending_of(store, time)
        assert (await spending.report())["tokens"] == 700
        with pytest.raises(LlmCapError):
            await spending.reserve(Spent(tokens=301))
    finally:
        store.close()


async def test_at_the_cap_nothing_is_sent(client_of: ClientOf, store: Store, time: Time) -> None:
    """Calls under way count with what they may use at most: of ten at once only as many start as surely fit."""
    gate = asyncio.Event()
    async with serving(answer=lambda _: Held(gate)) as provider:
        # A call may need 100 tokens of output and about 200 of input.
        client = client_of(
            provider_settings(provider, max_output_tokens=100), world_of={"spending": spending_of(store, time)}, connections=10
        )
        batch = asyncio.create_task(client.batch_query([f"question {i}" for i in range(10)]))
        await provider.until(3)
        gate.set()
        results = await batch
        answered = sum(isinstance(result, Completion) for result in results)
        assert {type(result) for result in results} == {Completion, LlmCapError}
        assert (answered, len(provider.calls)) == (3, 3)
        assert (await client.report())["spending"]["tokens"] == 45


async def test_a_cap_of_zero_sends_nothing(client_of: ClientOf, store: Store, time: Time) -> None:
    """Zero is zero, not "without a limit"."""
    async with serving() as provider:
        client = client_of(provider_settings(provider), world_of={"spending": spending_of(store, time, tokens=0)})
        with pytest.raises(LlmCapError, match=r"llm\.daily_tokens is 0"):
            await client.query(Request(prompt="x"))
        assert provider.calls == []


async def test_an_answer_is_not_lost_because_its_account_is(
    client_of: ClientOf, store: Store, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    """The store that fails after the call leaves the reservation spent, and says so in the log."""

    class FullDisk(Spending):
        async def settle(self, *_: object) -> None:
            raise StoreError("no space left")

    failing = FullDisk(store, daily_tokens=1_000_000, daily_usd=1, clock=time.clock)
    async with serving(answer=lambda _: Reply("kept")) as provider:
        client = client_of(provider_settings(provider), world_of={"spending": failing})
        assert (await client.query(Request(prompt="x"))).text == "kept"
    assert "no space left" in caplog.text
    assert (await failing.report())["tokens"] > 2_000
