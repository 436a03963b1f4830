"""What is asked of a language model, what comes back, and the contracts of those in between."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from tracebank.errors import InputError
from tracebank.llm.spending import Spending
from tracebank.metrics import Metrics
from tracebank.tokens import Tokenizer

# Shorten a text to at most so many tokens: the compressor, handed in because it stands on a higher floor.
Compress = Callable[[str, int], Awaitable[str]]
Sleep = Callable[[float], Awaitable[None]]
BreakerState = Literal["closed", "open", "half_open"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question. With a `schema` (JSON Schema) the answer is JSON that was checked against it.

    `max_prompt_tokens` and `max_output_tokens` lower what the provider's settings allow. `repeatable=False`: never sent
    again once a provider may have worked on it. `fresh`: wants an answer of its own, though an equal prompt was asked.
    `timeout_s`: how long its caller waits, for all that are asked in turn.
    """

    prompt: str
    system: str = ""
    schema: Mapping[str, Any] | None = None
    max_prompt_tokens: int | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    repeatable: bool = True
    fresh: bool = False
    timeout_s: float = math.inf

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise InputError("prompt", "is empty: say what the language model is to do")
        for name in ("max_prompt_tokens", "max_output_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(name, f"must be at least 1, not {value}")
        if self.temperature is not None and not 0 <= self.temperature <= 2:
            raise InputError("temperature", f"must be 0 to 2, not {self.temperature}")
        if not self.timeout_s > 0:
            raise InputError("timeout_s", f"must be above 0, not {self.timeout_s}")

    def key(self) -> str:
        """Return what two requests share exactly when everything that is asked is equal."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a protocol's answer says. Tokens are None where the provider does not count; `refusal` is why it declined.

    Raises: TypeError where a text is none: a provider's JSON may hold anything.
    """

    text: str
    model: str
    tokens_in: int | None = None
    tokens_out: int | None = None
    truncated: bool = False
    refusal: str = ""

    def __post_init__(self) -> None:
        for name in ("text", "model", "refusal"):
            if not isinstance(value := getattr(self, name), str):
                raise TypeError(f"{name} must be a string, not {type(value).__name__}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A usable answer. `value` is the parsed JSON where a schema was asked for, else None.

    `latency_ms` is that of the attempt that was answered, `retries` how many failed before it. `truncated`: the text
    ends where the output tokens did. `cached`: nothing was sent for this one.
    """

    text: str
    tokens_in: int
    tokens_out: int
    model: str
    provider: str
    latency_ms: float
    retries: int = 0
    cost_usd: float = 0.0
    truncated: bool = False
    value: Any = None
    cached: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """US dollars for a million tokens in, and out."""

    usd_per_million_in: float = 0.0
    usd_per_million_out: float = 0.0

    def nano_usd(self, tokens_in: int, tokens_out: int) -> int:
        """Return the price of a call in billionths of a US dollar."""
        return round((tokens_in * self.usd_per_million_in + tokens_out * self.usd_per_million_out) * 1_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What every provider is handed: the engine's parts, the environment with the keys, clocks and chance."""

    spending: Spending
    metrics: Metrics
    tokenizer: Tokenizer
    compress: Compress | None
    environ: Mapping[str, str] = field(repr=False)
    sleep: Sleep = asyncio.sleep
    rng: random.Random = field(default_factory=random.Random)
    clock: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time


class Provider(Protocol):
    """One model at one provider."""

    @property
    def name(self) -> str:
        """Return what errors and `stats` call it."""
        ...

    async def complete(self, request: Request) -> Completion:
        """Return the answer. Raises: LlmError and its kinds, StoreError."""
        ...

    def report(self) -> dict[str, Any]:
        """Return the figures for `stats`."""
        ...

    async def close(self) -> None:
        """Close its connections."""
        ...


class Dialect(Protocol):
    """What one protocol calls things. Pure: no network in it."""

    @property
    def base_url(self) -> str:
        """Return the address of those who invented it."""
        ...

    @property
    def path(self) -> str:
        """Return what follows the base address."""
        ...

    def headers(self, key: str) -> dict[str, str]:
        """Return the headers; `key` is empty where none is needed."""
        ...

    def body(self, request: Request, *, model: str, max_output_tokens: int, base_url: str) -> dict[str, Any]:
        """Return the request's JSON. A schema in it is the protocol's own."""
        ...

    def answer(self, payload: Mapping[str, Any]) -> Answer:
        """Read an answer's JSON. Raises: KeyError, TypeError, IndexError, ValueError where it is not of this protocol."""
        ...
