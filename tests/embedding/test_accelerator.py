"""The model on an accelerator that torch sees. Where there is none, nothing here can be tested."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest
from samples import WAIT_S, exported_models

from tracebank.embedding import EmbeddingModel, EmbeddingService, TokenEncoder, load_model, unpacked
from tracebank.embedding.accelerated import RUSH_TEXTS, AcceleratedModel
from tracebank.embedding.accelerator import accelerator_possible
from tracebank.embedding.batches import MAX_BATCH_TEXTS
from tracebank.embedding.sentence import ACCELERATOR_BATCH_TOKENS, SentenceTransformerModel, seen_accelerator
from tracebank.metrics import Metrics
from tracebank.settings import EmbeddingSettings

TEXTS = ["cache", "Why did the build fail?", "", "The lock file was stale. " * 20, "接続がタイムアウトしました。", "a long one " * 300]


@pytest.fixture(scope="module")
def device() -> str:
    """What torch sees."""
    # Torch takes seconds to import.
    if not accelerator_possible() or not (seen := seen_accelerator()):
        pytest.skip("there is no accelerator")
    return seen


@pytest.fixture(scope="module")
def there(device: str) -> EmbeddingModel:
    """The model on it, as settings that name it load it."""
    return load_model(EmbeddingSettings(device=device), exported_models())


@pytest.fixture(scope="module")
def here(device: str) -> EmbeddingModel:
    """The model on the processor, in full precision."""
    return load_model(EmbeddingSettings(device="cpu", engine="onnx", precision="fp32"), exported_models())


def test_it_computes_in_half_precision(there: EmbeddingModel, device: str) -> None:
    """In batches that feed it."""
    assert isinstance(there, SentenceTransformerModel)
    assert there.transformer.device.type == device
    assert {str(weights.dtype) for weights in there.transformer.parameters()} == {"torch.float16"}
    assert there.batch_tokens == ACCELERATOR_BATCH_TOKENS


def test_vectors_and_tokens_are_those_of_the_processor(there: EmbeddingModel, here: EmbeddingModel) -> None:
    """One index may hold both."""
    assert isinstance(there, TokenEncoder)
    assert isinstance(here, TokenEncoder)
    (vectors, tokens), (expected, known) = there.encode_tokens(TEXTS), here.encode_tokens(TEXTS)
    assert vectors.dtype == np.float32
    assert np.sum(vectors * expected, axis=1).min() > 0.999
    for own, other in zip(tokens, known, strict=True):
        np.testing.assert_array_equal(own.spans, other.spans)
        assert len(own.codes) == 0 or np.sum(unpacked(own.codes) * unpacked(other.codes), axis=1).mean() > 0.99
    assert there.unseen_tokens == here.unseen_tokens > 0


@pytest.mark.anyio
async def test_by_itself_it_is_fetched_for_many_documents(there: EmbeddingModel, here: EmbeddingModel) -> None:
    """Each gets its own vector, before and after it has come; questions stay on the processor."""
    model = load_model(EmbeddingSettings(), exported_models())
    assert isinstance(model, AcceleratedModel)
    assert isinstance(there, TokenEncoder)
    service = EmbeddingService(lambda: model, name="", cache_bytes=0, metrics=Metrics(), clock=time.monotonic)
    service.start()
    await service.embed_chunks([f"document {i}" for i in range(RUSH_TEXTS + 100)])
    assert model.accelerator is not None
    assert await asyncio.to_thread(model.accelerator.settled.wait, WAIT_S)
    texts = [f"case {i} of the upload" for i in range(2 * MAX_BATCH_TEXTS)]
    vectors = await service.embed_chunks(texts)
    assert np.abs(vectors - there.encode_tokens(texts)[0]).max() < 0.01  # int8 differs by more
    assert np.abs(await service.embed_questions(["which case?"]) - model.encode(["which case?"])).max() < 1e-6
    await service.close()
