"""What comes in is checked once, and every refusal names the field, the limit and the value."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from samples import LIMITS, parsed, trace

from tracebank.errors import InputError
from tracebank.records import (
    Filters,
    Lesson,
    Outcome,
    Trace,
    check_fraction,
    check_int,
    format_time,
    parse_time,
    parse_trace,
    shown,
)

MIB = 1_048_576


def refusal(raw: Mapping[str, Any]) -> str:
    """Return the error that a trace is refused with."""
    with pytest.raises(InputError) as caught:
        parse_trace(raw, limits=LIMITS, namespace="default", trace_id="given")
    error = caught.value
    assert str(error) == f"{error.field}: {error.problem}"
    return str(error)


def test_a_task_alone_is_a_trace() -> None:
    """Everything else has a default; the namespace and the id are those of the caller."""
    assert parsed() == Trace(trace_id="given", namespace="default", task="a task")


def test_null_means_absent() -> None:
    """Some clients send every optional field as null."""
    names = ("content", "outcome", "lessons", "tags", "namespace", "trace_id", "parent_id", "occurred_at", "metadata")
    assert parsed(**dict.fromkeys(names)) == parsed()


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        ({}, "task: is required: say what was attempted, or when this memory applies"),
        ({"task": None}, "task: is required: say what was attempted, or when this memory applies"),
        ({"task": ""}, "task: must not be empty"),
        ({"task": " \n\t"}, "task: must not be empty"),
        ({"task": 7}, "task: must be a string, not a number"),
        ({"task": True}, "task: must be a string, not a boolean"),
        ({"task": ["x"]}, "task: must be a string, not a list"),
        ({"task": {"x": 1}}, "task: must be a string, not an object"),
        ({"task": "x" * 8_001}, "task: must be at most 8,000 characters, not 8,001: shorten it"),
        ({"task": "a\ud83dz"}, "task: has a lone surrogate (half a character) at position 1: send valid Unicode"),
        ({"task": "ab\x00"}, "task: has a NUL character at position 2: remove it"),
        ({"content": 1}, "content: must be a string, not a number"),
        ({"content": "\udc00"}, "content: has a lone surrogate (half a character) at position 0: send valid Unicode"),
        ({"outcome": "won"}, "outcome: must be one of success, failure, partial, unknown, not 'won'"),
        ({"outcome": 1}, "outcome: must be one of success, failure, partial, unknown, not 1"),
        ({"outcome": ["success"]}, "outcome: must be one of success, failure, partial, unknown, not ['success']"),
        ({"lessons": "one"}, "lessons: must be a list, not a string"),
        ({"lessons": {"content": "x"}}, "lessons: must be a list, not an object"),
        ({"lessons": ["x"] * 101}, "lessons: must have at most 100 items, not 101"),
        ({"lessons": ["x", ""]}, "lessons[1]: must not be empty"),
        ({"lessons": ["x", 3]}, "lessons[1]: must be a string or an object of title, description and content, not a number"),
        ({"lessons": ["x" * 8_001]}, "lessons[0]: must be at most 8,000 characters, not 8,001: shorten it"),
        ({"lessons": [{"title": "x"}]}, "lessons[0].content: must not be empty"),
        ({"lessons": [{"content": "x", "title": 1}]}, "lessons[0].title: must be a string, not a number"),
        (
            {"lessons": [{"content": "x", "text": "y"}]},
            "lessons[0]: has the unknown key 'text'; the keys are title, description, content",
        ),
        ({"tags": "python"}, "tags: must be a list, not a string"),
        ({"tags": [1]}, "tags[0]: must be a string, not a number"),
        ({"tags": ["ok", " "]}, "tags[1]: must not be empty"),
        ({"tags": ["x" * 101]}, "tags[0]: must be at most 100 characters, not 101: shorten it"),
        ({"tags": [str(i) for i in range(65)]}, "tags: must have at most 64 items, not 65"),
        ({"trace_id": ""}, "trace_id: must not be empty"),
        ({"trace_id": 5}, "trace_id: must be a string, not a number"),
        ({"trace_id": "x" * 201}, "trace_id: must be at most 200 characters, not 201: shorten it"),
        ({"trace_id": "a\nb"}, "trace_id: must be one line without control characters or outer spaces, not 'a\\nb'"),
        ({"namespace": " a"}, "namespace: must be one line without control characters or outer spaces, not ' a'"),
        ({"namespace": "*"}, "namespace: '*' stands for all namespaces when searching; give it a name of its own"),
        ({"parent_id": ""}, "parent_id: must not be empty"),
        ({"metadata": []}, "metadata: must be an object, not a list"),
        ({"metadata": {"": 1}}, "a key of metadata: must not be empty"),
        ({"metadata": {"a": None}}, "metadata.a: must be a string, a finite number or a boolean, not null: metadata is flat"),
        ({"metadata": {"a": {"b": 1}}}, "metadata.a: must be a string, a finite number or a boolean, not {'b': 1}: metadata is flat"),
        ({"metadata": {"a": [1]}}, "metadata.a: must be a string, a finite number or a boolean, not [1]: metadata is flat"),
        ({"metadata": {"a": float("nan")}}, "metadata.a: must be a string, a finite number or a boolean, not nan: metadata is flat"),
        ({"metadata": {"a": float("-inf")}}, "metadata.a: must be a string, a finite number or a boolean, not -inf: metadata is flat"),
        ({"metadata": {"a": "x" * 4_001}}, "metadata.a: must be at most 4,000 characters, not 4,001: shorten it"),
        ({"metadata": {"a": "\ud800"}}, "metadata.a: has a lone surrogate (half a character) at position 0: send valid Unicode"),
        ({"metadata": {str(i): i for i in range(101)}}, "metadata: must have at most 100 keys, not 101"),
    ],
)
def test_bad_input_is_told_by_field_and_problem(raw: dict[str, Any], error: str) -> None:
    """The message says which field, what is wrong with it, and the limit and value where there are any."""
    assert refusal(raw if "task" in raw or not raw else {"task": "a task", **raw}) == error


def test_an_integer_beyond_64_bits_is_no_metadata() -> None:
    """SQLite and JSON readers elsewhere could not keep it."""
    assert parsed(metadata={"a": 2**63 - 1}).metadata == {"a": 2**63 - 1}
    problem = "metadata.a: must be a whole number between -2^63 and 2^63, not 9223372036854775808: give it as a string"
    assert refusal({"task": "a task", "metadata": {"a": 2**63}}) == problem


def test_an_unknown_field_is_refused_with_the_fields_there_are() -> None:
    """A misspelt field must not be lost in silence."""
    assert refusal({"task": "a task", "lesson": "x"}) == (
        "'lesson': is not a field of a trace; the fields are "
        "content, lessons, metadata, namespace, occurred_at, outcome, parent_id, tags, task, trace_id"
    )


@pytest.mark.parametrize(("char", "size"), [("x", 1), ("é", 2), ("深", 3), ("🧠", 4)])
def test_the_limit_of_the_content_counts_bytes_not_characters(char: str, size: int) -> None:
    """1 MiB of UTF-8 is the last length that is taken, whatever the script."""
    fits = char * (MIB // size) + "x" * (MIB % size)
    assert parsed(content=fits).content == fits
    if size == 1:
        assert (
            refusal({"task": "t", "content": fits + "x"}) == "content: must be at most 1,048,576 bytes of UTF-8, not 1,048,577: shorten it"
        )
    else:
        assert (
            refusal({"task": "t", "content": fits + "x"}) == "content: must be at most 1,048,576 bytes of UTF-8, not 1,048,577: shorten it"
        )


def test_limits_themselves_are_allowed() -> None:
    """The largest value of every field goes in."""
    whole = parsed(
        task="x" * 8_000,
        lessons=[{"title": "x" * 8_000, "description": "x" * 8_000, "content": "x" * 8_000}] * 100,
        tags=[f"{i:0100}" for i in range(64)],
        trace_id="x" * 200,
        namespace="x" * 200,
        metadata={f"{i:0200}": "x" * 4_000 for i in range(100)},
    )
    assert (len(whole.lessons), len(whole.tags), len(whole.metadata)) == (100, 64, 100)


def test_tags_are_trimmed_and_kept_once() -> None:
    """In the order of their first occurrence."""
    assert parsed(tags=["b", " a ", "b", "a"]).tags == ("b", "a")


def test_a_long_wrong_value_is_shown_in_part() -> None:
    """An error stays readable, whatever came in."""
    assert shown("x" * 10_000) == "'" + "x" * 79 + "… (a string)"
    assert len(refusal({"task": "t", "outcome": "y" * 100_000})) < 200


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2026-03-01T09:30:00Z", "2026-03-01T09:30:00Z"),
        ("2026-03-01T09:30:00+02:00", "2026-03-01T07:30:00Z"),
        ("2026-03-01T09:30:00", "2026-03-01T09:30:00Z"),
        ("2026-03-01 09:30:00Z", "2026-03-01T09:30:00Z"),
        ("2026-03-01", "2026-03-01T00:00:00Z"),
        ("2026-03-01t09:30:00z", "2026-03-01T09:30:00Z"),
        ("2016-12-31T23:59:60Z", "2016-12-31T23:59:59Z"),
        ("2016-12-31T15:59:60.5-08:00", "2016-12-31T23:59:59.500Z"),
        ("2026-03-01T09:30:00.250Z", "2026-03-01T09:30:00.250Z"),
        ("2026-03-01T09:30:00.123456Z", "2026-03-01T09:30:00.123Z"),
        ("1900-01-01T00:00:00Z", "1900-01-01T00:00:00Z"),
        ("1969-12-31T23:59:59.999Z", "1969-12-31T23:59:59.999Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999Z"),
    ],
)
def test_times_are_read_as_utc_milliseconds(written: str, read: str) -> None:
    """A date alone, or a time without a zone, is UTC; what is finer than a millisecond is cut off."""
    assert format_time(parse_time("occurred_at", written)) == read


@pytest.mark.parametrize(
    "written",
    [
        "yesterday",
        "",
        "2026-13-01",
        "2026-03-01T25:00",
        "2026-03-01T09:60:00Z",
        "2026-03-01T09:30:60Z",
        "2026-03-01T23:59:60+05:30",
        "9999-12-31T23:59:59-05:00",
        1_790_000_000,
        None,
    ],
)
def test_what_is_no_time_is_refused_with_an_example(written: object) -> None:
    """That includes a time whose UTC form would lie in the year 10000, which nothing could print again."""
    with pytest.raises(InputError, match=r"^occurred_at: must be an RFC 3339 time such as 2026-03-01T09:30:00Z, not "):
        parse_time("occurred_at", written)


def test_a_time_before_1900_is_refused() -> None:
    """It is a mistake, not a memory."""
    assert refusal({"task": "t", "occurred_at": "0026-03-01"}) == "occurred_at: must be in the year 1900 or later, not '0026-03-01'"


def test_every_millisecond_of_the_calendar_survives_being_written() -> None:
    """Times are whole numbers all the way: no rounding, however far away."""
    rng = random.Random(7)
    first, last = parse_time("t", "1900-01-01"), parse_time("t", "9999-12-31T23:59:59.999Z")
    for moment in [first, last, *(rng.randint(first, last) for _ in range(2_000))]:
        assert parse_time("t", format_time(moment)) == moment


def _random_trace(rng: random.Random) -> dict[str, Any]:
    def text(least: int = 0) -> str:
        return "".join(rng.choices("ab \n\té深🧠\u2028", k=rng.randint(least, 12)))

    def lesson() -> str | dict[str, str]:
        return rng.choice(["y" + text(), {"title": text(), "description": text(), "content": "x" + text()}])

    return {
        "task": "x" + text(),
        "content": text(),
        "outcome": rng.choice(list(Outcome)),
        "lessons": [lesson() for _ in range(rng.randint(0, 3))],
        "tags": ["z" + text(1) for _ in range(rng.randint(0, 3))],
        "namespace": rng.choice([None, "深", "a b"]),
        "parent_id": rng.choice([None, "p"]),
        "occurred_at": rng.choice([None, "2026-03-01T09:30:00.250Z", "1931-01-01"]),
        "metadata": {"s": text(), "i": rng.randint(-9, 9), "f": rng.random(), "b": rng.choice([True, False])},
    }


@pytest.mark.parametrize("seed", range(50))
def test_the_json_form_is_read_back_unchanged(seed: int) -> None:
    """Import of an export gives the same trace, through real JSON."""
    before = parsed(**_random_trace(random.Random(seed)))
    after = parse_trace(json.loads(json.dumps(before.as_json())), limits=LIMITS, namespace="other", trace_id="other")
    assert after == before
    assert after.as_json() == before.as_json()


def test_empty_fields_are_left_out_of_the_json_form() -> None:
    """An export holds what there is, no more."""
    assert Trace(trace_id="t", namespace="n", task="x").as_json() == {
        "trace_id": "t", "namespace": "n", "task": "x", "outcome": "unknown",
    }  # fmt: skip


def test_a_lesson_with_a_content_alone_is_a_string() -> None:
    """The shortest form that is read back as the same lesson."""
    assert Lesson(content="x").as_json() == "x"
    assert Lesson(title="t", content="x").as_json() == {"title": "t", "description": "", "content": "x"}
    assert Lesson(title="t", content="x").text == "t\nx"


def test_below_its_task_a_lesson_does_not_say_that_task_again() -> None:
    """An agent pays for each word of a page; what else a description says stays."""
    lesson = Lesson(title="What push needs first", description="For: Ship the release of…", content="Log in.")
    assert lesson.below("Ship the  release of Friday") == "What push needs first\nLog in."
    assert lesson.below("Another task") == lesson.text
    assert replace(lesson, description="Ship the release").below("Ship the release") == "What push needs first\nShip the release\nLog in."


def test_the_searched_text_is_task_lessons_and_content() -> None:
    """In that order."""
    assert trace(task="T", lessons=(Lesson(content="L"),), content="C").text == "T\nL\nC"


def test_filters_are_true_when_there_is_one() -> None:
    """A bound of 0 is a filter, too."""
    assert not Filters()
    assert Filters(since_ms=0)
    assert Filters(tags=("a",))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (0, "must be 1 to 50, not 0"),
        (51, "must be 1 to 50, not 51"),
        (10**20, "must be 1 to 50, not 100,000,000,000,000,000,000"),
        (10**400, "must be 1 to 50"),
        (True, "must be a whole number from 1 to 50, not true"),
        (2.5, "must be a whole number from 1 to 50, not 2.5"),
        (51.0, "must be 1 to 50, not 51"),
        (float("inf"), "must be a whole number from 1 to 50, not inf"),
        ("3", "must be a whole number from 1 to 50, not '3'"),
        (None, "must be a whole number from 1 to 50, not null"),
    ],
)
def test_a_number_out_of_bounds_is_told_with_the_bounds(value: object, problem: str) -> None:
    """Even where the number itself is too long to print."""
    with pytest.raises(InputError) as caught:
        check_int("k", value, 1, 50)
    assert str(caught.value) == f"k: {problem}"


def test_a_whole_number_may_be_written_with_a_point() -> None:
    """JSON does not tell 5.0 from 5."""
    assert repr(check_int("k", 5.0, 1, 50)) == "5"


@pytest.mark.parametrize("written", ["2026-02-01", "20260201", "2026-W05-7"])
def test_a_date_alone_is_the_beginning_of_its_day_or_the_end(written: str) -> None:
    """A time is that time in both cases."""
    assert parse_time("t", written) == parse_time("t", "2026-02-01T00:00:00Z")
    assert parse_time("t", written, to_end=True) == parse_time("t", "2026-02-01T23:59:59.999Z")
    assert parse_time("t", f"{written}T00:00", to_end=True) == parse_time("t", written)


def test_a_fraction_lies_between_0_and_1() -> None:
    """0 itself where that makes sense."""
    assert check_fraction("head_ratio", 0) == 0.0
    assert check_fraction("ratio", 1, low_open=True) == 1.0
    for value, low_open, problem in [
        (0, True, "ratio: must be a number above 0 up to 1, not 0"),
        (1.5, False, "ratio: must be a number from 0 up to 1, not 1.5"),
        (float("nan"), False, "ratio: must be a number from 0 up to 1, not nan"),
        (True, False, "ratio: must be a number from 0 up to 1, not true"),
    ]:
        with pytest.raises(InputError) as caught:
            check_fraction("ratio", value, low_open=low_open)
        assert str(caught.value) == problem
