"""Tokens are counted and cut to a budget: with the real tables, and without them."""

from __future__ import annotations

import os
import random
import string
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiktoken

from tracebank.errors import SettingsError
from tracebank.tokens import (
    ENCODINGS,
    EstimateTokenizer,
    TiktokenTokenizer,
    Tokenizer,
    TokenizerLoader,
    load_tokenizer,
)

pytestmark = pytest.mark.timeout(30)

WAIT_S = 10.0
"""How long a test waits for what must happen at once; a test that needs it has failed."""

O200K_TABLE = "fb374d419588a4632f3f557e76b4b70aebbca790"
"""The name of the table's file in tiktoken's cache: the SHA-1 of where it is downloaded from."""

O200K_SPLIT = "|".join(
    [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
MERGES = [
    "th",
    "the",
    " the",
    "in",
    "ing",
    " a",
    "an",
    "er",
    "on",
    "re",
    "  ",
    "    ",
    "\n\n",
    "aa",
    "aaaa",
    "ab",
    "--",
]

TEXTS = {
    "empty": "",
    "english": "The agent opened the file, read the lines and wrote a lesson. It wasn't the first one.\n" * 5,
    "code": "def head(self, text: str) -> str:\n    return self._cut(text)[: self.limit_tokens]  # the reason\n" * 5,
    "json": '{"task": "open the app", "steps": [1, 22, 333, 4444], "ok": true, "id": "a3f9-00b1"}\n' * 5,
    "chinese": "智能体在执行任务时应当记录每一步的结果，并在失败后分析原因。" * 5,
    "japanese": "エージェントは各ステップの結果を記録し、原因を分析します。" * 5,
    "russian": "Агент должен записывать результат каждого шага при выполнении задачи. " * 5,
    "hindi": "एजेंट को प्रत्येक चरण का परिणाम दर्ज करना चाहिए। " * 5,
    "emoji with joiners": "👩‍👩‍👧‍👦 🤷🏽‍♀️ 🏳️‍🌈 🇩🇪 ❤️ 🧑‍🚀" * 8,
    "combining marks": "e\u0301a\u0300o\u0308" * 40,
    "rare characters": "𠀀𠀁 ᚠᚢᚦ \u0000\u0007\u200b\ufeff " * 10,
    "special tokens": "<|endoftext|> and <|endofprompt|> " * 10,
    "blanks and lines": "a   \t\t  b\r\n\r\n\r\n   \n      c" * 10,
    "a line of signs": "=" * 300 + "\n" + "-" * 80 + "\n|---|---|\n",
    "one word": "abaabb" * 300,
    "digits": "3141592653" * 60,
    "lone surrogates": "a\ud83d b\ude00 \ud83d\ude00 " * 10,
}
BUDGETS = (0, 1, 2, 3, 5, 8, 21, 55, 144, 100_000)


@pytest.fixture(scope="module")
def small_encoding() -> tiktoken.Encoding:
    """Return a real encoding that splits as o200k_base does but has few merges, so that it needs no download."""
    pieces = [bytes([value]) for value in range(256)] + [merge.encode() for merge in MERGES]
    ranks = {piece: rank for rank, piece in enumerate(pieces)}
    return tiktoken.Encoding("small", pat_str=O200K_SPLIT, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 999})


@pytest.fixture(scope="module")
def real_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Return o200k_base where its tables are on this machine; nothing is downloaded for a test."""
    chosen = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    if not chosen or not (Path(chosen) / O200K_TABLE).is_file():
        pytest.skip("the o200k_base tables are not here: set TIKTOKEN_CACHE_DIR to a folder that holds them")
    tokenizer = load_tokenizer("o200k_base", cache_dir=tmp_path_factory.mktemp("tables"), timeout_s=WAIT_S)
    assert tokenizer.name == "o200k_base"
    return tokenizer


@pytest.fixture(params=["small", "estimate", "real"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """Return each way to count in turn."""
    if request.param == "estimate":
        return EstimateTokenizer()
    if request.param == "small":
        return TiktokenTokenizer(request.getfixturevalue("small_encoding"))
    real: Tokenizer = request.getfixturevalue("real_tokenizer")
    return real


@pytest.fixture
def no_cache_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take both variables that choose tiktoken's cache out of the environment, and put them back afterwards."""
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)


class SlowTables:
    """The network's other end: it answers when the test says so, with an encoding or with a failure."""

    def __init__(self, answer: tiktoken.Encoding | Exception) -> None:
        self.asked = 0
        self.called = threading.Event()
        self.answered = threading.Event()
        self.thread = threading.current_thread()
        self._answer = answer

    def __call__(self, name: str) -> tiktoken.Encoding:
        """Wait for `answered`, then answer."""
        self.asked += 1
        self.thread = threading.current_thread()
        self.called.set()
        self.answered.wait(WAIT_S)
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    def answer(self) -> None:
        """Let the answer go, and wait until it has been taken in."""
        self.called.wait(WAIT_S)
        self.answered.set()
        self.thread.join(WAIT_S)


@pytest.fixture
def slow_tables(small_encoding: tiktoken.Encoding) -> Iterator[SlowTables]:
    """Return tables that come late; no thread outlives the test."""
    tables = SlowTables(small_encoding)
    yield tables
    tables.answered.set()
    tables.thread.join(WAIT_S) if tables.called.is_set() else None


def _loader(tmp_path: Path, get_encoding: Callable[[str], tiktoken.Encoding]) -> TokenizerLoader:
    return TokenizerLoader("o200k_base", cache_dir=tmp_path, get_encoding=get_encoding)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_a_head_is_a_prefix_within_its_budget(tokenizer: Tokenizer, text: str) -> None:
    """Counted by itself, a head never has more tokens than asked, and it is the beginning of the text."""
    for max_tokens in BUDGETS:
        head = tokenizer.head(text, max_tokens)
        assert text.startswith(head)
        assert tokenizer.count(head) <= max_tokens


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_a_tail_is_a_suffix_within_its_budget(tokenizer: Tokenizer, text: str) -> None:
    """Counted by itself, a tail never has more tokens than asked, and it is the end of the text."""
    for max_tokens in BUDGETS:
        tail = tokenizer.tail(text, max_tokens)
        assert text.endswith(tail)
        assert tokenizer.count(tail) <= max_tokens


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_a_budget_that_holds_the_whole_text_gives_the_whole_text(tokenizer: Tokenizer, text: str) -> None:
    """Nothing is cut where nothing needs to be."""
    enough = tokenizer.count(text)
    assert tokenizer.head(text, enough) == text
    assert tokenizer.tail(text, enough) == text


def test_most_of_a_budget_is_used(tokenizer: Tokenizer) -> None:
    """A head and a tail of plain prose come within a few tokens of what is allowed."""
    text = TEXTS["english"]
    for max_tokens in (10, 20, 40, 80):
        assert tokenizer.count(tokenizer.head(text, max_tokens)) >= max_tokens - 3
        assert tokenizer.count(tokenizer.tail(text, max_tokens)) >= max_tokens - 3


def test_no_character_is_cut_in_half(small_encoding: tiktoken.Encoding) -> None:
    """Where a character is several tokens, a cut between them leaves the character out."""
    tokenizer = TiktokenTokenizer(small_encoding)
    assert [tokenizer.head("日本", budget) for budget in range(7)] == ["", "", "", "日", "日", "日", "日本"]
    assert [tokenizer.tail("日本", budget) for budget in range(7)] == ["", "", "", "本", "本", "本", "日本"]


def test_a_replacement_character_of_the_text_itself_is_kept(tokenizer: Tokenizer) -> None:
    """U+FFFD is a character like any other when the text holds it."""
    text = "a\ufffdb\ufffd"
    assert tokenizer.head(text, 100) == text


@pytest.mark.parametrize("budget", [0, -1, -100])
def test_no_budget_gives_no_text(tokenizer: Tokenizer, budget: int) -> None:
    """A budget of nothing, or less, is kept too."""
    assert tokenizer.head("the agent", budget) == ""
    assert tokenizer.tail("the agent", budget) == ""


def test_special_tokens_count_as_the_text_they_are(small_encoding: tiktoken.Encoding) -> None:
    """A text that names a special token is counted, not refused."""
    assert TiktokenTokenizer(small_encoding).count("<|endoftext|>") > 1


def test_the_count_is_the_encodings_own(small_encoding: tiktoken.Encoding) -> None:
    """For every text the count is the length of what the encoding makes of it."""
    tokenizer = TiktokenTokenizer(small_encoding)
    for text in TEXTS.values():
        assert tokenizer.count(text) == len(small_encoding.encode_ordinary(text))


def test_a_tokenizer_has_a_name(small_encoding: tiktoken.Encoding) -> None:
    """The name tells which count it is."""
    assert TiktokenTokenizer(small_encoding).name == "small"
    assert EstimateTokenizer().name == "estimate"


HUGE = 2**20


@pytest.mark.parametrize("unit", ["a", "ab", " ", "\t", "\n", " \n", "7", "😀", "=", "é", "の", "x!"], ids=ascii)
def test_a_mebibyte_of_one_thing_is_counted_and_cut(tokenizer: Tokenizer, unit: str) -> None:
    """No text is too uniform: tiktoken would panic on a million blanks in a row."""
    text = unit * (HUGE // len(unit.encode()))
    assert tokenizer.count(text) > 0
    assert 0 < tokenizer.count(tokenizer.head(text, 100)) <= 100
    assert 0 < tokenizer.count(tokenizer.tail(text, 100)) <= 100


def test_a_run_of_blanks_that_must_be_cut_is_not_counted_too_low(small_encoding: tiktoken.Encoding) -> None:
    """The long run costs at least what its halves, which tiktoken can take, cost together."""
    tokenizer = TiktokenTokenizer(small_encoding)
    half = len(small_encoding.encode_ordinary(" " * 600_000))
    assert 2 * half <= tokenizer.count(" " * 1_200_000) <= 2 * half + 3


def test_a_small_head_of_a_huge_text_does_not_encode_all_of_it(
    small_encoding: tiktoken.Encoding,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The characters encoded depend on the budget, not on the length of the text."""
    encoded_chars: list[int] = []
    encode = small_encoding.encode_ordinary

    def watched(text: str) -> list[int]:
        encoded_chars.append(len(text))
        return encode(text)

    monkeypatch.setattr(small_encoding, "encode_ordinary", watched)
    tokenizer = TiktokenTokenizer(small_encoding)
    text = TEXTS["english"] * 10_000
    tokenizer.head(text, 50)
    tokenizer.tail(text, 50)
    assert sum(encoded_chars) < 10_000


def test_an_estimate_never_falls_when_the_text_grows_by_a_line() -> None:
    """More text never costs less."""
    for text in TEXTS.values():
        counts = [EstimateTokenizer().count("\n".join([text] * copies)) for copies in range(1, 6)]
        assert counts == sorted(counts)


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("", 0, 0),
        ("The agent opened the file.", 6, 8),
        ("1234567890", 4, 4),
        ("智能体在执行任务时应当记录每一步的结果。", 13, 22),
        ("😀😀😀", 3, 9),
        ("\n\n", 1, 1),
        ("    return", 2, 3),
    ],
)
def test_an_estimate_is_near_the_known_count(text: str, least: int, most: int) -> None:
    """`least` is what o200k_base makes of the text; `most` is what the estimate may add."""
    assert least <= EstimateTokenizer().count(text) <= most


def test_the_estimate_is_not_below_the_real_count(real_tokenizer: Tokenizer) -> None:
    """For ordinary texts the estimate is the higher of the two, and not by more than twice."""
    for name in ("english", "code", "json", "chinese", "japanese", "russian", "hindi"):
        real, estimate = real_tokenizer.count(TEXTS[name]), EstimateTokenizer().count(TEXTS[name])
        assert real <= estimate <= 2 * real, name


def test_the_estimate_is_not_far_below_the_real_count_where_there_are_no_words(real_tokenizer: Tokenizer) -> None:
    """Random letters, signs and pictures cost more than prose; a budget for them is missed by a quarter at most."""
    rng = random.Random(7)
    alphabets = (string.ascii_lowercase, string.ascii_uppercase, string.ascii_letters, string.punctuation, "😀🦖🫠🎉")
    texts = ["".join(rng.choices(alphabet, k=2000)) for alphabet in alphabets]
    for text in [*texts, "😀" * 1000, "e\u0301" * 500, *(sign * 1000 for sign in string.punctuation)]:
        assert EstimateTokenizer().count(text) >= 0.75 * real_tokenizer.count(text), text[:20]


def test_an_unknown_encoding_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    """The message names the value and what could be set instead."""
    with pytest.raises(SettingsError, match="o200k_base, cl100k_base, not 'o300k'"):
        load_tokenizer("o300k", cache_dir=tmp_path, timeout_s=0)


def test_every_encoding_offered_is_one_of_tiktokens() -> None:
    """No encoding is offered that could only ever be an estimate."""
    assert set(ENCODINGS) <= set(tiktoken.list_encoding_names())


@pytest.mark.usefixtures("no_cache_chosen")
def test_tables_that_never_come_leave_the_estimate(tmp_path: Path, slow_tables: SlowTables) -> None:
    """The wait is bounded although the download is not."""
    tokenizer = _loader(tmp_path, slow_tables).current(timeout_s=0.01)
    assert tokenizer.name == "estimate"
    assert slow_tables.called.wait(WAIT_S)


@pytest.mark.usefixtures("no_cache_chosen")
def test_a_wait_in_vain_is_not_repeated(tmp_path: Path, slow_tables: SlowTables) -> None:
    """After one time-out, a later call returns at once, whatever its own bound."""
    loader = _loader(tmp_path, slow_tables)
    loader.current(timeout_s=0.01)
    assert loader.current(timeout_s=10 * WAIT_S).name == "estimate"
    assert not slow_tables.answered.is_set()


@pytest.mark.usefixtures("no_cache_chosen")
def test_who_only_waits_takes_nobodys_patience(tmp_path: Path, slow_tables: SlowTables) -> None:
    """Whoever needs a tokenizer waits for the tables all the same, and no attempt is begun for one who does not."""
    loader = _loader(tmp_path, slow_tables)
    assert not loader.wait(0)
    assert slow_tables.asked == 0
    loader.start()
    assert not loader.wait(0)
    slow_tables.answered.set()
    assert loader.current(WAIT_S).name == "small"
    assert loader.wait(0)


@pytest.mark.usefixtures("no_cache_chosen")
def test_a_late_success_replaces_the_estimate(tmp_path: Path, slow_tables: SlowTables) -> None:
    """The real tokenizer is returned as soon as its tables are there."""
    loader = _loader(tmp_path, slow_tables)
    assert loader.current(timeout_s=0).name == "estimate"
    slow_tables.answer()
    assert loader.current(timeout_s=0).name == "small"
    assert loader.problem is None


@pytest.mark.usefixtures("no_cache_chosen")
@pytest.mark.parametrize("failure", [OSError("no network"), ValueError("Hash mismatch"), ImportError("no requests")])
def test_a_failed_attempt_ends_in_the_estimate_and_is_not_repeated(tmp_path: Path, failure: Exception) -> None:
    """Whatever fails, nobody waits any longer, the reason is kept, and there is one attempt."""
    tables = SlowTables(failure)
    tables.answered.set()
    loader = _loader(tmp_path, tables)
    assert [loader.current(WAIT_S).name for _ in range(3)] == ["estimate"] * 3
    assert str(failure) in (loader.problem or "")
    assert tables.asked == 1


@pytest.mark.usefixtures("no_cache_chosen")
def test_many_threads_share_one_attempt(tmp_path: Path, slow_tables: SlowTables) -> None:
    """All who wait get the same tokenizer from the same download."""
    loader = _loader(tmp_path, slow_tables)
    found: list[Tokenizer] = []
    threads = [threading.Thread(target=lambda: found.append(loader.current(WAIT_S))) for _ in range(8)]
    for thread in threads:
        thread.start()
    slow_tables.answer()
    for thread in threads:
        thread.join(WAIT_S)
    assert len(found) == 8
    assert len(set(map(id, found))) == 1
    assert slow_tables.asked == 1


@pytest.mark.usefixtures("no_cache_chosen")
def test_tables_are_kept_in_the_cache_directory(tmp_path: Path, slow_tables: SlowTables) -> None:
    """They outlive a reboot, which tiktoken's own choice, the temp directory, does not."""
    _loader(tmp_path, slow_tables).start()
    assert os.environ["TIKTOKEN_CACHE_DIR"] == str(tmp_path)


@pytest.mark.usefixtures("no_cache_chosen")
@pytest.mark.parametrize("variable", ["TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"])
def test_a_cache_chosen_by_the_user_is_respected(
    tmp_path: Path, slow_tables: SlowTables, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Either of tiktoken's variables, once set, decides."""
    monkeypatch.setenv(variable, "chosen")
    _loader(tmp_path, slow_tables).start()
    chosen = [os.environ.get(name) for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR")]
    assert [value for value in chosen if value is not None] == ["chosen"]


@pytest.mark.usefixtures("no_cache_chosen")
def test_a_corrupt_table_without_network_ends_in_the_estimate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table whose hash does not match is downloaded anew; where it cannot be, the estimate serves."""
    (tmp_path / O200K_TABLE).write_bytes(b"not a table")
    monkeypatch.setattr("tiktoken.load.read_file", _no_network)
    loader = TokenizerLoader("o200k_base", cache_dir=tmp_path)
    assert loader.current(WAIT_S).name == "estimate"
    assert "no network" in (loader.problem or "")


def test_tables_are_not_kept_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What tiktoken was built from is let go, and it counts all the same."""
    parts = {
        "name": "small",
        "pat_str": O200K_SPLIT,
        "mergeable_ranks": {bytes([value]): value for value in range(256)},
        "special_tokens": {},
    }
    monkeypatch.setattr("tiktoken_ext.openai_public.ENCODING_CONSTRUCTORS", {"o200k_base": lambda: parts})
    tokenizer = TokenizerLoader("o200k_base", cache_dir=tmp_path).current(WAIT_S)
    assert (tokenizer.name, tokenizer.count("herons")) == ("small", 6)
    assert tokenizer.head("herons fish", 3) == "her"
    assert parts["mergeable_ranks"] == {}


def _no_network(blobpath: str) -> bytes:
    raise OSError(f"no network for {blobpath}")
