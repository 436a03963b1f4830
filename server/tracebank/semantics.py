"""The side of meaning: which model and which vector index answer, how they come up, and how others take their place."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import shutil
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from anyio import to_thread

from tracebank.background import Background
from tracebank.compaction import LOOK_EVERY_S, Compaction
from tracebank.embedding import EmbeddingModel, EmbeddingService, load_model, vectors_name
from tracebank.errors import DataDirError, IndexFaultError, ModelLoadError, StoreError, TracebankError
from tracebank.gate import Gate
from tracebank.index import ChromaServer, VectorIndex
from tracebank.indexer import Indexer
from tracebank.meaning import Meaning
from tracebank.metrics import Metrics
from tracebank.model_change import ModelChange, open_vectors
from tracebank.retrieval import Retriever
from tracebank.settings import EmbeddingSettings, Settings
from tracebank.store import Store, models, outbox
from tracebank.store.models import Model, Plan
from tracebank.token_basis import settle_tokens

log = logging.getLogger(__name__)

Result = TypeVar("Result")

# An index that cannot be opened is tried again after so long, then after twice as long, up to the last.
RETRY_S, LONGEST_RETRY_S = 5.0, 60.0


class Semantics:
    """Owns the embedding service and the vector index. `warm` is set when they answer, or it is known that they will not."""

    def __init__(
        self,
        *,
        settings: Settings,
        store: Store,
        metrics: Metrics,
        background: Background,
        searching: Gate,
        came_up: Callable[[str, float], None],
        serves: Callable[[Meaning], None],
        forget_questions: Callable[[], Awaitable[None]],
    ) -> None:
        """Take what it needs.

        `came_up(part, since)` hears of each part; `serves(meaning)` of the model that answers from now on;
        `forget_questions()` forgets what is kept of questions' vectors.
        """
        self._settings, self._store, self._metrics, self._background = settings, store, metrics, background
        self._searching, self._came_up, self._serves = searching, came_up, serves
        self._forget_questions = forget_questions
        self.embedding = self._service(settings.embedding)
        self.index: VectorIndex | None = None
        self.change: ModelChange | None = None
        self._looking_after: asyncio.Task[None] | None = None
        self.warm = asyncio.Event()

    async def start(self, indexer: Indexer, retriever: Retriever) -> None:
        """Begin to load the model that answers and to open its index; when both are there, meaning takes part."""
        self._indexer, self._retriever = indexer, retriever
        self.compaction = Compaction(
            self._store, indexer, self._settings.index, self._settings.retrieval.candidates, self._searching.closed
        )
        wanted = self._settings.embedding.model_dump_json()
        plan = await self._store.write(lambda db: models.plan(db, self.embedding.name, wanted, clean=self._clean))
        if plan.next is not None:
            self._use(self._former(plan.serving))
        self.embedding.start()
        self._background.spawn("meaning", partial(self._come_up, plan)).add_done_callback(lambda _: self.warm.set())

    async def close(self) -> None:
        """Let go of the model and the index. The background tasks have ended."""
        await self.embedding.close()
        if self.index is not None:
            self.index.close()

    def _service(self, model: EmbeddingSettings) -> EmbeddingService:
        return EmbeddingService(
            lambda: load_model(model, self._settings.models_dir),
            name=vectors_name(model), batch_tokens=model.batch_tokens, cache_bytes=self._settings.cache.query_vectors_bytes,
            metrics=self._metrics, clock=time.monotonic,
        )  # fmt: skip

    def _former(self, serving: Model) -> EmbeddingService:
        """Return the service of the model that has answered so far."""
        try:
            former = self._service(EmbeddingSettings.model_validate_json(serving.settings))
        except ValueError as error:
            return self._service_of_none(f"its settings are of another version: {error}")
        return former if former.name == serving.name else self._service_of_none(f"{serving.name} is now {former.name}")

    def _service_of_none(self, reason: str) -> EmbeddingService:
        def fail() -> EmbeddingModel:
            raise ModelLoadError(reason)

        return EmbeddingService(fail, name="", cache_bytes=0, metrics=self._metrics, clock=time.monotonic)

    def _use(self, embedding: EmbeddingService) -> None:
        self.embedding = embedding
        self._retriever.expect(embedding)

    async def _come_up(self, plan: Plan) -> None:
        try:
            await self._warm_up(plan)
        except Exception as error:
            self._retriever.do_without(f"meaning is off: {error}")
            raise

    async def _warm_up(self, plan: Plan) -> None:
        """Open Chroma while the model loads."""
        began = time.perf_counter()
        serving = plan.serving
        self.index = index = await self._patiently(lambda: open_vectors(self._directory(serving), serving.name, self._server))
        self._came_up("chroma", began)
        await self._patiently(lambda: self._fill(index))
        try:
            await self.embedding.loaded()
        except TracebankError as error:
            if plan.next is None:
                raise
            log.warning("the former model cannot answer until the new one does: %s", error)
            await self._skip_to(plan.next)
            return
        self._came_up("model", began)
        meaning = Meaning(index, self.embedding, plan.serving.id)
        await self._patiently(lambda: settle_tokens(self._store, meaning, "vectors", self._forget_questions))
        self._indexer.attach(meaning)
        self._retriever.attach(meaning)
        self._serves(meaning)
        self._look_after(meaning)
        if plan.next is not None:
            self._background.spawn("model change", partial(self._change, plan.next))
        await to_thread.run_sync(self._tidy, [model for model in (plan.serving, plan.next) if model])

    async def _fill(self, index: VectorIndex) -> None:
        if index.fresh:
            await self._store.write(lambda db: outbox.fill(db, "vectors"))
            await to_thread.run_sync(index.mark_filled)

    async def _patiently(self, action: Callable[[], Awaitable[Result]]) -> Result:
        """Return what an action comes to. A disk that is full or fails, or a server that is away, is waited for; words answer meanwhile."""
        pause_s = RETRY_S
        while True:
            try:
                result = await action()
            except (DataDirError, IndexFaultError, StoreError) as error:
                # As text: a record of the log would hold the error's frames, and with them a connection that was half made.
                self._background.problems["meaning"] = problem = str(error)
                log.warning("meaning waits: %s", problem)
                self._retriever.do_without(f"meaning is off: {error}")
                self.warm.set()
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_RETRY_S)
            else:
                self._background.problems.pop("meaning", None)
                return result

    async def _change(self, following: Model) -> None:
        self.change = self._change_to(following)
        try:
            await self.change.run()
        except Exception:
            # It is over: nobody waits for its index any more, nor keeps in it what is forgotten.
            self.change = None
            await to_thread.run_sync(self._clean, following)
            raise

    async def _skip_to(self, following: Model) -> None:
        """Let the new model answer at once, with what its index has."""
        await self.close()
        await self._store.write(lambda db: models.serve(db, following.id))
        self._use(self._service(self._settings.embedding))
        self.embedding.start()
        await self._warm_up(Plan(following, None))

    def _change_to(self, following: Model) -> ModelChange:
        return ModelChange(
            store=self._store, indexer=self._indexer, embedding=self._service(self._settings.embedding), model_id=following.id,
            directory=self._directory(following), server=self._server, between_searches=self._searching.closed, serve=self._exchange,
        )  # fmt: skip

    def _exchange(self, meaning: Meaning) -> None:
        former, index = self.embedding, self.index
        self.index, self.change = meaning.index, None
        self._use(meaning.embedding)
        self._retriever.attach(meaning)
        self._serves(meaning)
        looking_after = self._look_after(meaning)

        async def retire() -> None:
            if looking_after is not None:
                # It may be writing to the former index.
                await asyncio.wait([looking_after])
            await former.close()
            if index is not None:
                await to_thread.run_sync(index.close)
            await to_thread.run_sync(self._tidy, [await self._store.read(models.serving)])

        self._background.spawn("former model", retire)

    @property
    def _server(self) -> ChromaServer | None:
        chroma = self._settings.chroma
        if chroma.mode == "embedded":
            return None
        own = hashlib.blake2b(str(self._settings.data_dir.resolve()).encode(), digest_size=6).hexdigest()
        return ChromaServer(host=chroma.host, port=chroma.port, ssl=chroma.ssl, prefix=chroma.prefix or f"tracebank-{own}")

    def _look_after(self, meaning: Meaning) -> asyncio.Task[None] | None:
        """Let the vectors of large namespaces be short, from now on in this index. Returns who did so in the former one, cancelled."""
        former = self._looking_after
        if former is not None:
            former.cancel()
        self._looking_after = self._background.repeat("compaction", partial(self.compaction.turn, meaning), retry_s=LOOK_EVERY_S)
        return former

    def _directory(self, model: Model) -> Path:
        return self._settings.data_dir / "index" / f"vectors-{model.id}"

    def _clean(self, model: Model) -> None:
        shutil.rmtree(self._directory(model), ignore_errors=True)

    def _tidy(self, used: Sequence[Model]) -> None:
        """Delete the vector indexes of models that are not in use any more."""
        kept = {self._directory(model) for model in used}
        for directory in (self._settings.data_dir / "index").glob("vectors*"):
            if directory.with_suffix("") not in kept:
                shutil.rmtree(directory, ignore_errors=True)
