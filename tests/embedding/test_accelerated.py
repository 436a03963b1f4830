"""Documents on an accelerator, questions on the processor. Here the process has torch on the processor for an accelerator."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import bag_of_words, exported_models

from tracebank.embedding import PROBE, EmbeddingModel, EmbeddingService, TokenEncoder, TokenVectors, Vectors, load_model, unpacked
from tracebank.embedding.accelerated import RUSH_S, AcceleratedModel
from tracebank.embedding.accelerator import Accelerator, AcceleratorGone
from tracebank.embedding.sentence import ACCELERATOR_BATCH_TOKENS
from tracebank.errors import EmbeddingError
from tracebank.metrics import Metrics
from tracebank.settings import EmbeddingSettings

TEXTS = ["cache", "Why did the build fail?", "", "The lock file was stale. " * 20, "接続がタイムアウトしました。", "a long one " * 300]
# Each process imports torch, behind everything else that a busy machine does.
COMES_S = 120.0
pytestmark = pytest.mark.timeout(300)
CPU = partial(Accelerator, "", "", "cpu")


def settled(accelerator: Accelerator) -> Accelerator:
    """Wait until it has come, or will not."""
    assert accelerator.settled.wait(COMES_S)
    return accelerator


def loaded() -> Any:
    """Return the model on the processor, in full precision."""
    return load_model(EmbeddingSettings(device="cpu", engine="onnx", precision="fp32"), exported_models())


@pytest.fixture(scope="module")
def accelerator() -> Iterator[Accelerator]:
    """One that has come, for tests that do it no harm."""
    made = settled(CPU(rest_s=600))
    yield made
    made.close()


@pytest.fixture(autouse=True)
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four documents are a rush, and worth it."""
    monkeypatch.setattr("tracebank.embedding.accelerated.RUSH_TEXTS", 3)
    monkeypatch.setattr("tracebank.embedding.accelerated.WORTH_TEXTS", 2)


class Clock:
    """A time that a test moves on."""

    now = 0.0

    def __call__(self) -> float:
        """Return it."""
        return self.now


def accelerated(begin: Callable[[], Accelerator], clock: Callable[[], float] = time.monotonic) -> AcceleratedModel:
    """Return the model with an accelerator for its documents."""
    return AcceleratedModel(loaded(), begin, clock)


def rush(model: AcceleratedModel) -> None:
    """Bring so many documents that it fetches the accelerator."""
    model.encode_documents(["one", "two", "three", "many"])


def agrees(found: tuple[Vectors, Sequence[TokenVectors]], texts: Sequence[str], reference: TokenEncoder) -> bool:
    """Return whether vectors and tokens are those that the processor computes."""
    vectors, tokens = reference.encode_tokens(texts)
    assert np.sum(found[0] * vectors, axis=1).min() > 0.999
    for own, other in zip(found[1], tokens, strict=True):
        np.testing.assert_array_equal(own.spans, other.spans)
        assert len(own.codes) == 0 or np.sum(unpacked(own.codes) * unpacked(other.codes), axis=1).mean() > 0.99
    return True


def test_the_process_says_the_same_as_the_processor(accelerator: Accelerator) -> None:
    """Of odd texts, too, and of what it does not see."""
    here = loaded()
    vectors, tokens, unseen = accelerator.encode_tokens(TEXTS)
    assert agrees((vectors, tokens), TEXTS, here)
    assert unseen == here.unseen_tokens > 0


def test_texts_that_cannot_be_embedded_do_it_no_harm(accelerator: Accelerator) -> None:
    """They alone hear of it."""
    with pytest.raises(EmbeddingError, match="1 texts could not be embedded"):
        accelerator.encode_tokens([17])  # type: ignore[list-item]
    assert accelerator.encode_tokens(["and on"])[0].shape == (1, 384)


@pytest.mark.skipif(sys.platform == "darwin", reason="MPS cannot be hidden from torch")
def test_where_torch_sees_none_the_processor_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver is there, and nothing that torch can use: it is asked when it is needed, and once."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    model = accelerated(partial(Accelerator, "", ""))
    rush(model)
    assert model.accelerator is not None
    settled(model.accelerator)
    assert agrees(model.encode_documents(TEXTS), TEXTS, loaded())
    assert model.state == "not used: torch sees none"
    model.fetch()
    assert model.accelerator is None


def test_what_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    """A model that does not tell of tokens; a device that is not there."""
    for begin in (lambda: Accelerator(str(bag_of_words(tmp_path, "stale")), "", "cpu"), lambda: Accelerator("", "", "nowhere")):
        gone = settled(begin())
        with pytest.raises(AcceleratorGone, match=r"does not tell of tokens|could not be loaded") as told:
            gone.encode_tokens(["a"])
        assert told.value.failed
        gone.close()


def test_it_comes_for_many_documents_without_a_pause_and_goes_again() -> None:
    """Until it has come, and after it has gone, the processor embeds; so it is fetched again."""
    begun: list[Accelerator] = []
    clock = Clock()

    def begin() -> Accelerator:
        begun.append(CPU(rest_s=0.5 if not begun else 600))
        return begun[-1]

    model = accelerated(begin, clock)
    for _ in range(2):
        model.encode_documents(["one", "two"])
        clock.now += RUSH_S + 1
    assert (begun, model.documents_batch_tokens, model.state) == ([], model.batch_tokens, "away")
    for _ in range(2):
        model.encode_documents(["one", "two"])
    assert len(begun) == 1
    assert settled(begun[0]).ended.wait(COMES_S)
    assert (begun[0]._process.returncode, model.state) == (0, "away")
    assert agrees(model.encode_documents(TEXTS), TEXTS, loaded())
    clock.now += RUSH_S + 1
    rush(model)
    assert len(begun) == 2
    assert model.state == "coming"
    settled(begun[1])
    assert (model.documents_batch_tokens, model.state) == (ACCELERATOR_BATCH_TOKENS, "there")
    before = model.unseen_tokens
    assert agrees(model.encode_documents(TEXTS), TEXTS, loaded())
    assert model.unseen_tokens > before == model._model.unseen_tokens
    model.encode_documents(["one alone that no model sees to its end " * 100])
    assert model._model.unseen_tokens > before  # not worth the way
    model.close()


@pytest.mark.parametrize("harm", ["killed", "not to be begun", "not to be loaded"])
def test_one_that_fails_costs_no_document_and_is_not_tried_again(harm: str) -> None:
    """The processor embeds what it was asked for."""
    begun: list[Accelerator] = []

    def begin() -> Accelerator:
        if harm == "not to be begun":
            raise OSError("no such program")
        begun.append(Accelerator("", "", "nowhere") if harm == "not to be loaded" else CPU())
        return begun[-1]

    model = accelerated(begin)
    rush(model)
    for process in begun:
        settled(process)._process.kill()
    for _ in range(2):
        assert agrees(model.encode_documents(TEXTS), TEXTS, loaded())
        rush(model)
    assert len(begun) <= 1
    assert model.state.startswith("not used: ")
    model.close()


@pytest.mark.parametrize("harm", ["it fails", "it says something else"])
def test_one_that_is_out_of_order_costs_no_document(accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch, harm: str) -> None:
    """It is let go, and the processor embeds what it was asked for."""
    encode = accelerator.encode_tokens

    def spoiled(texts: Sequence[str]) -> Any:
        if harm == "it fails" and texts != [PROBE]:
            raise EmbeddingError("CUDA error: an illegal memory access was encountered")
        vectors, tokens, unseen = encode(texts)
        return (vectors if harm == "it fails" else -vectors), tokens, unseen

    closed: list[bool] = []
    monkeypatch.setattr(accelerator, "encode_tokens", spoiled)
    monkeypatch.setattr(accelerator, "close", lambda: closed.append(True))
    model = accelerated(lambda: accelerator)
    rush(model)
    assert agrees(model.encode_documents(TEXTS), TEXTS, loaded())
    assert closed == [True]
    assert ("CUDA error" if harm == "it fails" else "something else") in model.state


def test_a_text_that_fails_everywhere_is_not_its_fault(accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The accelerator stays."""
    monkeypatch.setattr(accelerator, "close", lambda: None)
    model = accelerated(lambda: accelerator)
    rush(model)
    with pytest.raises(EmbeddingError):
        model.encode_documents(["fine", "\ud800"])
    assert agrees(model.encode_documents(TEXTS), TEXTS, loaded())
    assert (model.state, model._unseen_there > 0) == ("there", True)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="a process cannot be stopped here")
@pytest.mark.parametrize("way", ["it takes too long", "the engine closes"])
def test_one_that_hangs_keeps_nobody(way: str) -> None:
    """Documents go on here, and the engine can close."""
    model = accelerated(CPU)
    rush(model)
    assert model.accelerator is not None
    process = settled(model.accelerator)._process
    model.encode_documents(TEXTS)
    model.accelerator._answer_timeout_s = 1.0 if way == "it takes too long" else 600.0
    os.kill(process.pid, signal.SIGSTOP)
    if way == "it takes too long":
        assert agrees(model.encode_documents(TEXTS), TEXTS, loaded())
        assert "status" in model.state
        return
    with ThreadPoolExecutor(1) as documents:
        asked = documents.submit(model.encode_documents, TEXTS)
        model.close()
        with pytest.raises(EmbeddingError, match="shutting down"):
            asked.result(COMES_S)


def test_one_that_is_begun_while_the_engine_closes_ends() -> None:
    """Whoever closes has seen none."""
    begun: list[Accelerator] = []

    def begin() -> Accelerator:
        begun.append(CPU(rest_s=600))
        model.close()
        return begun[-1]

    model = accelerated(begin)
    with pytest.raises(EmbeddingError, match="shutting down"):
        rush(model)
    assert begun[0].ended.wait(COMES_S)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the end of a process that is not a child cannot be waited for here")
def test_it_ends_with_who_began_it() -> None:
    """However that one ended."""
    begin = "import os; from tracebank.embedding.accelerator import Accelerator; print(Accelerator('', '', 'cpu')._process.pid, flush=True)"
    command = [sys.executable, "-c", f"{begin}; os._exit(1)"]
    done = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=False)
    child = int(done.stdout)
    with suppress(ProcessLookupError):  # it has gone already
        descriptor = os.pidfd_open(child)
        assert select.select([descriptor], [], [], COMES_S)[0]
        os.close(descriptor)


@pytest.mark.anyio
async def test_questions_stay_here(accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    """And documents come in large batches there."""
    there: list[str] = []
    encode = accelerator.encode_tokens

    def noted(texts: Sequence[str]) -> Any:
        there.extend(texts)
        return encode(texts)

    monkeypatch.setattr(accelerator, "encode_tokens", noted)
    monkeypatch.setattr(accelerator, "close", lambda: None)
    model = accelerated(lambda: accelerator)
    rush(model)
    metrics = Metrics()
    service = EmbeddingService(lambda: model, name="", cache_bytes=0, metrics=metrics, clock=time.monotonic)
    service.start()
    documents = [f"case {i} of the upload" for i in range(300)]
    assert len(await service.read_chunks(documents)) == len(documents)
    assert len(await service.read_questions(["which case?"])) == 1
    assert sorted(there) == sorted([PROBE, *documents])
    assert metrics.latencies()["embed_batch"]["count"] <= 3  # the first text may go alone, before the others are there
    await service.close()


@pytest.mark.parametrize("dim", [0, 64])
def test_an_export_gets_an_accelerator_where_there_may_be_one(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the settings ask for the processor; shorter vectors are shorter there, too."""
    monkeypatch.setattr("tracebank.embedding.loading.Accelerator", partial(Accelerator, device="cpu"))

    def load(device: str) -> EmbeddingModel:
        return load_model(EmbeddingSettings(device=device, truncate_dim=dim), exported_models())

    monkeypatch.setattr("tracebank.embedding.loading.accelerator_possible", lambda: False)
    assert not isinstance(load("auto"), AcceleratedModel)
    monkeypatch.setattr("tracebank.embedding.loading.accelerator_possible", lambda: True)
    assert not isinstance(load("cpu"), AcceleratedModel)
    model = load("auto")
    assert isinstance(model, AcceleratedModel)
    rush(model)
    assert model.accelerator is not None
    settled(model.accelerator)
    vectors, _ = model.encode_documents(TEXTS)
    assert vectors.shape == (len(TEXTS), model.dim) == (len(TEXTS), dim or 384)
    assert np.sum(vectors * model.encode(TEXTS), axis=1).mean() > 0.97
    assert model._unseen_there > 0
    model.close()
