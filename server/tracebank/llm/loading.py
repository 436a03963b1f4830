"""Providers from their settings. Imported by the first call, because it imports httpx."""

from __future__ import annotations

from functools import partial

from tracebank.llm.base import Price, Provider, World
from tracebank.llm.breaker import Breaker
from tracebank.llm.dialects import DIALECTS
from tracebank.llm.pool import Pool, PoolLimits
from tracebank.llm.provider import Model, PooledProvider
from tracebank.llm.retrying import Patience
from tracebank.settings import LlmSettings, ProviderSettings


def load_providers(settings: LlmSettings, world: World) -> list[Provider]:
    """Return the configured providers, in order. Nothing is opened yet."""
    return [_provider(one, settings, world) for one in settings.providers]


def _provider(one: ProviderSettings, settings: LlmSettings, world: World) -> Provider:
    model = _model(one)
    breaker = partial(Breaker, model.name, failures=settings.breaker_failures, pause_s=settings.breaker_pause_s, clock=world.clock)
    return PooledProvider(
        model,
        pool=Pool(model.name, base_url=model.base_url, limits=_limits(settings), ca_file=one.ca_file, wall_clock=world.wall_clock),
        breaker=breaker(),
        breaker_in_haste=breaker(in_haste=True),
        patience=Patience(attempts=settings.attempts, first_s=settings.backoff_s, most_s=settings.max_wait_s),
        world=world,
    )


def _model(one: ProviderSettings) -> Model:
    dialect = DIALECTS[one.protocol]
    return Model(
        name=one.name or one.model,
        model=one.model,
        dialect=dialect,
        base_url=one.base_url or dialect.base_url,
        key_variable=one.key_variable,
        context_tokens=one.context_tokens,
        max_output_tokens=one.max_output_tokens,
        json_schema=one.json_schema,
        price=Price(usd_per_million_in=one.usd_per_million_tokens_in, usd_per_million_out=one.usd_per_million_tokens_out),
    )


def _limits(settings: LlmSettings) -> PoolLimits:
    return PoolLimits(
        connections=settings.connections,
        connect_s=settings.connect_timeout_s,
        read_s=settings.read_timeout_s,
        write_s=settings.write_timeout_s,
        pool_s=settings.pool_timeout_s,
        attempt_s=settings.attempt_timeout_s,
    )
