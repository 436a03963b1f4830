"""The exported model: the real one, exported once for this module."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from samples import bag_of_words, exported_models, tiny_transformer

from tracebank.embedding import EmbeddingModel, Prompts, TokenEncoder, load_model, unpacked, vectors_name
from tracebank.embedding.export import export as export_here
from tracebank.embedding.export import lost_leads
from tracebank.embedding.exported import ABOUT_NAME, Export, file_name, origin_of, read_about, write_about
from tracebank.embedding.onnx import OnnxModel
from tracebank.embedding.sample_texts import SAMPLES
from tracebank.embedding.sentence import SentenceTransformerModel, identity
from tracebank.embedding.token_vectors import TOKEN_DIM
from tracebank.errors import ModelLoadError
from tracebank.settings import EmbeddingSettings

WORDS = "the deployment failed because our build server had no space left on its device and nobody had read the warning".split()
TEXTS = [" ".join(WORDS[i % len(WORDS)] for i in range(start, start + n)) for start, n in enumerate((1, 3, 8, 12, 30, 60, 100, 150))]
LEAST_COSINE = {"fp32": 0.9999, "int8": 0.985}


def no_export(model: str, revision: str, target: Path, precision: str) -> None:
    """Stands for an export that fails."""
    raise ModelLoadError(f"{target.name} cannot be made here")


def settings_of(**values: Any) -> EmbeddingSettings:
    """Return settings for this processor."""
    return EmbeddingSettings(device="cpu", **values)


def load(directory: Path, **values: Any) -> EmbeddingModel:
    """Load from a directory where no further export can be made."""
    return load_model(settings_of(**values), directory, export=no_export)


def cosines(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cosine of each pair of rows."""
    return np.sum(one * other, axis=1)


@pytest.fixture(scope="module")
def models() -> Path:
    """The directory with the export of the bundled model."""
    return exported_models()


@pytest.fixture(scope="module")
def exported(models: Path) -> Path:
    """The directory of that export itself."""
    return models / origin_of("").directory_name


@pytest.fixture(scope="module", params=["fp32", "int8"])
def onnx(request: pytest.FixtureRequest, models: Path) -> OnnxModel:
    """The exported model in each precision."""
    loaded = load(models, precision=request.param, engine="onnx")
    assert isinstance(loaded, OnnxModel)
    return loaded


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    """A copy of the export that a test may spoil; the graphs are linked, so they are replaced, never written to."""
    copy = tmp_path / "models" / exported.name
    copy.mkdir(parents=True)
    for file in exported.iterdir():
        (copy / file.name).hardlink_to(file)
    return copy


@pytest.fixture
def tiny(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A transformer of random weights with the pooling that the test asks for."""
    return tiny_transformer(tmp_path, pooling=request.param)


def test_padded_batches_give_the_vectors_of_sentence_transformers(onnx: OnnxModel, model: SentenceTransformerModel) -> None:
    """Texts of 1 to 150 words in one batch: a graph that lost its attention mask fails here."""
    agreement = cosines(onnx.encode(TEXTS), model.encode(TEXTS))

    assert agreement.mean() > LEAST_COSINE[onnx.precision]
    assert onnx.precision == "int8" or agreement.min() > LEAST_COSINE["fp32"]


def test_vectors_are_float32_of_length_1(onnx: OnnxModel) -> None:
    """Whatever the lengths of the texts."""
    vectors = onnx.encode(TEXTS)

    assert (vectors.dtype, vectors.shape) == (np.float32, (len(TEXTS), onnx.dim))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\x00", "…", "データベースの接続がタイムアウトしました。", "🦊🦊🦊", "a" * 5_000])
def test_odd_texts_have_the_vector_that_sentence_transformers_gives(text: str, models: Path, model: SentenceTransformerModel) -> None:
    """Nothing at all, characters that the tokenizer drops, other scripts, one endless word."""
    assert cosines(load(models, precision="fp32").encode([text]), model.encode([text]))[0] > LEAST_COSINE["fp32"]


def test_a_text_longer_than_the_model_sees_is_cut_at_the_same_token(models: Path, model: SentenceTransformerModel) -> None:
    """What is beyond that token changes nothing."""
    fp32, beginning = load(models, precision="fp32"), " ".join(TEXTS * 2)

    assert cosines(fp32.encode([beginning]), model.encode([beginning]))[0] > LEAST_COSINE["fp32"]
    assert cosines(fp32.encode([beginning]), fp32.encode([beginning + " and an end that nobody sees"]))[0] > LEAST_COSINE["fp32"]


def test_what_a_model_cannot_see_is_counted(models: Path, model: SentenceTransformerModel) -> None:
    """In tokens beyond its 256; the two engines agree."""
    fp32, before = load(models, precision="fp32"), model.unseen_tokens
    texts = ["short", "word " * 254, "word " * 300, "one two " * 400]
    for engine in (fp32, model):
        engine.encode(texts[:2])
    assert (fp32.unseen_tokens, model.unseen_tokens - before) == (0, 0)
    for engine in (fp32, model):
        engine.encode(texts)
    assert fp32.unseen_tokens == model.unseen_tokens - before == (300 - 254) + (800 - 254)


def test_torch_tells_the_same_of_tokens_as_the_export(models: Path, tmp_path: Path) -> None:
    """Where they stand, what they are, and what was not seen: an accelerator finds as much as a processor."""
    fp32, torch = load(models, precision="fp32"), load(tmp_path, engine="torch")
    texts = [*TEXTS, "", "データベースの接続がタイムアウトしました。", "one two " * 400]
    assert isinstance(fp32, TokenEncoder)
    assert isinstance(torch, TokenEncoder)
    (vectors, tokens), (expected, known) = torch.encode_tokens(texts), fp32.encode_tokens(texts)

    assert cosines(vectors, expected).min() > LEAST_COSINE["fp32"]
    assert torch.unseen_tokens == fp32.unseen_tokens > 0
    for own, other in zip(tokens, known, strict=True):
        np.testing.assert_array_equal(own.spans, other.spans)
        assert len(own.codes) == 0 or cosines(unpacked(own.codes), unpacked(other.codes)).mean() > 0.999
    assert torch.encode_tokens([])[1] == []


def test_a_model_on_torch_without_tokens_tells_of_none(tmp_path: Path) -> None:
    """Search leaves out the comparison word by word; nothing fails."""
    bag = load(tmp_path, engine="torch", model=str(bag_of_words(tmp_path, "stale", "lock")))
    assert not isinstance(bag, TokenEncoder)
    assert bag.encode(["stale lock"]).shape == (1, 2)


def test_shorter_vectors_keep_their_tokens(models: Path) -> None:
    """A shorter vector of the text says nothing about its words."""
    short, whole = load(models, truncate_dim=64), load(models)
    assert isinstance(short, TokenEncoder)
    assert isinstance(whole, TokenEncoder)
    (vectors, tokens), (_, known) = short.encode_tokens(TEXTS), whole.encode_tokens(TEXTS)

    np.testing.assert_array_equal(vectors, short.encode(TEXTS))
    assert [own.codes.tolist() for own in tokens] == [own.codes.tolist() for own in known]


def test_shorter_vectors_are_beginnings_of_length_1(models: Path) -> None:
    """They have a name of their own; more than there is cannot be had."""
    whole, short = load(models), load(models, truncate_dim=64)
    vectors, beginnings = short.encode(TEXTS), whole.encode(TEXTS)[:, :64]

    assert (short.dim, vectors.shape) == (64, (len(TEXTS), 64))
    np.testing.assert_allclose(vectors, beginnings / np.linalg.norm(beginnings, axis=1, keepdims=True), atol=1e-6)
    assert short.name != whole.name
    with pytest.raises(ModelLoadError, match=r"truncate_dim must be at most 384, .* not 385"):
        load(models, truncate_dim=385)


def test_the_same_batch_gives_the_same_bytes(onnx: OnnxModel) -> None:
    """No chance is involved."""
    assert onnx.encode(TEXTS).tobytes() == onnx.encode(TEXTS).tobytes()


def test_each_token_is_told_of_with_its_place(onnx: OnnxModel) -> None:
    """Beside the very vector that the text has alone; whatever else is in the batch, and without special tokens."""
    texts = ["The deployment failed at midnight.", "deploying", ""]
    vectors, (sentence, word, nothing) = onnx.encode_tokens(texts)
    assert cosines(vectors, onnx.encode(texts)) == pytest.approx(np.ones(3), abs=1e-5)
    assert [texts[0][start:end] for start, end in sentence.spans] == ["The", "deployment", "failed", "at", "midnight", "."]
    assert sentence.codes.shape == (6, TOKEN_DIM // 2)
    assert len(nothing.codes) == 0
    near = unpacked(word.codes).mean(axis=0) @ unpacked(sentence.codes).T
    assert int(near.argmax()) == 1
    assert [len(tokens.codes) for tokens in onnx.encode_tokens([])[1]] == []


def test_no_texts_give_no_vectors(onnx: OnnxModel) -> None:
    """An empty batch is not the runtime's business."""
    assert onnx.encode([]).shape == (0, onnx.dim)


def test_auto_is_int8_where_its_check_passed_and_else_fp32(models: Path, copied: Path) -> None:
    """The precisions that passed are written in the export."""
    about = read_about(copied, origin_of(""))
    assert about is not None
    assert about.cosine["int8"] > LEAST_COSINE["int8"]
    (copied / ABOUT_NAME).unlink()
    write_about(copied, origin_of(""), replace(about, cosine={"fp32": about.cosine["fp32"]}))

    assert getattr(load(models), "precision", None) == "int8"
    assert getattr(load(copied.parent), "precision", None) == "fp32"


def test_who_asks_for_full_precision_has_vectors_of_their_own_name(models: Path) -> None:
    """Everybody else shares one name, whichever precision it comes to."""
    auto, int8, fp32, torch = (
        vectors_name(settings_of(precision=precision, engine=engine))
        for precision, engine in (("auto", "auto"), ("int8", "auto"), ("fp32", "auto"), ("auto", "torch"))
    )

    assert auto == int8 == identity("") == load(models).name
    assert fp32 == torch == load(models, precision="fp32").name
    assert auto != fp32


def test_a_directory_that_is_not_there_is_told_without_importing_torch(tmp_path: Path) -> None:
    """That takes seconds, and a mistake in the settings is to be told at once."""
    code = f"""
import sys
from pathlib import Path
from tracebank.embedding import load_model
from tracebank.errors import ModelLoadError
from tracebank.settings import EmbeddingSettings
try:
    load_model(EmbeddingSettings(model={str(tmp_path / "missing")!r}), Path({str(tmp_path / "models")!r}))
except ModelLoadError as error:
    print(error, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"the embedding model {tmp_path / 'missing'} could not be loaded: there is no such directory False\n"


def test_loading_an_export_imports_neither_torch_nor_transformers(models: Path) -> None:
    """In a process of its own; it also takes the memory and the seconds that they would."""
    code = (
        "import sys; from pathlib import Path;"
        "from tracebank.embedding import load_model; from tracebank.settings import EmbeddingSettings;"
        f"model = load_model(EmbeddingSettings(engine='onnx'), Path({str(models)!r}));"
        "model.encode(['a text']);"
        "print([name for name in ('torch', 'transformers', 'sentence_transformers', 'onnx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)

    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda directory: (directory / ABOUT_NAME).write_text("{"), id="unreadable description"),
        pytest.param(lambda directory: (directory / ABOUT_NAME).write_text("[]"), id="another description"),
        pytest.param(lambda directory: (directory / file_name("int8")).write_bytes(b"no graph"), id="broken graph"),
        pytest.param(lambda directory: None, id="missing graph"),
    ],
)
def test_a_spoilt_export_is_made_again_and_where_that_fails_torch_serves(spoil: object, copied: Path) -> None:
    """Here it always fails: a person who insisted on ONNX Runtime hears of it instead."""
    assert callable(spoil)
    for name in (ABOUT_NAME, file_name("int8")):
        kept = (copied / name).read_bytes() if name == ABOUT_NAME else b""
        (copied / name).unlink()  # a link: what it links to stays
        if kept:
            (copied / name).write_bytes(kept)
    spoil(copied)

    assert isinstance(load(copied.parent), SentenceTransformerModel)
    with pytest.raises(ModelLoadError, match=r"cannot be made here .*embedding\.engine"):
        load(copied.parent, engine="onnx")


@pytest.mark.skipif(sys.platform == "win32", reason="flock is not what locks there")
def test_where_no_file_can_be_locked_no_export_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails as an export does, with the way out."""

    def flock(descriptor: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(ModelLoadError, match=r"cannot be locked: no locks.*embedding\.engine"):
        load(tmp_path / "models", engine="onnx")


def test_a_graph_that_does_what_another_did_is_not_used(copied: Path) -> None:
    """Its vector of a known text is not the one that was written down when it was checked."""
    about = read_about(copied, origin_of(""))
    assert about is not None
    (copied / ABOUT_NAME).unlink()
    write_about(copied, origin_of(""), replace(about, probe={"int8": about.probe["int8"][::-1]}))

    with pytest.raises(ModelLoadError, match="cosine"):
        OnnxModel.load(copied, replace(about, probe={"int8": about.probe["int8"][::-1]}), name="", precision="int8", prompts=Prompts())
    assert isinstance(load(copied.parent), SentenceTransformerModel)


def test_an_export_of_another_origin_is_not_used(copied: Path) -> None:
    """Such as one made by another version of torch."""
    assert read_about(copied, replace(origin_of(""), versions=("torch 0.0",))) is None


def test_what_is_no_transformer_is_refused_once_and_stays_on_torch(tmp_path: Path) -> None:
    """The refusal is kept, so that it is not found out again at every start."""
    bag = bag_of_words(tmp_path, "lock", "file", "cache")
    asked: list[Path] = []

    def export(model: str, revision: str, target: Path, precision: str) -> None:
        asked.append(target)
        export_here(model, revision, target, precision)

    for _ in range(2):
        loaded = load_model(settings_of(model=str(bag)), tmp_path / "models", export=export)
        assert isinstance(loaded, SentenceTransformerModel)
    assert [target.name for target in asked] == [origin_of(str(bag)).directory_name]
    assert sorted(file.name for file in asked[0].iterdir()) == [ABOUT_NAME]
    with pytest.raises(ModelLoadError, match="BoW"):
        load(tmp_path / "models", model=str(bag), engine="onnx")


@pytest.mark.parametrize("tiny", ["cls", "max"], indirect=True)
def test_other_poolings_are_exported_too(tiny: str, tmp_path: Path) -> None:
    """A transformer of random weights, without a Normalize module."""
    target = tmp_path / "models" / origin_of(tiny).directory_name
    target.with_name(target.name + ".partial").mkdir(parents=True)  # left by somebody who was killed
    about = export_here(tiny, "", target)

    assert about.refused == ""
    assert about.pooling in tiny
    assert [file.name for file in target.parent.iterdir()] == [target.name]
    ours, theirs = load(tmp_path / "models", model=tiny, precision="fp32"), SentenceTransformerModel.load(tiny, device="cpu")
    assert isinstance(ours, OnnxModel)
    assert cosines(ours.encode(TEXTS), theirs.encode(TEXTS)).min() > LEAST_COSINE["fp32"]


@pytest.mark.parametrize("how", ["killed", "left alone"])
def test_an_export_that_is_cut_short_leaves_nothing_to_use(how: str, tmp_path: Path) -> None:
    """Killed, or its parent gone, which it notices by its standard input."""
    target = tmp_path / origin_of("").directory_name
    partial = target.with_name(target.name + ".partial")
    with subprocess.Popen(
        [sys.executable, "-m", "tracebank.embedding.export", "", "", str(target), "fp32"],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as child:  # fmt: skip
        while not partial.exists() and child.poll() is None:
            time.sleep(0.01)
        assert child.stdin is not None
        child.kill() if how == "killed" else child.stdin.close()
        assert child.wait() != 0

    assert not target.exists()
    assert isinstance(load(tmp_path), SentenceTransformerModel)


def test_the_child_tells_the_outcome_in_one_line_and_nothing_else(tmp_path: Path) -> None:
    """A refusal here, as it is the fastest; what libraries print goes to standard error."""
    bag = bag_of_words(tmp_path, "lock")
    with subprocess.Popen(
        [sys.executable, "-m", "tracebank.embedding.export", str(bag), "", str(tmp_path / "out"), "auto"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stderr is not None
        lines, complaints = child.stdout.readlines(), child.stderr.read()

    assert ["BoW" in json.loads(line)["refused"] for line in lines] == [True]
    assert complaints == ""


def test_a_lost_lead_is_counted() -> None:
    """The neighbour of the first text changes from the second to the third."""
    before = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
    after = np.array([[1, 0], [0, 1], [0.8, 0.6]], np.float32)

    assert lost_leads(before, before, lead=0.1) == 0
    assert lost_leads(before, after, lead=0.1) > 0
    assert lost_leads(before, after, lead=0.9) == 0


def test_the_samples_have_varied_lengths() -> None:
    """A check on texts of one length would not see a lost mask."""
    lengths = [len(text) for text in SAMPLES]

    assert min(lengths) < 5
    assert max(lengths) > 2_000


def test_an_export_says_everything_that_is_needed_to_run_it(exported: Path) -> None:
    """The bundled model's pooling, dimension and limit."""
    about = read_about(exported, origin_of(""))

    assert isinstance(about, Export)
    assert (about.refused, about.pooling, about.dim, about.max_seq_length) == ("", "mean", 384, 256)
