"""One provider, asked properly: a prompt that fits, a reservation, a connection, patience, an answer that was checked."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from tracebank.errors import (
    LlmAnswerError,
    LlmCallError,
    LlmRefusedError,
    LlmRejectedError,
    LlmSchemaError,
    LlmTooLateError,
    LlmUnavailableError,
    StoreError,
)
from tracebank.llm.base import Answer, Completion, Dialect, Price, Request, World
from tracebank.llm.breaker import Breaker
from tracebank.llm.faults import SHOWN_CHARS, is_charged, of_status, without
from tracebank.llm.fitting import count_tokens, fitted
from tracebank.llm.pool import Pool
from tracebank.llm.retrying import Patience, attempts, is_too_long
from tracebank.llm.spending import NANO, Reservation
from tracebank.llm.structured import corrected, in_words, parsed
from tracebank.store.spending import Spent

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What is asked, and on which terms."""

    name: str
    model: str
    dialect: Dialect
    base_url: str
    key_variable: str = ""
    context_tokens: int = 32_000
    max_output_tokens: int = 2_000
    json_schema: bool = True
    price: Price


class PooledProvider:
    """One model at one provider, over a pool of connections."""

    def __init__(self, model: Model, *, pool: Pool, breaker: Breaker, breaker_in_haste: Breaker, patience: Patience, world: World) -> None:
        self._model, self._pool, self._breaker, self._patience, self._world = model, pool, breaker, patience, world
        self._breaker_in_haste = breaker_in_haste

    @property
    def name(self) -> str:
        """Return what errors and `stats` call it."""
        return self._model.name

    async def complete(self, request: Request) -> Completion:
        """Return the answer. Raises: LlmCallError and its kinds, LlmCapError, StoreError."""
        until = self._world.clock() + request.timeout_s
        output_tokens = min(request.max_output_tokens or self._model.max_output_tokens, self._model.max_output_tokens)
        room = self._model.context_tokens - output_tokens
        world = self._world
        request, tokens_in = await fitted(
            request, provider=self.name, budget_tokens=room, tokenizer=world.tokenizer, compress=world.compress
        )
        most = self._spent(tokens_in, output_tokens)
        problem = ""
        patient = attempts(self._patience, repeatable=request.repeatable, sleep=world.sleep, rng=world.rng, within_s=until - world.clock())
        async for attempt in patient:
            number = attempt.retry_state.attempt_number
            with attempt:
                if number > 1:
                    world.metrics.count("llm_retries")
                try:
                    asked = corrected(request, problem) if problem else request
                    return await self._attempt(asked, output_tokens, most, retries=number - 1, until=until)
                except LlmSchemaError as error:
                    problem = error.problem
                    raise
        raise AssertionError("the last attempt raises")

    async def _attempt(self, request: Request, output_tokens: int, most: Spent, *, retries: int, until: float) -> Completion:
        if until <= self._world.clock():
            # As where it took all the time to shorten the prompt.
            raise LlmTooLateError(self.name, "there is no time left to ask it", processed=False)
        with self._breaker.guard(), self._breaker_in_haste.guard() if until < math.inf else nullcontext():
            reservation = await self._world.spending.reserve(most)
            began = time.perf_counter()
            try:
                answer = await self._ask(request, output_tokens, until)
            except LlmCallError as error:
                self._world.metrics.count(f"llm_failed:{self.name}")
                await self._failed(error, reservation)
                raise
            latency_ms = (time.perf_counter() - began) * 1e3
            self._world.metrics.observe(f"llm:{self.name}", latency_ms)
            return await self._settled(request, answer, reservation, most, latency_ms=latency_ms, retries=retries)

    async def _ask(self, request: Request, output_tokens: int, until: float) -> Answer:
        model, key = self._model, self._key()
        asked = in_words(request) if request.schema is not None and not model.json_schema else request
        body = model.dialect.body(asked, model=model.model, max_output_tokens=output_tokens, base_url=model.base_url)
        left_s = max(0.0, until - self._world.clock())
        payload = await self._pool.post(model.dialect.path, model.dialect.headers(key), body, key=key, wait_s=left_s)
        if (told := self._told(payload, key)) is not None:
            raise told
        try:
            return model.dialect.answer(payload)
        except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
            shown = without(key, str(dict(payload)))[:SHOWN_CHARS]
            raise LlmAnswerError(self.name, f"its answer is not of the protocol it was asked in: {shown}", again=True) from error

    def _key(self) -> str:
        """Return the key: read for each call, and kept nowhere."""
        variable = self._model.key_variable
        if not variable:
            return ""
        key = self._world.environ.get(variable, "").strip()
        if not key:
            hint = "set it in the environment of the client, then run `tracebank stop`"
            raise LlmRejectedError(self.name, f"the variable {variable} is not set: {hint}", processed=False)
        if not (key.isascii() and key.isprintable()):
            # The HTTP library's own error would quote it.
            raise LlmRejectedError(self.name, f"the variable {variable} holds characters that no key has", processed=False)
        return key

    def _told(self, payload: Mapping[str, Any], key: str) -> LlmCallError | None:
        """Return the error that some providers (OpenRouter, a failed Response) tell with status 200."""
        told = payload.get("error")
        if not told:
            return None
        code = told.get("code") if isinstance(told, dict) else None
        if isinstance(code, int) and code >= 400:
            return of_status(self.name, code, {}, str(told.get("message", "")).encode(), key=key, now=self._pool.now())
        return LlmUnavailableError(self.name, f"it failed: {without(key, str(told))[:SHOWN_CHARS]}", status=200, again=True)

    async def _failed(self, error: LlmCallError, reservation: Reservation) -> None:
        if not is_charged(error):
            await self._settle(reservation, Spent())
        if is_too_long(error.retry_after_s, self._patience):
            assert error.retry_after_s is not None
            self._breaker.hold(error.retry_after_s)

    async def _settled(
        self, request: Request, answer: Answer, reservation: Reservation, most: Spent, *, latency_ms: float, retries: int
    ) -> Completion:
        counter = self._world.tokenizer
        tokens_in = answer.tokens_in if answer.tokens_in is not None else await count_tokens(request.system + request.prompt, counter)
        tokens_out = answer.tokens_out if answer.tokens_out is not None else await count_tokens(answer.text, counter)
        used = self._spent(tokens_in, tokens_out)
        await self._settle(reservation, used)
        self._count(tokens_in, tokens_out, used)
        value = self._checked(request, answer)
        return Completion(
            text=answer.text, value=value, tokens_in=tokens_in, tokens_out=tokens_out, model=answer.model or self._model.model,
            provider=self.name, latency_ms=round(latency_ms, 2), retries=retries, cost_usd=used.nano_usd / NANO,
            truncated=answer.truncated,
        )  # fmt: skip

    async def _settle(self, reservation: Reservation, used: Spent) -> None:
        try:
            await self._world.spending.settle(reservation, used)
        except StoreError as error:
            # The reservation stays spent, which is safe; the answer is worth more than the account.
            log.warning("what %s has used could not be written down: %s", self.name, error)

    def _count(self, tokens_in: int, tokens_out: int, used: Spent) -> None:
        metrics = self._world.metrics
        for name, amount in (("llm_tokens_in", tokens_in), ("llm_tokens_out", tokens_out), ("llm_nano_usd", used.nano_usd)):
            metrics.count(f"{name}:{self.name}", amount)

    def _checked(self, request: Request, answer: Answer) -> Any:
        """Return the parsed JSON where there is to be some. Raises: LlmAnswerError where the answer is of no use."""
        if answer.refusal:
            raise LlmRefusedError(self.name, f"the model declined: {answer.refusal[:SHOWN_CHARS]}")
        if answer.truncated and (request.schema is not None or not answer.text.strip()):
            raise LlmAnswerError(self.name, "the answer ends where max_output_tokens did: allow it more")
        if not answer.text.strip():
            raise LlmAnswerError(self.name, "the answer is empty", again=True)
        if request.schema is None:
            return None
        try:
            return parsed(answer.text, request.schema)
        except ValueError as error:
            raise LlmSchemaError(self.name, str(error), again=True) from error

    def _spent(self, tokens_in: int, tokens_out: int) -> Spent:
        return Spent(tokens=tokens_in + tokens_out, nano_usd=self._model.price.nano_usd(tokens_in, tokens_out))

    def report(self) -> dict[str, Any]:
        """Return the figures for `stats`."""
        counters, metrics = self._world.metrics.counters(), self._world.metrics
        of = partial(_counter, counters, self.name)
        return {
            "model": self._model.model,
            "breaker": self._breaker.state,
            "breaker_openings": self._breaker.openings,
            "answered": metrics.latencies().get(f"llm:{self.name}", {"count": 0}),
            "failed": of("llm_failed"),
            "tokens_in": of("llm_tokens_in"),
            "tokens_out": of("llm_tokens_out"),
            "cost_usd": of("llm_nano_usd") / NANO,
        }

    async def close(self) -> None:
        """Close its connections."""
        await self._pool.close()


def _counter(counters: Mapping[str, int], provider: str, name: str) -> int:
    return counters.get(f"{name}:{provider}", 0)
