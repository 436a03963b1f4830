"""What callers see: one question, a list of providers, many questions at once. Without a provider nothing is ever sent."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from anyio import to_thread

from tracebank.caching import Flights, LruCache
from tracebank.errors import InputError, LlmCallError, LlmError, LlmExhaustedError, LlmOffError, TracebankError
from tracebank.llm.base import Completion, Provider, Request, World
from tracebank.settings import LlmSettings

MAX_CONCURRENCY = 100
# Of the time that a caller has: with less than that nobody else is asked.
LEAST_SHARE = 0.1


class LlmClient:
    """The configured providers. It belongs to one event loop; the first call makes the providers."""

    def __init__(self, settings: LlmSettings, world: World) -> None:
        self._settings, self._world = settings, world
        self._loading = asyncio.Lock()
        self._providers: dict[str, Provider] = {}
        self._forgotten = 0
        self._flights: Flights[tuple[str, ...], Completion] = Flights()
        self.cache: LruCache[tuple[str, ...], Completion] = LruCache(capacity=settings.cache, ttl_s=settings.cache_ttl_s, clock=world.clock)

    @property
    def configured(self) -> bool:
        """Return whether there is a language model at all."""
        return bool(self._settings.providers)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the providers, in the order in which they are asked."""
        return tuple(provider.name or provider.model for provider in self._settings.providers)

    async def query(self, request: Request, *, provider: str | None = None) -> Completion:
        """Ask one provider: the one named, else the first.

        Raises: InputError, LlmOffError, LlmCapError, LlmCallError and its kinds, StoreError.
        """
        return await self._shared(request, self._chosen([provider] if provider is not None else self.names[:1]))

    async def query_with_fallback(self, request: Request, *, providers: Sequence[str] = ()) -> Completion:
        """Ask the providers (those named, else all) in turn until one answers.

        A request that is not repeatable goes to no other once one may have worked on it.
        Raises: InputError, LlmOffError, LlmExhaustedError, the provider's own error where there was only one, StoreError.
        """
        return await self._shared(request, self._chosen(providers or self.names))

    async def batch_query(
        self, requests: Sequence[Request | str], *, concurrency: int = 10, providers: Sequence[str] = ()
    ) -> list[Completion | TracebankError]:
        """Ask many questions, so many at a time. Returns, in their order, each one's answer or its error.

        Raises: InputError where `concurrency`, a prompt or a provider is wrong; then nothing was sent.
        """
        if not 1 <= concurrency <= MAX_CONCURRENCY:
            raise InputError("concurrency", f"must be 1 to {MAX_CONCURRENCY}, not {concurrency}")
        asked = [Request(prompt=request) if isinstance(request, str) else request for request in requests]
        for request in asked:
            self._check(request)
        chosen = self._chosen(providers or self.names)
        results: list[Completion | TracebankError] = [LlmOffError("not asked")] * len(asked)
        turns = iter(enumerate(asked))
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(asked))):
                group.create_task(self._work_off(turns, results, chosen))
        return results

    async def _work_off(
        self, turns: Iterator[tuple[int, Request]], results: list[Completion | TracebankError], chosen: tuple[str, ...]
    ) -> None:
        for place, request in turns:
            try:
                results[place] = await self._shared(request, chosen)
            except TracebankError as error:
                results[place] = error

    def _chosen(self, names: Sequence[str]) -> tuple[str, ...]:
        if not self.configured:
            raise LlmOffError("no language model is configured: add one under [[llm.providers]] in tracebank.toml")
        if unknown := [name for name in names if name not in self.names]:
            raise InputError("provider", f"must be one of {', '.join(self.names)}, not {unknown[0]!r}")
        return tuple(names)

    def _check(self, request: Request) -> None:
        if request.schema is not None:
            from tracebank.llm.structured import check_schema

            check_schema(request.schema)

    async def _shared(self, request: Request, names: tuple[str, ...]) -> Completion:
        """Ask once for all who ask the same at the same time, or have asked it lately."""
        self._check(request)
        if request.fresh:
            return await self._asked(request, names)
        key = (request.key(), *names)
        if self._settings.cache and (kept := self.cache.get(key)) is not None:
            return replace(kept, cached=True)
        return await self._flights.fetch(key, lambda: self._kept(key, request, names))

    async def _kept(self, key: tuple[str, ...], request: Request, names: tuple[str, ...]) -> Completion:
        forgotten = self._forgotten
        completion = await self._asked(request, names)
        if self._settings.cache and forgotten == self._forgotten:
            self.cache.put(key, completion)
        return completion

    def forget(self) -> None:
        """Let go of the answers that are kept, and of those to what is being asked: they may quote what somebody wants forgotten."""
        self._forgotten += 1
        self.cache.clear()

    async def _asked(self, request: Request, names: tuple[str, ...]) -> Completion:
        providers = await self._loaded()
        clock = self._world.clock
        whole_s = request.timeout_s
        until = clock() + whole_s
        errors: list[LlmError] = []
        for name in names:
            if errors and whole_s < math.inf:
                # Whoever takes all the time there is leaves none for the next one; it is left alone when it does so again and again.
                if (left_s := until - clock()) < LEAST_SHARE * whole_s:
                    break
                request = replace(request, timeout_s=left_s)
            try:
                completion = await providers[name].complete(request)
            except LlmError as error:
                errors.append(error)
                if not request.repeatable and isinstance(error, LlmCallError) and error.processed:
                    break
            else:
                if errors:
                    self._world.metrics.count("llm_fallbacks")
                return completion
        raise errors[0] if len(errors) == 1 else LlmExhaustedError(errors)

    async def _loaded(self) -> dict[str, Provider]:
        async with self._loading:
            if not self._providers:
                # httpx and what it brings take 150 ms to import.
                self._providers = {provider.name: provider for provider in await to_thread.run_sync(self._load)}
            return self._providers

    def _load(self) -> list[Provider]:
        from tracebank.llm.loading import load_providers

        return load_providers(self._settings, self._world)

    async def report(self) -> dict[str, Any]:
        """Return the figures for `stats`."""
        if not self.configured:
            return {"configured": False}
        counters = self._world.metrics.counters()
        return {
            "configured": True,
            "providers": {
                name: self._providers[name].report() if name in self._providers else {"model": one.model, "answered": {"count": 0}}
                for name, one in zip(self.names, self._settings.providers, strict=True)
            },
            "retries": counters.get("llm_retries", 0),
            "fallbacks": counters.get("llm_fallbacks", 0),
            "shared": self._flights.shared,
            "cache": self.cache.report(),
            "spending": await self._world.spending.report(),
        }

    async def close(self) -> None:
        """Close every connection, and finish the account."""
        for provider in self._providers.values():
            await provider.close()
        await self._world.spending.settled()
