"""The tokens of the model's own tokenizer, and where they lie."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from tracebank.chunking import windows, word_spans
from tracebank.embedding import ModelTokens
from tracebank.embedding.exported import TOKENIZER_NAME, origin_of
from tracebank.embedding.sentence import resolve
from tracebank.embedding.token_spans import PIECE_CHARS, RETRY_S
from tracebank.embedding.vocabulary import read_tokenizer
from tracebank.settings import EmbeddingSettings

TEXT = "Unbelievably, the Déjà-vu worker crashed: KeyError('naïve')  \n\n深い記憶 🧠 x86_64!"


@pytest.fixture
def spans(tmp_path: Path) -> ModelTokens:
    """Those of the bundled model."""
    return ModelTokens(EmbeddingSettings(), tmp_path)


def test_spans_are_in_order_and_hold_everything_but_blanks(spans: ModelTokens) -> None:
    """A word may be several tokens."""
    found = spans(TEXT)
    assert all(a < b for a, b in found)
    assert all(one[1] <= other[0] for one, other in pairwise(found))
    assert "".join(TEXT[a:b] for a, b in found) == "".join(TEXT.split())
    assert len(found) > len(TEXT.split()) * 2


def test_a_long_text_is_tokenized_in_pieces_with_the_same_result(spans: ModelTokens) -> None:
    """Cut at blanks; without blanks somewhere."""
    paragraph = "The quick brown fox jumped over KeyError and x86_64 again.\n"
    text = paragraph * (3 * PIECE_CHARS // len(paragraph))
    one = spans(paragraph)
    assert spans(text) == [(i * len(paragraph) + a, i * len(paragraph) + b) for i in range(text.count("\n")) for a, b in one]
    endless = "a" * (2 * PIECE_CHARS + 1)
    assert "".join(endless[a:b] for a, b in spans(endless)) == endless


def test_no_window_is_longer_than_the_model_is_told(spans: ModelTokens, tmp_path: Path) -> None:
    """Counted by the model itself: prose, code, Chinese, base64."""
    texts = [Path(__file__).read_text(), "深い記憶と長い文。" * 300, "QUJD" * 3_000, TEXT * 50]
    for text in texts:
        for start, end in windows(text, spans, tokens=112, overlap_tokens=28):
            assert len(spans(text[start:end])) <= 112 + 2  # a word that is cut may become more tokens


def test_the_tokenizer_of_an_export_serves_a_model_that_is_no_directory(tmp_path: Path) -> None:
    """Until there is one, words do."""
    settings = EmbeddingSettings(model="someone/some-model")
    now = [0.0]
    spans = ModelTokens(settings, tmp_path, clock=lambda: now[0])
    assert spans(TEXT) == word_spans(TEXT)
    directory = tmp_path / origin_of(settings.model).directory_name
    directory.mkdir()
    shutil.copy(Path(resolve("")) / TOKENIZER_NAME, directory)
    now[0] += RETRY_S
    assert spans(TEXT) == ModelTokens(EmbeddingSettings(), tmp_path)(TEXT) != word_spans(TEXT)


def test_tokenizers_are_told_apart_by_their_mark(spans: ModelTokens, tmp_path: Path) -> None:
    """Where words are measured there is none; another file has another one."""
    settings = EmbeddingSettings(model=str(tmp_path / "model"))
    assert ModelTokens(settings, tmp_path).mark is None
    (tmp_path / "model").mkdir()
    file = Path(shutil.copy(Path(resolve("")) / TOKENIZER_NAME, tmp_path / "model"))
    assert ModelTokens(settings, tmp_path).mark == spans.mark is not None
    file.write_text(
        file.read_text(encoding="utf-8").replace('"lowercase":true', '"lowercase":false').replace('"lowercase": true', '"lowercase": false')
    )
    assert ModelTokens(settings, tmp_path).mark != spans.mark
    file.write_text("{")
    assert ModelTokens(settings, tmp_path).mark is None


def test_a_tokenizer_that_is_not_there_is_not_looked_for_with_every_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the event loop, where small traces are cut; but it is again after some seconds."""
    looks: list[str] = []
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda model, *_, **__: looks.append(model))
    now = [0.0]
    spans = ModelTokens(EmbeddingSettings(model="someone/some-model"), tmp_path, clock=lambda: now[0])
    for _ in range(3):
        assert spans(TEXT) == word_spans(TEXT)
    assert looks == ["someone/some-model"]
    now[0] += RETRY_S
    spans(TEXT)
    assert len(looks) == 2


def test_a_tokenizer_that_cannot_be_read_is_as_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log says so, once; one that takes its place is taken."""
    (tmp_path / "model").mkdir()
    file = tmp_path / "model" / TOKENIZER_NAME
    file.write_text("{")
    now = [0.0]
    spans = ModelTokens(EmbeddingSettings(model=str(tmp_path / "model")), tmp_path, clock=lambda: now[0])
    for _ in range(3):
        assert spans(TEXT) == word_spans(TEXT)
        now[0] += RETRY_S
    assert len(caplog.messages) == 1
    assert str(file) in caplog.text
    shutil.copy(Path(resolve("")) / TOKENIZER_NAME, file)
    assert spans(TEXT) != word_spans(TEXT)


def test_tokenizers_of_one_vocabulary_share_it_and_cut_apart(tmp_path: Path) -> None:
    """Also those of two files; what is changed in the vocabulary of one shows in the other."""
    bundled = Path(resolve("")) / TOKENIZER_NAME
    one, other = read_tokenizer(bundled), read_tokenizer(Path(shutil.copy(bundled, tmp_path)))
    one.enable_truncation(4)
    assert (len(one.encode(TEXT)), len(other.encode(TEXT)) > 20) == (4, True)
    usual = one.model.max_input_chars_per_word
    one.model.max_input_chars_per_word = 5
    try:
        assert other.model.max_input_chars_per_word == 5
    finally:
        one.model.max_input_chars_per_word = usual
