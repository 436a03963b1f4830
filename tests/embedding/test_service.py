"""The queue in front of the model: who is served when, and what everybody hears."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest
from samples import WAIT_S, TinyModel, tiny_vector

from tracebank.embedding import EmbeddingModel, EmbeddingService, Prompts, Vectors
from tracebank.embedding.batches import MAX_BATCH_TEXTS, next_batch
from tracebank.embedding.threads import DOCUMENTS_NICE
from tracebank.errors import EmbeddingError, ModelLoadError
from tracebank.metrics import Metrics

pytestmark = pytest.mark.anyio


def service_of(load: Callable[[], EmbeddingModel], *, batch_tokens: int = 2_048, cache_bytes: int = 100_000) -> EmbeddingService:
    """Return a service that is not started."""
    return EmbeddingService(load, name="tiny", batch_tokens=batch_tokens, cache_bytes=cache_bytes, metrics=Metrics(), clock=time.monotonic)


@asynccontextmanager
async def serving(model: EmbeddingModel, *, batch_tokens: int = 2_048, cache_bytes: int = 100_000) -> AsyncIterator[EmbeddingService]:
    """A service with a loaded model."""
    service = service_of(lambda: model, batch_tokens=batch_tokens, cache_bytes=cache_bytes)
    service.start()
    await service.loaded()
    yield service
    await service.close()


async def queued(service: EmbeddingService, *texts: str) -> None:
    """Wait until these texts wait for their turn."""
    async with asyncio.timeout(WAIT_S):
        while not all(text in service._wanted for text in texts):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)


async def entered(model: TinyModel) -> None:
    """Wait until the model has begun another batch."""
    assert await asyncio.to_thread(model.entered.acquire, True, WAIT_S)


@pytest.mark.parametrize("max_tokens", [1, 60, 300, 100_000])
def test_a_batch_holds_who_waits_longest_and_others_of_like_length(max_tokens: int) -> None:
    """Bounded with its padding; a text that is too long alone is alone. Nobody nearer in length is left out."""
    tokens = [37 * i % 500 + 1 for i in range(300)]
    while tokens:
        batch = next_batch(tokens, max_tokens=max_tokens)
        assert 0 in batch
        assert len(set(batch)) == len(batch) <= MAX_BATCH_TEXTS
        taken = sorted(tokens[i] for i in batch)
        assert len(batch) == 1 or len(batch) * taken[-1] <= max_tokens
        left = [length for i, length in enumerate(tokens) if i not in set(batch)]
        assert not [length for length in left if taken[0] < length < taken[-1]]
        tokens = left


async def test_vectors_come_back_in_the_order_of_their_texts() -> None:
    """Though the batches are sorted by length."""
    texts = [f"word{i} " * (i * 7 % 23 + 1) for i in range(150)]
    model = TinyModel()
    async with serving(model, batch_tokens=200) as service:
        vectors = await service.embed_chunks(texts)
        assert vectors.shape == (150, model.dim)
        assert np.array_equal(vectors, np.stack([tiny_vector(text) for text in texts]))
        assert len(model.batches) > 5
        assert (await service.embed_chunks([])).shape == (0, model.dim)


async def test_a_question_overtakes_bulk_work() -> None:
    """It waits for the one batch that is in work, however much is queued."""
    model = TinyModel()
    async with serving(model, batch_tokens=64) as service:
        model.gate.clear()
        bulk = asyncio.create_task(service.embed_chunks([f"chunk {i} " * 20 for i in range(20)]))
        await entered(model)
        question = asyncio.create_task(service.embed_questions(["what now?"]))
        await asyncio.sleep(0)
        model.gate.set()
        await question
        assert model.batches[1] == ["what now?"]
        assert len(await bulk) == 20


async def test_a_question_is_computed_beside_a_document_where_the_model_can_do_both() -> None:
    """It need not even wait for the batch in work; a second question waits for the first."""

    class Wide(TinyModel):
        concurrency = 2

        def encode(self, texts: Sequence[str]) -> Vectors:
            if texts[0].startswith("chunk"):
                return super().encode(texts)
            self.asked.append(list(texts))
            return np.stack([tiny_vector(text) for text in texts])

        def __init__(self) -> None:
            super().__init__()
            self.asked: list[list[str]] = []

    model = Wide()
    async with serving(model) as service:
        model.gate.clear()
        bulk = asyncio.create_task(service.embed_chunks(["chunk"]))
        await entered(model)
        assert np.array_equal((await service.embed_questions(["what now?"]))[0], tiny_vector("what now?"))
        assert not bulk.done()
        model.gate.set()
        await bulk
    assert model.asked == [["what now?"]]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no priorities of their own")
async def test_documents_step_back_behind_questions() -> None:
    """Their thread has a lower priority, and keeps it; that of the questions has the usual one."""

    class Wide(TinyModel):
        concurrency = 2

        def __init__(self) -> None:
            super().__init__()
            self.nice: dict[str, set[int]] = {"chunk": set(), "what": set()}

        def encode(self, texts: Sequence[str]) -> Vectors:
            self.nice[texts[0].split()[0]].add(os.getpriority(os.PRIO_PROCESS, 0))
            return super().encode(texts)

    model, usual = Wide(), os.getpriority(os.PRIO_PROCESS, 0)
    async with serving(model) as service:
        for i in range(3):
            await service.embed_chunks([f"chunk {i}"])
            await service.embed_questions([f"what {i}"])
    assert model.nice == {"chunk": {usual + DOCUMENTS_NICE}, "what": {usual}}


async def test_questions_of_several_callers_share_a_batch() -> None:
    """Those that came while the model was busy; each gets its own."""
    model = TinyModel()
    async with serving(model) as service:
        model.gate.clear()
        first = asyncio.create_task(service.embed_questions(["first"]))
        await entered(model)
        others = [asyncio.create_task(service.embed_questions([f"question {i}", "common"])) for i in range(4)]
        await asyncio.sleep(0)
        model.gate.set()
        await first
        for i, (own, common) in enumerate(await asyncio.gather(*others)):
            assert np.array_equal(own, tiny_vector(f"question {i}"))
            assert np.array_equal(common, tiny_vector("common"))
        assert len(model.batches) == 2


async def test_a_question_is_embedded_once_and_then_known() -> None:
    """Counted by the cache; equal questions of one call count as one."""
    model = TinyModel()
    async with serving(model) as service:
        one, two, again = await service.embed_questions(["one", "two", "one"])
        assert np.array_equal(one, again)
        assert not np.array_equal(one, two)
        await service.embed_questions(["two", "three"])
        assert sorted(model.texts) == ["one", "three", "two"]
        report = service.cache.report()
        assert (report["hits"], report["misses"], report["entries"]) == (1, 3, 3)


async def test_without_a_cache_every_question_is_embedded() -> None:
    """A bound of 0 switches it off, and the answers are the same."""
    model = TinyModel()
    async with serving(model, cache_bytes=0) as service:
        for _ in range(2):
            (vector,) = await service.embed_questions(["one"])
            assert np.array_equal(vector, tiny_vector("one"))
        assert model.texts == ["one", "one"]


async def test_an_error_in_one_text_is_that_texts_alone() -> None:
    """Its batch is tried again one by one; who waits for others in it, or behind it, hears nothing of it."""
    model = TinyModel()
    async with serving(model) as service:
        model.gate.clear()
        model.failing = "poison"
        running = asyncio.create_task(service.embed_chunks(["running"]))
        await entered(model)
        bulk = asyncio.create_task(service.embed_chunks(["chunk one", "poison", "chunk two"]))
        beside = asyncio.create_task(service.embed_chunks(["beside it"]))
        questions = [asyncio.create_task(service.embed_questions([text])) for text in ("poison too", "fine")]
        await queued(service, "poison", "beside it", "poison too", "fine")
        model.gate.set()
        for waiter in (bulk, questions[0]):
            with pytest.raises(EmbeddingError, match="cannot embed 'poison'"):
                await waiter
        await running
        assert np.array_equal((await beside)[0], tiny_vector("beside it"))
        assert np.array_equal((await questions[1])[0], tiny_vector("fine"))
        assert np.array_equal((await service.embed_chunks(["chunk one"]))[0], tiny_vector("chunk one"))


async def test_a_text_that_several_want_is_embedded_once() -> None:
    """Twice in one call, in the calls of two, and by one who asks while it is in work."""
    model = TinyModel()
    async with serving(model) as service:
        model.gate.clear()
        running = asyncio.create_task(service.embed_chunks(["in work"]))
        await entered(model)
        others = [
            asyncio.create_task(service.embed_chunks(["in work", "twice", "twice"])),
            asyncio.create_task(service.embed_chunks(["twice"])),
            asyncio.create_task(service.embed_questions(["in work"])),
        ]
        await queued(service, "twice")
        model.gate.set()
        first, second, _ = await asyncio.gather(*others)
        await running
        assert np.array_equal(first, np.stack([tiny_vector(text) for text in ("in work", "twice", "twice")]))
        assert np.array_equal(second[0], first[2])
        assert sorted(model.texts) == ["in work", "twice"]


async def test_a_question_that_is_also_a_document_in_the_queue_goes_ahead_with_it() -> None:
    """And is not computed again in the document's turn."""
    model = TinyModel()
    async with serving(model, batch_tokens=64) as service:
        model.gate.clear()
        bulk = asyncio.create_task(service.embed_chunks([f"chunk {i} " * 20 for i in range(20)] + ["both"]))
        await entered(model)
        question = asyncio.create_task(service.embed_questions(["both"]))
        await asyncio.sleep(0)
        model.gate.set()
        await question
        assert model.batches[1] == ["both"]
        await bulk
        assert model.texts.count("both") == 1


async def test_prompts_go_before_the_texts_and_keep_questions_and_documents_apart() -> None:
    """The same words are then two texts."""
    model = TinyModel()
    model.prompts = Prompts(question="query: ", document="text: ")
    async with serving(model) as service:
        (question,) = await service.embed_questions(["words"])
        (document,) = await service.embed_chunks(["words"])
        assert np.array_equal(question, tiny_vector("query: words"))
        assert np.array_equal(document, tiny_vector("text: words"))


async def test_who_brings_too_much_waits_until_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue never holds more than its bound, everything is embedded, and a question still goes ahead."""
    monkeypatch.setattr("tracebank.embedding.service.MAX_WAITING_TEXTS", 10)
    model = TinyModel()
    async with serving(model, batch_tokens=64) as service:
        model.gate.clear()
        callers = [asyncio.create_task(service.embed_chunks([f"text {caller} {i}" for i in range(40)])) for caller in range(3)]
        await entered(model)
        question = asyncio.create_task(service.embed_questions(["what now?"]))
        await queued(service, "what now?")
        assert len(service._documents) <= 10
        model.gate.set()
        await question
        assert model.batches[1] == ["what now?"]
        for caller, vectors in enumerate(await asyncio.gather(*callers)):
            assert np.array_equal(vectors, np.stack([tiny_vector(f"text {caller} {i}") for i in range(40)]))


async def test_what_nobody_waits_for_any_more_is_not_computed() -> None:
    """Its caller was cancelled while it was in the queue."""
    model = TinyModel()
    async with serving(model) as service:
        model.gate.clear()
        running = asyncio.create_task(service.embed_chunks(["running"]))
        await entered(model)
        left = asyncio.create_task(service.embed_chunks(["left alone", "common"]))
        kept = asyncio.create_task(service.embed_chunks(["common"]))
        await queued(service, "left alone", "common")
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        model.gate.set()
        await asyncio.gather(running, kept)
        assert model.texts == ["running", "common"]


@pytest.mark.parametrize("line", ["questions", "documents"])
async def test_who_waits_behind_others_who_left_is_served(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In whichever line they stood, and though they are more than are looked at once; nobody else has to come for that."""
    monkeypatch.setattr("tracebank.embedding.service.SORTED_TEXTS", 2)
    model = TinyModel()
    async with serving(model) as service:
        model.gate.clear()
        running = asyncio.create_task(service.embed_chunks(["running"]))
        await entered(model)
        texts = ("one", "two", "three")
        left = asyncio.create_task(service.read_questions(texts) if line == "questions" else service.read_chunks(texts))
        await queued(service, *texts)
        kept = asyncio.create_task(service.embed_chunks(["kept"]))
        await queued(service, "kept")
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        model.gate.set()
        async with asyncio.timeout(WAIT_S):
            await asyncio.gather(running, kept)
        assert model.texts == ["running", "kept"]


class Broken(TinyModel):
    """A model that fails in a way of its own."""

    def __init__(self, failure: BaseException | None) -> None:
        super().__init__()
        self.failure = failure

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Fail; without a failure, return too few vectors."""
        if self.failure is not None:
            raise self.failure
        return super().encode(texts)[1:]


@pytest.mark.parametrize("failure", [MemoryError("none left"), BaseException("a panic in native code"), None])
async def test_whatever_the_model_does_is_an_embedding_error(failure: BaseException | None) -> None:
    """The thread that runs it goes on."""
    model = Broken(failure)
    async with serving(model) as service:
        for _ in range(2):
            with pytest.raises(EmbeddingError, match="the model failed: "):
                await service.embed_questions(["a"])
            with pytest.raises(EmbeddingError, match="the model failed: "):
                await service.embed_chunks(["a", "b"])


async def test_a_cancelled_caller_does_not_disturb_the_others() -> None:
    """Neither in the batch in work nor in the queue."""
    model = TinyModel()
    async with serving(model) as service:
        model.gate.clear()
        running = asyncio.create_task(service.embed_chunks(["running"]))
        await entered(model)
        cancelled = asyncio.create_task(service.embed_questions(["cancelled"]))
        kept = asyncio.create_task(service.embed_questions(["kept"]))
        await asyncio.sleep(0)
        running.cancel()
        cancelled.cancel()
        await asyncio.gather(running, cancelled, return_exceptions=True)
        model.gate.set()
        assert np.array_equal((await kept)[0], tiny_vector("kept"))


async def test_closing_settles_everybody_who_waits() -> None:
    """The batch in work is finished; the rest hear that the engine shuts down, and so does who comes later."""
    model = TinyModel()
    async with serving(model, batch_tokens=64) as service:
        model.gate.clear()
        in_work = asyncio.create_task(service.embed_questions(["in work"]))
        await entered(model)
        waiting = [asyncio.create_task(service.embed_questions(["late"])), asyncio.create_task(service.embed_chunks(["later"]))]
        await queued(service, "late", "later")
        closing = asyncio.create_task(service.close())
        await asyncio.sleep(0)
        model.gate.set()
        await closing
        assert np.array_equal((await in_work)[0], tiny_vector("in work"))
        for waiter in waiting:
            with pytest.raises(EmbeddingError, match="shutting down"):
                await waiter
        with pytest.raises(EmbeddingError, match="shutting down"):
            await service.embed_questions(["after"])


class SlowLoad:
    """A model that is there when the test says so, or is not."""

    def __init__(self, failure: BaseException | None = None) -> None:
        self.model, self.failure = TinyModel(), failure
        self.arrived = threading.Event()

    def __call__(self) -> EmbeddingModel:
        """Load."""
        assert self.arrived.wait(WAIT_S)
        if self.failure is not None:
            raise self.failure
        return self.model


async def test_work_that_comes_before_the_model_waits_for_it() -> None:
    """Until it is there the service is not ready, and knows no dimension."""
    load = SlowLoad()
    service = service_of(load)
    service.start()
    question = asyncio.create_task(service.embed_questions(["early"]))
    await asyncio.sleep(0)
    assert (service.ready, service.dim, service.error) == (False, None, None)
    load.arrived.set()
    assert np.array_equal((await question)[0], tiny_vector("early"))
    assert (service.ready, service.dim, service.error) == (True, 64, None)
    await service.close()


@pytest.mark.parametrize("failure", [ModelLoadError("no such model"), RuntimeError("no such model"), BaseException("no such model")])
async def test_a_model_that_cannot_be_loaded_is_told_to_everybody(failure: BaseException) -> None:
    """To who waits for the model, who waits for a vector, and who comes later."""
    load = SlowLoad(failure)
    service = service_of(load)
    service.start()
    early = [asyncio.create_task(service.embed_questions(["a"])), asyncio.create_task(service.embed_chunks(["b"]))]
    await asyncio.sleep(0)
    load.arrived.set()
    for waiter in (service.loaded(), *early, service.embed_questions(["c"])):
        with pytest.raises(ModelLoadError, match="no such model"):
            await waiter
    assert not service.ready
    assert isinstance(service.error, ModelLoadError)
    await service.close()


async def test_who_stops_waiting_for_the_model_does_not_stop_it_loading() -> None:
    """A client may leave; the others still get it."""
    load = SlowLoad()
    service = service_of(load)
    service.start()
    impatient = asyncio.create_task(service.loaded())
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.gather(impatient, return_exceptions=True)
    load.arrived.set()
    await service.loaded()
    assert service.ready
    await service.close()


async def test_closing_while_the_model_loads_settles_who_waits_at_once() -> None:
    """Loading cannot be interrupted, but nobody has to wait for its end."""
    load = SlowLoad()
    service = service_of(load)
    service.start()
    waiters = [asyncio.create_task(service.embed_questions(["early"])), asyncio.create_task(service.loaded())]
    await asyncio.sleep(0)
    await service.close()
    for waiter in waiters:
        with pytest.raises(EmbeddingError, match="shutting down"):
            await waiter
    load.arrived.set()
    assert load.model.batches == []
