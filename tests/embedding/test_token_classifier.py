"""A token classifier: real code of transformers on a tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tracebank.embedding.token_classifier import TokenClassifier
from tracebank.errors import ModelLoadError

TEXT = "The gannet dived 12 times; the sea, however, was calm. " * 20


@pytest.fixture(scope="module")
def classifier(word_model: Path) -> TokenClassifier:
    """The tiny model, loaded once."""
    return TokenClassifier.load(word_model)


def test_every_word_has_its_place_and_a_probability(classifier: TokenClassifier) -> None:
    """Also beyond what the model can see at a time."""
    words = classifier.words(TEXT)
    assert [TEXT[start:end] for start, end, _ in words] == TEXT.split()
    assert all(0 < chance < 1 for _, _, chance in words)
    assert len({round(chance, 6) for _, _, chance in words}) > 20


def test_the_same_text_gives_the_same_probabilities(classifier: TokenClassifier) -> None:
    """And a text without words has none."""
    assert classifier.words(TEXT) == classifier.words(TEXT)
    assert classifier.words("") == []
    assert classifier.words(" \n\t ") == []


def test_a_word_that_is_no_token_is_not_dispensable(classifier: TokenClassifier) -> None:
    """Signs that the tokenizer drops."""
    assert classifier.words("\u0007")[0][2] == 1.0


def test_a_directory_without_a_model_says_what_to_set(tmp_path: Path) -> None:
    """Nothing is looked for on the network."""
    with pytest.raises(ModelLoadError, match=r"compression\.token_model: .* holds no model .*set it to the directory of one"):
        TokenClassifier.load(tmp_path / "nowhere")


def test_a_model_that_cannot_be_read_is_named(word_model: Path, tmp_path: Path) -> None:
    """With the reason."""
    broken = Path(shutil.copytree(word_model, tmp_path / "broken"))
    (broken / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelLoadError, match=r"compression\.token_model: .*broken could not be loaded"):
        TokenClassifier.load(broken)


def test_a_model_of_other_classes_is_refused(word_model: Path, tmp_path: Path) -> None:
    """Names of persons and places, say."""
    from transformers import AutoConfig, AutoModelForTokenClassification

    other = Path(shutil.copytree(word_model, tmp_path / "other"))
    config = AutoConfig.from_pretrained(str(other))
    config.num_labels = 5
    AutoModelForTokenClassification.from_config(config).save_pretrained(str(other))
    assert len(json.loads((other / "config.json").read_text(encoding="utf-8"))["id2label"]) == 5
    with pytest.raises(ModelLoadError, match="no classifier of two classes"):
        TokenClassifier.load(other)
