"""`compress_prompt` for an engine: with its tokenizer, its model, its cache of vectors, and a place for what was cut."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from anyio import CapacityLimiter, from_thread, to_thread

from tracebank.compression import Compressed, compress
from tracebank.compression.draft import WordModel
from tracebank.compression.extract.rendering import bare_mark, numbered_mark
from tracebank.compression.meaning import read_in_small_batches
from tracebank.embedding import Embedded, EmbeddingService
from tracebank.embedding.token_classifier import TokenClassifier
from tracebank.errors import TracebankError
from tracebank.metrics import Metrics
from tracebank.settings import CompressionSettings
from tracebank.store import Store, originals
from tracebank.tokens import Tokenizer

# Those whose cuts the model has a say in.
READING_STRATEGIES = ("auto", "extract")
# Shorter texts take less time than somebody takes to look up.
LONG_CHARS = 50_000
# So many are shortened at a time. It is work for the interpreter, which has one lock: each further thread would only take its turns
# from whoever searches. Short ones have threads of their own, so that none waits behind one of 4 MiB.
PARALLEL_LONG, PARALLEL_SHORT = 1, 2

# Hears how much is done, 0 to 1, and the name of the step.
Listener = Callable[[float, str], Coroutine[Any, Any, None]]


class Compressor:
    """Shortens texts in threads. `embedding` is asked for each time: another model may have taken its place."""

    def __init__(
        self,
        *,
        settings: CompressionSettings,
        store: Store,
        metrics: Metrics,
        tokenizer: Tokenizer,
        embedding: Callable[[], EmbeddingService],
        now_ms: Callable[[], int],
    ) -> None:
        self._settings, self._store, self._metrics = settings, store, metrics
        self._tokenizer, self._embedding, self._now_ms = tokenizer, embedding, now_ms
        self._word_model: TokenClassifier | None = None
        self._loading = threading.Lock()
        self._long, self._short = CapacityLimiter(PARALLEL_LONG), CapacityLimiter(PARALLEL_SHORT)

    async def compress(
        self,
        text: str,
        *,
        budget_tokens: int | None,
        ratio: float | None,
        keep_original: bool = False,
        listener: Listener | None = None,
        **options: Any,
    ) -> tuple[Compressed, str | None]:
        """Fit a text into a budget, or into a fraction of its own length. `listener` hears of a long one how far it is.

        Returns the id of what was cut, too, if it is to be kept and anything was.
        Raises: InputError, StoreError, ModelLoadError where a model of words is set and cannot be loaded.
        """
        tokenizer, settings = self._tokenizer, self._settings
        long = len(text) >= LONG_CHARS
        told = _Told(listener if long else None)
        in_turn = partial(to_thread.run_sync, limiter=self._long if long else self._short)
        with self._metrics.timed("compress_prompt"):
            tokens = await in_turn(tokenizer.count, text)
            budget = max(1, int(tokens * (ratio or settings.ratio))) if budget_tokens is None else budget_tokens
            reads = tokens > budget and options.get("strategy", "auto") in READING_STRATEGIES
            if reads:
                # Here, where it keeps nobody from a thread.
                await self._wait_for_model()

            def run() -> Compressed:
                return compress(
                    text, budget_tokens=budget, tokenizer=tokenizer, meaning=partial(self._vectors_in_thread, told),
                    ends=(settings.head_share, settings.tail_share), mark=numbered_mark if keep_original else bare_mark,
                    words=self._words() if reads else None, progress=told.step, **options,
                )  # fmt: skip

            compressed = await in_turn(run)
            original_id = await self._keep(text, compressed) if keep_original and compressed.text != text else None
        self._metrics.count("compressed_tokens_in", compressed.original_tokens)
        self._metrics.count("compressed_tokens_out", compressed.tokens)
        return compressed, original_id

    async def original(self, original_id: str) -> originals.Original | None:
        """Return what `compress` has kept under an id; None where there is nothing (any more)."""
        return await self._store.read(lambda db: originals.get(db, original_id))

    async def _keep(self, text: str, compressed: Compressed) -> str:
        settings, now_ms = self._settings, self._now_ms()
        bounds = originals.Bounds(max_bytes=settings.originals_bytes, max_age_ms=round(settings.originals_age_s * 1000))
        return await self._store.write(
            lambda db: originals.put(db, text, compressed.cut_from, compressed.gaps, now_ms=now_ms, bounds=bounds)
        )

    async def _wait_for_model(self) -> None:
        """Wait, bounded, for a model that is still loading: by words alone a cut keeps less."""
        with suppress(TimeoutError, TracebankError):
            async with asyncio.timeout(self._settings.model_wait_s):
                await self._embedding().loaded()

    def _words(self) -> WordModel | None:
        """Return the model of words, if one is set; the first call loads it."""
        directory = self._settings.token_model
        if not directory:
            return None
        with self._loading:
            if self._word_model is None:
                self._word_model = TokenClassifier.load(Path(directory).expanduser())
            return self._word_model.words

    def _vectors_in_thread(self, told: _Told, texts: Sequence[str]) -> list[Embedded] | None:
        """Embed texts from a worker thread; None where the model is not there."""
        return from_thread.run(read_in_small_batches, self._embedding(), texts, told.reading)


class _Told:
    """Tells a listener, whose loop is another thread's, how far a text is. Shares only grow."""

    def __init__(self, listener: Listener | None) -> None:
        self._listener, self._share = listener, 0.0

    def step(self, share: float, name: str) -> None:
        """A step has ended."""
        self._share = share
        if self._listener is not None:
            from_thread.run(self._listener, share, name)

    async def reading(self, part: float) -> None:
        """The model has read so much of what it has to read, which is most of the next step."""
        if self._listener is not None:
            await self._listener(self._share + part * (1 - self._share) / 2, "reading")
