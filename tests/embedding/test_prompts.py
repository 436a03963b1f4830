"""Which prompt goes before a text."""

from __future__ import annotations

from pathlib import Path

import pytest
from samples import tiny_transformer

from tracebank.embedding import Prompts
from tracebank.embedding.export import export
from tracebank.embedding.loading import load_model, vectors_name
from tracebank.embedding.prompts import choose_prompts
from tracebank.errors import ModelLoadError
from tracebank.settings import EmbeddingSettings

OWN = {"query": "Find: ", "passage": "Text: ", "clustering": "Group: ", "document": ""}


@pytest.mark.parametrize(
    ("settings", "own", "default_name", "question", "document"),
    [
        pytest.param({}, {}, None, "", "", id="a model without prompts"),
        pytest.param({}, OWN, None, "Find: ", "Text: ", id="the usual names, empty ones passed over"),
        pytest.param({}, {"clustering": "Group: "}, "clustering", "Group: ", "Group: ", id="the model's default"),
        pytest.param({"query_prompt_name": "clustering"}, OWN, None, "Group: ", "Text: ", id="a name"),
        pytest.param({"document_prompt_name": "document"}, OWN, "query", "Find: ", "", id="a name of an empty one"),
        pytest.param({"query_prompt_name": "clustering", "query_prompt": "q: "}, OWN, None, "q: ", "Text: ", id="a text"),
    ],
)
def test_a_text_wins_over_a_name_and_a_name_over_the_model(
    settings: dict[str, str], own: dict[str, str], default_name: str | None, question: str, document: str
) -> None:
    """And the model's prompt for the purpose over its default."""
    assert choose_prompts(EmbeddingSettings(**settings), own, default_name) == Prompts(question=question, document=document)


def test_a_name_that_the_model_does_not_have_is_told() -> None:
    """With those that it has."""
    with pytest.raises(ModelLoadError, match="no prompt 'search'; it has clustering, document, passage, query"):
        choose_prompts(EmbeddingSettings(query_prompt_name="search"), OWN, None)


def test_prompts_are_part_of_the_name_of_the_vectors() -> None:
    """Those of the settings; the model's own are part of the model."""
    names = [
        vectors_name(EmbeddingSettings(**settings))
        for settings in ({}, {"query_prompt": "a"}, {"document_prompt": "a"}, {"query_prompt_name": "a"})
    ]
    assert len(set(names)) == 4


def test_a_models_own_prompts_are_exported_and_used_by_both_engines(tmp_path: Path) -> None:
    """Here of a small one that was saved with two."""
    tiny = tiny_transformer(tmp_path, prompts={"query": "question: ", "document": "text: "})
    for engine in ("onnx", "torch"):
        loaded = load_model(EmbeddingSettings(model=tiny, device="cpu", engine=engine), tmp_path / "models", export=export)
        assert loaded.prompts == Prompts(question="question: ", document="text: ")
