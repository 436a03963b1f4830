"""Tokens are counted as tiktoken counts them, and texts are cut to a budget of them."""

from __future__ import annotations

import hashlib
import random
import shutil
import string
from base64 import b64encode
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken_ext import openai_public

from tracebank.errors import InstallationError
from tracebank.tokens import ENCODINGS, Tokenizer, Vocabulary, load_tokenizer, splitting, vocabulary, vocabulary_making
from tracebank.tokens.splitting import Splitter
from tracebank.tokens.tokenizer import MOST_PIECE_CHARS

pytestmark = pytest.mark.timeout(60)

O200K_SPLIT = vocabulary.PATTERNS["o200k_base"]
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


@cache
def small_ranks() -> dict[bytes, int]:
    """Return the ranks of few tokens."""
    pieces = [bytes([value]) for value in range(256)] + [merge.encode() for merge in MERGES]
    return {piece: rank for rank, piece in enumerate(pieces)}


@cache
def small() -> Tokenizer:
    """Return an encoding that splits as o200k_base does but has few merges."""
    return Tokenizer(Vocabulary.of("small", O200K_SPLIT, small_ranks()))


@cache
def real(encoding: str) -> tiktoken.Encoding:
    """Return tiktoken's own, made of the vocabulary that comes along: nothing is downloaded."""
    shipped = Vocabulary.shipped(encoding)
    return tiktoken.Encoding(
        encoding, pat_str=shipped.pattern, mergeable_ranks=ranks_of(shipped), special_tokens={"<|endoftext|>": 999_999}
    )


def ranks_of(vocabulary: Vocabulary) -> dict[bytes, int]:
    """Return all tokens with their ranks."""
    return {token: vocabulary.ranks[found] for token in vocabulary.tokens for found in [vocabulary.tokens[token]]}


@pytest.fixture(params=["small", *ENCODINGS])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """Return each encoding in turn."""
    return small() if request.param == "small" else load_tokenizer(request.param)


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


def test_no_character_is_cut_in_half() -> None:
    """Where a character is several tokens, a cut between them leaves the character out."""
    assert [small().head("日本", budget) for budget in range(7)] == ["", "", "", "日", "日", "日", "日本"]
    assert [small().tail("日本", budget) for budget in range(7)] == ["", "", "", "本", "本", "本", "日本"]


def test_a_replacement_character_of_the_text_itself_is_kept(tokenizer: Tokenizer) -> None:
    """U+FFFD is a character like any other when the text holds it."""
    text = "a\ufffdb\ufffd"
    assert tokenizer.head(text, 100) == text


@pytest.mark.parametrize("budget", [0, -1, -100])
def test_no_budget_gives_no_text(tokenizer: Tokenizer, budget: int) -> None:
    """A budget of nothing, or less, is kept too."""
    assert tokenizer.head("the agent", budget) == ""
    assert tokenizer.tail("the agent", budget) == ""


def test_a_tokenizer_has_a_name() -> None:
    """The name tells whose count it is."""
    assert [load_tokenizer(encoding).name for encoding in ENCODINGS] == list(ENCODINGS)


# -- as tiktoken ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_vocabulary_that_comes_along_is_tiktokens(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last token: written as tiktoken's file it has the digest that tiktoken checks its download against."""
    told: dict[str, str] = {}

    def load(_: str, expected_hash: str) -> dict[bytes, int]:
        told["digest"] = expected_hash
        return {}

    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", load)
    parts: dict[str, Any] = openai_public.ENCODING_CONSTRUCTORS[encoding]()
    shipped = Vocabulary.shipped(encoding)
    by_rank = sorted((rank, token) for token, rank in ranks_of(shipped).items())
    file = b"".join(b"%b %d\n" % (b64encode(token), rank) for rank, token in by_rank)
    assert hashlib.sha256(file).hexdigest() == told["digest"]
    assert shipped.pattern == parts["pat_str"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_text_has_as_many_tokens_as_tiktoken_says(encoding: str) -> None:
    """Of all kinds, and of one kind behind another."""
    tokenizer, theirs = load_tokenizer(encoding), real(encoding)
    for text in [*TEXTS.values(), "".join(TEXTS.values()), "\n".join(TEXTS.values())]:
        assert tokenizer.count(text) == len(theirs.encode_ordinary(text)), text[:40]


def characters() -> Iterator[str]:
    """Yield every character that is assigned or may be, but the private ones."""
    for first, last in ((0, 0xD7FF), (0xF900, 0x3FFFF), (0xE0000, 0xE0FFF)):
        yield from map(chr, range(first, last + 1))


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_character_is_split_off_as_tiktoken_does(encoding: str) -> None:
    """Beside letters, digits, blanks, line ends, signs, and itself."""
    tokenizer, theirs = load_tokenizer(encoding), real(encoding)
    texts = (f"a{c}b {c}{c} x{c}1{c}2 {c}A'{c} \n{c}s'{c}S" for c in characters())
    # Many at a time, which is faster; one line does not change another's count.
    while lines := list(islice(texts, 400)):
        if tokenizer.count("\n".join(lines)) != len(theirs.encode_ordinary("\n".join(lines))):
            assert [line for line in lines if tokenizer.count(line) != len(theirs.encode_ordinary(line))] == []
            raise AssertionError(f"together they have other tokens: {lines[0]!r} to {lines[-1]!r}")


PARTS = [
    "a", "ab", "the", " ", "  ", "\n", "\r\n", "\t", "A", "Z", "é", "ß", "ſ", "\u212a", "中", "文", "。", "1", "22", "\u0301", "'", "'s",
    "'LL", "'ſ", "-", "--", "/", "\u2028", "\x1c", "\x85", "\xa0", "\u3000", "😀", "\u200d", "ǅ", "ʰ", "ª", "Ⅷ", "٣", "_",
    "<|endoftext|>", "\ud800", "\udc00", "=", ".",
]  # fmt: skip


@given(text=st.lists(st.sampled_from(PARTS), max_size=40).map("".join))
@settings(max_examples=1_000, deadline=None)
def test_whatever_stands_side_by_side_has_tiktokens_count(text: str) -> None:
    """What decides where pieces end, in any order."""
    for encoding in ENCODINGS:
        assert load_tokenizer(encoding).count(text) == len(real(encoding).encode_ordinary(text))


@given(text=st.text(alphabet="thein graob-A\n", max_size=200))
@settings(max_examples=500, deadline=None)
def test_merges_are_made_in_their_order(text: str) -> None:
    """The lowest rank first, the first of equals first, however they overlap."""
    encoding = tiktoken.Encoding("small", pat_str=r"[\s\S]+", mergeable_ranks=small_ranks(), special_tokens={})
    assert Tokenizer(Vocabulary.of("small", r"[\s\S]+", small_ranks())).count(text) == len(encoding.encode_ordinary(text))


def test_special_tokens_count_as_the_text_they_are() -> None:
    """A text that names a special token is counted, not refused."""
    assert small().count("<|endoftext|>") > 1


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_text_of_many_stretches_is_split_as_a_whole_would_be(encoding: str) -> None:
    """However long, and wherever other characters stand in it."""
    rng = random.Random(7)
    words = ["word", " and", " it's", "\n", "\n\n", "  ", " naïve", " 中文", ".", " /x", "\n/y", " 12", "\n3", "!\n", "😀"]
    text = "".join(rng.choices(words, k=60_000))
    pieces = list(Splitter(real(encoding)._pat_str).pieces(text))
    assert "".join(piece for stretch in pieces for piece in stretch) == text
    assert len(pieces) > 1
    assert load_tokenizer(encoding).count(text) == len(real(encoding).encode_ordinary(text))


# -- long ones ------------------------------------------------------------------------------------------------------

HUGE = 2**20


@pytest.mark.parametrize("unit", ["a", "ab", " ", "\t", "\n", " \n", "7", "😀", "=", "é", "の", "x!"], ids=ascii)
def test_a_mebibyte_of_one_thing_is_counted_and_cut(tokenizer: Tokenizer, unit: str) -> None:
    """No text is too uniform."""
    text = unit * (HUGE // len(unit.encode()))
    assert tokenizer.count(text) > 0
    assert 0 < tokenizer.count(tokenizer.head(text, 100)) <= 100
    assert 0 < tokenizer.count(tokenizer.tail(text, 100)) <= 100


def repeated(unit: str, chars: int) -> str:
    """Return so many characters of one unit behind another."""
    return (unit * (chars // len(unit) + 1))[:chars]


LETTERS = "".join(random.Random(11).choices(string.ascii_lowercase, k=5 * MOST_PIECE_CHARS))
CUT_LOW = "q" * (MOST_PIECE_CHARS - 15) + "abrbrebrrabrrrraaaeaabbe"
"""A text of which a cut takes more than one join."""


@pytest.mark.parametrize("unit", ["a", " ", "の", "ACGT", "=", LETTERS, CUT_LOW], ids=["a", " ", "no", "ACGT", "=", "letters", "low"])
@pytest.mark.parametrize("chars", [MOST_PIECE_CHARS - 3, MOST_PIECE_CHARS, MOST_PIECE_CHARS + 1, MOST_PIECE_CHARS * 7 // 3])
def test_a_piece_that_must_be_cut_is_not_counted_too_low(unit: str, chars: int) -> None:
    """Nor by much more than what is lost at its cuts; one that need not be is counted exactly."""
    text = repeated(unit, chars)
    theirs, cuts = len(real("o200k_base").encode_ordinary(text)), (chars - 1) // MOST_PIECE_CHARS
    assert theirs <= load_tokenizer("o200k_base").count(text) <= theirs + 5 * cuts


@pytest.mark.parametrize("unit", [" ", "=", "a", "の", LETTERS], ids=["blank", "=", "a", "no", "letters"])
@pytest.mark.parametrize("budget", [100, 3_000])
def test_the_budget_is_used_where_a_piece_is_long(unit: str, budget: int) -> None:
    """From either end, also where it has to be cut."""
    text, tokenizer = repeated(unit, HUGE), load_tokenizer("o200k_base")
    for part in (tokenizer.head(text, budget), tokenizer.tail(text, budget)):
        assert 0.95 * budget <= tokenizer.count(part) <= budget


def test_a_small_head_of_a_huge_text_does_not_split_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The characters split depend on the budget, not on the length of the text."""
    chars: list[int] = []
    pieces = Splitter.pieces

    def watched(self: Splitter, text: str) -> Iterable[list[str]]:
        chars.append(len(text))
        return pieces(self, text)

    monkeypatch.setattr(Splitter, "pieces", watched)
    text = TEXTS["english"] * 10_000
    small().head(text, 50)
    small().tail(text, 50)
    assert 0 < sum(chars) < 10_000


def test_a_long_text_is_split_in_bounded_stretches() -> None:
    """The interpreter is held no longer than one takes."""
    for text in (TEXTS["english"] * 10_000, TEXTS["english"] * 10_000 + "é", TEXTS["emoji with joiners"] * 100 + TEXTS["english"] * 1_000):
        stretches = [sum(map(len, pieces)) for pieces in Splitter(O200K_SPLIT).pieces(text)]
        assert max(stretches) < splitting.BLOCK_CHARS + 1_000


def test_words_that_are_known_take_a_bounded_room() -> None:
    """Counting millions of words leaves some thousands behind, and is right all the same."""
    tokenizer = Tokenizer(Vocabulary.of("small", O200K_SPLIT, small_ranks()))
    words = [f"w{number}x" for number in range(40_000)]
    assert tokenizer.count(" ".join(words)) == tokenizer.count(" ".join(words[:20_000])) + tokenizer.count(" " + " ".join(words[20_000:]))
    assert len(tokenizer._known) + len(tokenizer._known._older) <= 2 * 16_384


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("The agent opened the file.", 6),
        ("1234567890", 4),
        ("\n\n", 1),
        ("    return", 2),
    ],
)
def test_counts_that_are_known(text: str, tokens: int) -> None:
    """Of o200k_base, as its users know them."""
    assert load_tokenizer("o200k_base").count(text) == tokens


def test_every_encoding_offered_is_one_of_tiktokens() -> None:
    """By a name that users know."""
    assert set(ENCODINGS) <= set(tiktoken.list_encoding_names())


@pytest.mark.parametrize("file", range(2))
@pytest.mark.parametrize("content", [None, b"", b"12345"], ids=["missing", "empty", "short"])
def test_a_damaged_installation_is_told(file: int, content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its file, with what to do; an encoding that does not come along, too."""
    shipped = vocabulary.DIRECTORY
    monkeypatch.setattr(vocabulary, "DIRECTORY", tmp_path)
    for path in shipped.glob("cl100k_base.*"):
        shutil.copyfile(path, tmp_path / path.name)
    assert Vocabulary.shipped("cl100k_base").rank(b" the") == 279
    damaged = vocabulary.files_of("cl100k_base")[file]
    damaged.unlink()
    if content is not None:
        damaged.write_bytes(content)
    with pytest.raises(InstallationError, match=r"cl100k_base\.\* .*install tracebank again"):
        Vocabulary.shipped("cl100k_base")
    with pytest.raises(InstallationError, match="o200k_base"):
        Vocabulary.shipped("o200k_base")


def test_the_vocabularies_are_made_as_they_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte for byte, from what tiktoken has."""
    shipped = {encoding: Vocabulary.shipped(encoding) for encoding in ENCODINGS}
    expected = {path.name: path.read_bytes() for encoding in ENCODINGS for path in vocabulary.files_of(encoding)}
    parts = {
        name: lambda one=one: {"pat_str": one.pattern, "mergeable_ranks": ranks_of(one)}  # type: ignore[misc]
        for name, one in shipped.items()
    }
    monkeypatch.setattr(vocabulary_making, "ENCODING_CONSTRUCTORS", parts)
    monkeypatch.setattr(vocabulary, "DIRECTORY", tmp_path)
    vocabulary_making.main()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == expected


def test_an_encoding_that_cannot_be_cut_at_borders_is_refused() -> None:
    """One whose pieces depend on what stands behind the end of a line."""
    assert vocabulary_making.bears_cutting(O200K_SPLIT)
    assert not vocabulary_making.bears_cutting(r" ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
