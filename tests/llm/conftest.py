"""A client with real parts around it, in front of the local provider."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from llm.provider import LocalProvider

from tracebank.llm import LlmClient, Spending, World
from tracebank.metrics import Metrics
from tracebank.settings import LlmSettings
from tracebank.store import Store
from tracebank.tokens import load_tokenizer

NOON = 1_795_608_000.0  # 2026-11-25T12:00:00Z
PROTOCOLS = ("chat", "responses", "messages")
KEY = "sk-7hTq-secret-91x"


@dataclass
class Time:
    """Clocks that tests turn, and a sleep that turns them and returns at once."""

    now: float = NOON
    slept: list[float] = field(default_factory=list)

    def clock(self) -> float:
        """Return the time."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Let the time pass."""
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def time() -> Time:
    """The time, which stands still unless it is turned."""
    return Time()


@pytest.fixture
def world(store: Store, time: Time) -> World:
    """The real store and tokenizer, with the test's clocks and environment."""
    return World(
        spending=Spending(store, daily_tokens=1_000_000, daily_usd=5.0, clock=time.clock),
        metrics=Metrics(), tokenizer=load_tokenizer("o200k_base"), compress=None, environ={"THE_KEY": KEY},
        sleep=time.sleep, rng=random.Random(7), clock=time.clock, wall_clock=time.clock,
    )  # fmt: skip


def provider_settings(provider: LocalProvider, **changed: Any) -> dict[str, Any]:
    """Return the settings of one provider that is the local one."""
    about = {"model": "tiny", "base_url": provider.base_url, "ca_file": str(provider.ca_file or "")}
    return about | changed


def files_with_the_key(directory: Path) -> list[Path]:
    """Return the files that hold the key."""
    return [path for path in directory.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


ClientOf = Callable[..., LlmClient]


@pytest.fixture
async def client_of(world: World) -> AsyncIterator[ClientOf]:
    """Make clients of local providers: one, or several in order, with further settings; closed at the end."""
    made: list[LlmClient] = []

    def client_of(*providers: dict[str, Any], world_of: dict[str, Any] | None = None, **settings: Any) -> LlmClient:
        client = LlmClient(LlmSettings.model_validate({"providers": providers, **settings}), replace(world, **(world_of or {})))
        made.append(client)
        return client

    yield client_of
    for client in made:
        await client.close()
