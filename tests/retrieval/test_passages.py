"""Cutting what was found into lines and sentences."""

from __future__ import annotations

import random

import pytest

from tracebank.retrieval.passages import GLIMPSE_CHARS, LONG_CHARS, pieces, pieces_of

PARAGRAPH = " ".join(f"In step {i} the agent looked at file {i}.py and found what it was looking for." for i in range(60))


def shown(text: str, inside: str) -> list[str]:
    """Return the pieces of a chunk, as text."""
    start = text.index(inside)
    return [text[slice(*piece)] for piece in pieces_of(text, start, start + len(inside))]


@pytest.mark.parametrize(
    ("text", "inside", "expected"),
    [
        ("first line\nsecond line\nthird line", "second line", ["second line"]),
        ("first line\nsecond line\nthird line", "ne\nsecond line\nth", ["second line"]),
        ("first line\n\nsecond line\nthird line", "first line\n\nsecond li", ["first line", "second line"]),
        ("One here. Two there. Three.", "One here. Two there.", ["One here. Two there. Three."]),
        ("x" * 2_000, "x" * 500, ["x" * 500]),
        ("no border", "no border", ["no border"]),
    ],
)
def test_a_chunk_becomes_the_lines_that_it_holds_at_least_half_of(text: str, inside: str, expected: list[str]) -> None:
    """Whole ones; what has no border at all is cut where the chunk ends."""
    assert shown(text, inside) == expected


def test_a_long_line_becomes_its_sentences() -> None:
    """A paragraph is too much to be shown for one of its sentences."""
    found = shown(PARAGRAPH, PARAGRAPH[1_000:1_500])
    assert 4 <= len(found) <= 8
    assert all(piece.startswith("In step ") and piece.endswith("looking for.") for piece in found)


def test_scripts_without_spaces_have_sentences_too() -> None:
    """Their full stop needs no space behind it."""
    text = "".join(f"第{i}句在这里说明了一些事情。" for i in range(100))
    assert all(piece.startswith("第") and piece.endswith("。") for piece in shown(text, text[700:900]))


def test_a_piece_is_worth_as_much_as_the_best_chunk_that_holds_it() -> None:
    """Best first, and of equals in reading order; a piece of two chunks is there once."""
    text = "aaaa\nbbbb\ncccc\ndddd"
    found = pieces(text, [(0.5, 0, 14), (0.9, 10, 19)])
    assert [(score, text[start:end]) for score, start, end in found] == [(0.9, "cccc"), (0.9, "dddd"), (0.5, "aaaa"), (0.5, "bbbb")]
    assert pieces("", []) == []


@pytest.mark.parametrize("seed", range(10))
def test_pieces_are_in_order_and_apart_and_hold_what_the_chunk_holds(seed: int) -> None:
    """Nothing twice; of whole lines inside the chunk nothing is lost."""
    rng = random.Random(seed)
    text = "".join(rng.choices(["word ", "word ", "end. ", "line\n", "。", "x" * 700], k=150))
    for _ in range(30):
        start = rng.randrange(len(text))
        end = min(len(text), start + rng.randint(1, 600))
        found = pieces_of(text, start, end)
        flat = [border for piece in found for border in piece]
        assert flat == sorted(flat)
        assert all(piece[1] > piece[0] for piece in found)
        lines = [line for line in text[start:end].split("\n")[1:-1] if line and len(line) <= LONG_CHARS]
        assert all(any(line in text[slice(*piece)] for piece in found) for line in lines)


def test_of_a_run_without_blanks_the_beginning_is_shown_and_what_stands_around_it() -> None:
    """It fills a chunk with thousands of characters that say nothing."""
    dump = "3fa9" * 800
    text = f"POST /upload data={dump} answered quota exceeded"
    first = f"POST /upload data={dump}"[: len("POST /upload ") + GLIMPSE_CHARS]
    assert [text[slice(*piece)].strip() for piece in pieces_of(text, 0, len(text))] == [first, "answered quota exceeded"]
    assert pieces_of(dump, 0, LONG_CHARS - 1) == [(0, LONG_CHARS - 1)]
    assert pieces_of(dump, 100, 100 + LONG_CHARS) == [(100, 100 + GLIMPSE_CHARS)]
    words = "word " * 600
    assert pieces_of(words, 0, len(words)) == [(0, len(words.rstrip()))]
