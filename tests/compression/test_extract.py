"""Extraction: what is kept of a text, and with what around it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from tracebank.compression import compress
from tracebank.compression.extract.choosing import Choice
from tracebank.compression.extract.outline import Outline
from tracebank.compression.extract.rendering import numbered_mark
from tracebank.compression.extract.units import MOST_FRAMES, Sort, Unit, coarsened, split_units
from tracebank.embedding import Embedded
from tracebank.embedding.sentence import SentenceTransformerModel
from tracebank.tokens import Tokenizer

TOPICS = ("harbour", "glacier", "violin", "orchard", "furnace", "library", "volcano", "railway", "monastery", "lighthouse")
DOCUMENTS = "\n".join(
    f"Document [{number}](Title: The old {topic}) The {topic} was described by many travellers. It was repaired in {1800 + number}. "
    f"Nobody knows who paid for the {topic}. Later the roof of the {topic} was painted {['red', 'green'][number % 2]}."
    for number, topic in enumerate(TOPICS, 1)
)


def _extract(text: str, tokenizer: Tokenizer, budget_tokens: int, **options: object) -> str:
    compressed = compress(text, budget_tokens=budget_tokens, tokenizer=tokenizer, strategy="extract", **options)  # type: ignore[arg-type]
    assert tokenizer.count(compressed.text) == compressed.tokens <= budget_tokens
    return compressed.text


def test_units_are_the_text_again() -> None:
    """Headings, tags, tables, turns, logs, fences and prose: nothing is lost between them."""
    text = "# A\n\nOne. Two!\n- x\n  y\n| a |\n|---|\n| 1 |\n<d>\nz\n</d>\nAnn: hi. Bo\n```py\nx\n\ny\n```\n2026-01-01 00:00 INFO a\n\n"
    units = split_units(text)
    assert "".join(text[unit.start : unit.end] for unit in units) == text
    assert {unit.sort for unit in units} == set(Sort)


def test_of_a_hundred_tags_within_each_other_the_nearest_come_along(tokenizer: Tokenizer) -> None:
    """Opened and closed; to look at all of them for each unit took a page's markup twenty seconds."""
    depth = 90
    text = "".join(f"<t{at}>\nWord{at} is said here.\n" for at in range(depth)) + "".join(f"</t{at}>\n" for at in reversed(range(depth)))
    assert max(len(unit.frames) for unit in split_units(text)) == 2 * MOST_FRAMES
    kept = _extract(text, tokenizer, tokenizer.count(text) // 2, query="Word89")
    assert "Word89" in kept
    for tag in ("<t89>", "</t89>", f"<t{90 - MOST_FRAMES}>", f"</t{90 - MOST_FRAMES}>"):
        assert tag in kept


@pytest.mark.parametrize(
    ("text", "kept", "around"),
    [
        ("# Roof\n## Paint\nRed. Blue.\n", "Blue", ("# Roof", "## Paint")),
        ("Ann: One. Two.\nBo: Three.\n", "Three", ("Bo:",)),
        ("| a | b |\n|---|---|\n| 1 | 2 |\n", "| 1", ("| a | b |\n|---|---|",)),
        ("```py\nx = 1\n\ny = 2\n```\n", "y = 2", ("```py", "```\n")),
        ("<doc>\nText one.\n</doc>\n", "Text", ("<doc>", "</doc>")),
        ("Rules:\n- one\n- two\n", "- two", ("Rules:",)),
    ],
)
def test_what_stands_around_a_unit_comes_along(text: str, kept: str, around: Sequence[str]) -> None:
    """Headings, speakers, a table's head, fences, tags, the line that introduces a list."""
    units = split_units(text)
    unit = next(unit for unit in units if unit.sort is not Sort.FRAME and text[unit.start : unit.end].startswith(kept))
    frames = "".join(text[units[frame].start : units[frame].end] for frame in unit.frames)
    assert all(part in frames for part in around)


@pytest.mark.parametrize("kept", ["y = 2", "zeta"])
def test_what_closes_a_frame_comes_along_where_units_are_joined(kept: str) -> None:
    """As in a text of very many units: a fence or a tag is never opened and left open."""
    text = "```py\nx = 1\n\ny = 2\n```\n<doc>\nzeta is here.\n</doc>\n" + "One. Two. Three. Four.\n" * 4
    units = split_units(text)
    joined = coarsened(units, len(units) // 2)
    assert len(joined) < len(units)

    def around(units: Sequence[Unit]) -> list[str]:
        unit = next(unit for unit in units if kept in text[unit.start : unit.end])
        return [text[units[frame].start : units[frame].end] for frame in unit.frames]

    assert around(joined) == around(units)
    assert len(around(units)) == 2


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Dr. Smith met J. Doe at No. 5 in the U.S. army. Then it ended.", 2),
        ("It costs 3.5 e.g. in Rome. “Really?” She said so.", 3),
        ("塘鹅潜入大海。它很快。", 2),
        ("word " * 400, 5),
    ],
)
def test_sentences_end_where_they_end(text: str, sentences: int) -> None:
    """Not after abbreviations and initials; a very long one comes in pieces."""
    assert len(split_units(text)) == sentences


def test_the_sentence_that_answers_survives_with_its_title(tokenizer: Tokenizer) -> None:
    """Found by words alone, in the middle, at an eighth of the length."""
    text = _extract(DOCUMENTS, tokenizer, tokenizer.count(DOCUMENTS) // 8, query="When was the furnace repaired?")
    assert "Title: The old furnace" in text
    assert "repaired in 1805" in text


def test_meaning_finds_what_no_word_says(tokenizer: Tokenizer, model: SentenceTransformerModel) -> None:
    """The question shares no word with the answer."""
    text = "\n\n".join([*(f"The {topic} was closed on Sundays." for topic in TOPICS), "A physician cured her illness.", "It rained."])

    def meaning(texts: Sequence[str]) -> list[Embedded]:
        return [Embedded(vector=vector) for vector in model.encode(texts)]

    assert "physician" in _extract(text, tokenizer, tokenizer.count(text) // 4, query="doctor healing the sick", meaning=meaning)


def test_instructions_and_the_request_stay(tokenizer: Tokenizer) -> None:
    """Whatever lies between them."""
    text = f"You are a careful surveyor. Never guess.\n\n{DOCUMENTS}\n\nWrite a report of what was painted green."
    short = _extract(text, tokenizer, tokenizer.count(text) // 4)
    assert short.startswith("You are a careful surveyor. Never guess.")
    assert short.endswith("Write a report of what was painted green.")


def test_without_a_question_many_documents_have_a_say(tokenizer: Tokenizer) -> None:
    """Not the first ones only: what is said again in other words has to wait."""
    assert len(re.findall("Document", _extract(DOCUMENTS, tokenizer, tokenizer.count(DOCUMENTS) // 3))) >= 5


def test_code_is_cut_between_its_blocks_only(tokenizer: Tokenizer) -> None:
    """What is left of a fence still parses, and the fence is closed."""
    code = "\n\n".join(f"def f{number}(a):\n    b = a + {number}\n\n    return b" for number in range(40))
    text = f"Look at this.\n\n```python\n{code}\n```\n\nWhat does f7 return?"
    fenced = re.search(r"```python\n(.*?)```", _extract(text, tokenizer, 400, query="What does f7 return?"), re.DOTALL)
    assert fenced
    compile(fenced[1].replace("…\n", ""), "fenced", "exec")
    assert "def f7" in fenced[1]


def test_gaps_are_what_the_marks_stand_for(tokenizer: Tokenizer) -> None:
    """Put back in place of the marks they make the text again, up to white space."""
    budget = tokenizer.count(DOCUMENTS) // 3
    compressed = compress(DOCUMENTS, budget_tokens=budget, tokenizer=tokenizer, strategy="extract", mark=numbered_mark)
    text = compressed.text
    for number, (start, end) in enumerate(compressed.gaps, 1):
        assert f"[…{number}]" in text
        text = text.replace(f"[…{number}]", compressed.cut_from[start:end])
    assert text.split() == DOCUMENTS.split()


@pytest.mark.parametrize("query", ["密码轮换", ""])
def test_no_sentence_is_kept_twice_however_short(tokenizer: Tokenizer, query: str) -> None:
    """Nor does the one that tells something leave its room to what is said fifty times."""
    text = "这是一个很长的文档。" * 50 + "重要:密码轮换周期是九十天。" + "无关内容。" * 50
    short = _extract(text, tokenizer, 200, query=query)
    assert [short.count(said) for said in ("这是一个很长的文档。", "重要:密码轮换周期是九十天。", "无关内容。")] == [1, 1, 1]


def test_a_short_sentence_is_said_again_by_somebody_else(tokenizer: Tokenizer) -> None:
    """And below another heading it is about something else."""
    text = "Ann: Yes.\n\nBo: Yes.\n\n# Roof\n\nIt leaks.\n\n# Cellar\n\nIt leaks.\n\n" + "Nothing else was said. " * 9
    short = _extract(text, tokenizer, tokenizer.count(text) - 20, query="Yes it leaks")
    for said in ("Ann: Yes.", "Bo: Yes.", "# Roof\n\nIt leaks.", "# Cellar\n\nIt leaks."):
        assert said in short


@pytest.mark.parametrize("query", ["Did the alarm ring, and did the door open?", ""])
def test_a_short_sentence_is_said_again_of_something_else(tokenizer: Tokenizer, query: str) -> None:
    """Each question keeps its answer, in the paragraph of another that was answered alike."""
    answers = "Did the alarm ring? Yes. Did the door open? Yes. Did the light go on? No. Did the guard come? No."
    text = f"{answers} " + "Nothing else was said. " * 9
    assert answers in _extract(text, tokenizer, tokenizer.count(answers) + 60, query=query)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The operator can restart the replica while a backup runs.", "The operator can't restart the replica while a backup runs."),
        ("The nightly dump is copied from staging to production.", "The nightly dump is copied to staging from production."),
        (
            f"The verified image of the billing service on both clusters has the digest {'a' * 80}.",
            f"The verified image of the billing service on both clusters has the digest {'b' * 80}.",
        ),
        ("The northern team beat the southern team at football.", "The southern team beat the northern team at football."),
    ],
    ids=["negation", "direction", "digest", "order"],
)
def test_two_sentences_that_say_the_contrary_are_kept_both(tokenizer: Tokenizer, one: str, other: str) -> None:
    """Though their words are the same, or as good as."""
    text = f"{one} {other} " + "The rest of it was never of any interest. " * 9
    short = _extract(text, tokenizer, tokenizer.count(f"{one} {other}") + 100, query=one)
    assert one in short
    assert other in short


def test_a_unit_that_was_given_up_leaves_its_place_to_another_that_says_the_same(tokenizer: Tokenizer) -> None:
    """And to what shares words with it."""
    outline = Outline.of("The kiln of the northern harbour burned for two days. " * 2, tokenizer)
    choice = Choice(outline, [1.0, 1.0], budget_tokens=1_000)
    untouched = Choice(outline, [1.0, 1.0], budget_tokens=1_000)
    choice.take(0)
    choice.drop_last()
    assert choice._gain(1, 1.0) == untouched._gain(1, 1.0)
    choice.fill()
    assert choice.order == [1]
