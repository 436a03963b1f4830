"""Reading the best traces again with a cross-encoder."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from samples import WAIT_S, settings_of, settled

from tracebank.embedding import CrossEncoderModel
from tracebank.embedding.sentence import resolve
from tracebank.engine import Engine
from tracebank.errors import ModelLoadError
from tracebank.retrieval import Ranked
from tracebank.retrieval.reranking import READ_TRACES, reranked

pytestmark = pytest.mark.anyio
TASKS = ("Repair the bicycle", "Repair the roof of the shed", "Paint the shed", "Water the plants beside the shed")


def ranked(row: int, score: float) -> Ranked:
    """Return a trace that was found."""
    return Ranked(row=row, score=score, dense=0.0, lexical=0.0, whole=0.0, passages=())


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a real cross-encoder of the smallest size, with weights of chance."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    directory = tmp_path_factory.mktemp("cross-encoder")
    torch.manual_seed(3)
    tokenizer = AutoTokenizer.from_pretrained(resolve(""))
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "initializer_range": 1.0}
    BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), num_labels=1, **sizes)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def test_what_it_says_counts_as_much_as_all_that_was_known() -> None:
    """The mean of both; the others stay behind, and none has a higher score."""
    ranking = [ranked(row, 0.9 - row / 100) for row in range(READ_TRACES + 3)]
    found = reranked(ranking, {0: 0.1, 1: 1.0})
    assert [(f.row, f.score, f.reranker) for f in found[:2]] == [(1, pytest.approx(0.945), 1.0), (0, pytest.approx(0.5), 0.1)]
    assert [f.row for f in found[READ_TRACES:]] == list(range(READ_TRACES, READ_TRACES + 3))
    assert [f.score for f in found] == sorted((f.score for f in found), reverse=True)
    assert reranked([], {}) == []


async def test_the_best_memories_are_in_the_order_that_both_say(tmp_path: Path, cross_encoder: str) -> None:
    """Of task and best passage the cross-encoder says what it says of them alone."""
    question = "what was done about the shed"
    settings = settings_of(tmp_path, retrieval={"reranker": cross_encoder, "wait_ms": 60_000})
    async with Engine.open(settings) as engine:
        session = engine.session()
        for task in TASKS:
            await engine.add({"task": task, "trace_id": task, "content": f"{task}, with care."}, session)
        assert engine.reranker is not None
        async with asyncio.timeout(WAIT_S):
            await engine.reranker.settled.wait()
        found = await engine.retrieve({"query": question, "detail": "full"}, session)
    results = found.page.results
    model = CrossEncoderModel.load(cross_encoder, device="cpu")
    expected = dict(zip(TASKS, model.scores([(question, f"{task}\n{task}, with care.") for task in TASKS]), strict=True))
    assert {r.trace_id: r.parts["reranker"] for r in results} == pytest.approx(
        {r.trace_id: expected[r.trace_id] for r in results}, abs=1e-3
    )
    assert len({r.parts["reranker"] for r in results}) == len(results) > 1
    assert [r.score for r in results] == sorted((r.score for r in results), reverse=True)
    assert found.note == "" or "reranker" not in found.note


async def test_one_that_cannot_be_loaded_is_told_and_searches_go_on(tmp_path: Path) -> None:
    """The note names it, what was found is there, and is kept as long as that is what it lacks."""
    async with Engine.open(settings_of(tmp_path, retrieval={"reranker": str(tmp_path / "nowhere")})) as engine:
        session = engine.session()
        await engine.add({"task": TASKS[0]}, session)
        assert engine.reranker is not None
        async with asyncio.timeout(WAIT_S):
            await engine.reranker.settled.wait()
        await settled(engine)
        found = await engine.retrieve({"query": "bicycle"}, session)
        assert await engine.retrieve({"query": "bicycle"}, session) is found
    assert [r.task for r in found.page.results] == [TASKS[0]]
    assert f"the reranker {tmp_path / 'nowhere'} could not be loaded" in found.note


def test_a_classifier_of_several_classes_is_refused(cross_encoder: str, tmp_path: Path) -> None:
    """It does not tell how well a text answers."""
    from transformers import AutoConfig, AutoTokenizer, BertForSequenceClassification

    config = AutoConfig.from_pretrained(cross_encoder, num_labels=3)
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(cross_encoder).save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match="has 3 outputs"):
        CrossEncoderModel.load(str(tmp_path), device="cpu")
