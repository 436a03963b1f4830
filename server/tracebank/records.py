"""The values that travel through Tracebank: frozen, keyword-only, checked once where they enter.

`parse_trace` and `parse_query` are the only ways from the outside in; everything below them trusts its arguments.
Times are integers: milliseconds since the Unix epoch, UTC.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from tracebank.errors import InputError

EARLIEST_YEAR = 1900
DAY_MS = 86_400_000
# The encodings that tokens can be counted in, by tiktoken's names.
ENCODINGS = ("o200k_base", "cl100k_base")
_EPOCH, _MILLISECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SHOWN_CHARS = 80


class Outcome(StrEnum):
    """How an attempt ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    PARTIAL = "partial"
    UNKNOWN = "unknown"


Detail = Literal["concise", "full"]
# What metadata holds.
Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The sizes that a caller may send. A larger value is an `InputError` that names the limit."""

    task_chars: int = 8_000
    content_bytes: int = 1_048_576
    lessons: int = 100
    lesson_chars: int = 8_000
    tags: int = 64
    tag_chars: int = 100
    metadata_keys: int = 100
    metadata_value_chars: int = 4_000
    id_chars: int = 200
    query_chars: int = 8_000
    queries: int = 16
    prompt_bytes: int = 4 * 1_048_576
    steps: int = 200
    action_chars: int = 8_000
    observation_chars: int = 65_536
    summary_chars: int = 8_000
    episode_steps: int = 5_000
    # What is left of a trace's content when the longest summary has been put before the steps.
    episode_bytes: int = 1_048_576 - 40_000
    feedback_traces: int = 50
    note_chars: int = 2_000


# So begins the description of a lesson that holds for tasks like its own: by itself it says then what it is about.
FOR_TASK = "For: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """One distilled memory item (ReasoningBank, arXiv 2509.25140: title, description, content)."""

    title: str = ""
    description: str = ""
    content: str

    @property
    def text(self) -> str:
        """The lesson as it is indexed and read: its parts, joined."""
        return "\n".join(part for part in (self.title, self.description, self.content) if part)

    def below(self, task: str) -> str:
        """Return it as it is read below its task: without a description that says that task again."""
        again = self.description.startswith(FOR_TASK) and " ".join(task.split()).startswith(
            self.description.removeprefix(FOR_TASK).removesuffix("…").rstrip()
        )
        return replace(self, description="").text if again else self.text

    def as_json(self) -> str | dict[str, str]:
        """Return the shortest JSON form that `parse_trace` reads back unchanged."""
        if not self.title and not self.description:
            return self.content
        return {"title": self.title, "description": self.description, "content": self.content}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One thing an agent tried, and what it learned. `occurred_at_ms` None: the time it is first stored."""

    trace_id: str
    namespace: str
    task: str
    content: str = ""
    outcome: Outcome = Outcome.UNKNOWN
    lessons: tuple[Lesson, ...] = ()
    tags: tuple[str, ...] = ()
    parent_id: str | None = None
    occurred_at_ms: int | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """Everything of the trace that is searched by words."""
        return "\n".join([self.task, *(lesson.text for lesson in self.lessons), self.content])

    def as_json(self) -> dict[str, Any]:
        """Return the JSON form that `import` and `add_trace` take. Empty fields are left out."""
        row: dict[str, Any] = {
            "trace_id": self.trace_id,
            "namespace": self.namespace,
            "task": self.task,
            "content": self.content,
            "outcome": str(self.outcome),
            "lessons": [lesson.as_json() for lesson in self.lessons],
            "tags": list(self.tags),
            "parent_id": self.parent_id,
            "occurred_at": None if self.occurred_at_ms is None else format_time(self.occurred_at_ms),
            "metadata": dict(self.metadata),
        }
        return {key: value for key, value in row.items() if value not in ("", None, [], {})}


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What a memory must be like to be found. Empty: anything."""

    outcomes: tuple[Outcome, ...] = ()
    tags: tuple[str, ...] = ()
    since_ms: int | None = None
    until_ms: int | None = None
    metadata: tuple[tuple[str, Scalar], ...] = ()

    def __bool__(self) -> bool:
        return any(getattr(self, f.name) not in ((), None) for f in fields(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A checked request to `retrieve`. `namespaces` empty: all of them."""

    texts: tuple[str, ...]
    k: int
    namespaces: tuple[str, ...]
    filters: Filters
    max_tokens: int
    detail: Detail
    cursor: str | None = None


TRACE_FIELDS = frozenset(f.name for f in fields(Trace)) - {"occurred_at_ms"} | {"occurred_at"}


def parse_trace(raw: Mapping[str, Any], *, limits: Limits, namespace: str, trace_id: str) -> Trace:
    """Return the checked trace of a JSON object; `namespace` and `trace_id` serve where it has none.

    Raises: InputError.
    """
    unknown = sorted(set(raw) - TRACE_FIELDS)
    if unknown:
        raise InputError(shown(unknown[0]), f"is not a field of a trace; the fields are {', '.join(sorted(TRACE_FIELDS))}")
    if raw.get("task") is None:
        raise InputError("task", "is required: say what was attempted, or when this memory applies")
    return Trace(
        trace_id=check_id("trace_id", given(raw, "trace_id", trace_id), limits),
        namespace=check_id("namespace", given(raw, "namespace", namespace), limits),
        task=check_text("task", raw["task"], min_chars=1, max_chars=limits.task_chars),
        content=check_size("content", given(raw, "content", ""), max_bytes=limits.content_bytes),
        outcome=check_outcome("outcome", given(raw, "outcome", Outcome.UNKNOWN)),
        lessons=check_lessons(given(raw, "lessons", ()), limits),
        tags=check_tags("tags", given(raw, "tags", ()), limits),
        parent_id=None if raw.get("parent_id") is None else check_id("parent_id", raw["parent_id"], limits),
        occurred_at_ms=None if raw.get("occurred_at") is None else parse_time("occurred_at", raw["occurred_at"]),
        metadata=check_metadata(given(raw, "metadata", {}), limits),
    )


def given(raw: Mapping[str, Any], name: str, default: Any) -> Any:
    """Return raw[name], or the default where it is absent or null."""
    value = raw.get(name)
    return default if value is None else value


def check_text(name: str, value: object, *, min_chars: int = 0, max_chars: int = sys.maxsize) -> str:
    """Return `value` if it is well-formed text within the limits. Raises: InputError."""
    if not isinstance(value, str):
        raise InputError(name, f"must be a string, not {kind(value)}")
    if found := _SURROGATE.search(value):
        raise InputError(name, f"has a lone surrogate (half a character) at position {found.start()}: send valid Unicode")
    if (position := value.find("\x00")) >= 0:
        raise InputError(name, f"has a NUL character at position {position}: remove it")
    if len(value.strip()) < min_chars:
        raise InputError(name, "must not be empty")
    if len(value) > max_chars:
        raise InputError(name, f"must be at most {max_chars:,} characters, not {len(value):,}: shorten it")
    return value


def check_size(name: str, value: object, *, max_bytes: int) -> str:
    """Return `value` if it is well-formed text of at most so many bytes. Raises: InputError."""
    text = check_text(name, value)
    size = len(text.encode())
    if size > max_bytes:
        raise InputError(name, f"must be at most {max_bytes:,} bytes of UTF-8, not {size:,}: shorten it")
    return text


def check_id(name: str, value: object, limits: Limits) -> str:
    """Return a name or id: one line, no control characters. Raises: InputError."""
    text = check_text(name, value, min_chars=1, max_chars=limits.id_chars)
    if _CONTROL.search(text) or text != text.strip():
        raise InputError(name, f"must be one line without control characters or outer spaces, not {shown(text)}")
    if text == "*":
        raise InputError(name, "'*' stands for all namespaces when searching; give it a name of its own")
    return text


def check_outcome(name: str, value: object) -> Outcome:
    """Return the outcome. Raises: InputError."""
    try:
        return Outcome(value)  # type: ignore[arg-type]  # anything may come in; the next line tells
    except ValueError:
        raise InputError(name, f"must be one of {', '.join(Outcome)}, not {shown(value)}") from None


def check_tags(name: str, value: object, limits: Limits) -> tuple[str, ...]:
    """Return the tags, each once, in their order. Raises: InputError."""
    items = check_list(name, value, limits.tags)
    tags = (check_text(f"{name}[{i}]", tag, min_chars=1, max_chars=limits.tag_chars).strip() for i, tag in enumerate(items))
    return tuple(dict.fromkeys(tags))


def check_list(name: str, value: object, most: int) -> Sequence[object]:
    """Return `value` if it is a list of at most `most` items. Raises: InputError."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise InputError(name, f"must be a list, not {kind(value)}")
    if len(value) > most:
        raise InputError(name, f"must have at most {most} items, not {len(value):,}")
    return value


def one_or_more(name: str, value: object, most: int) -> Sequence[object]:
    """Return `value` as a list of at most `most` items; a string is the only one of its list. Raises: InputError."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, Sequence):
        raise InputError(name, f"must be a string or a list of strings, not {kind(value)}")
    return check_list(name, value, most)


def check_int(name: str, value: object, low: int, high: int) -> int:
    """Return `value` if it is a whole number in [low, high]; 5.0 is one in JSON. Raises: InputError."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(name, f"must be a whole number from {low:,} to {high:,}, not {shown(value)}")
    if not low <= value <= high:
        raise InputError(
            name, f"must be {low:,} to {high:,}, not {value:,}" if abs(value) < 10**_SHOWN_CHARS else f"must be {low:,} to {high:,}"
        )
    return value


def check_bool(name: str, value: object) -> bool:
    """Return `value` if it is true or false. Raises: InputError."""
    if not isinstance(value, bool):
        raise InputError(name, f"must be true or false, not {shown(value)}")
    return value


def check_fraction(name: str, value: object, *, low_open: bool = False) -> float:
    """Return `value` if it is a number in [0, 1], or (0, 1] with `low_open`. Raises: InputError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1 or (low_open and value == 0):
        raise InputError(name, f"must be a number {'above 0' if low_open else 'from 0'} up to 1, not {shown(value)}")
    return float(value)


_DATE = re.compile(r"\d{4}-?\d\d-?\d\d|\d{4}-?W\d\d-?\d")
_LEAP_SECOND = re.compile(r"(?<=[T ]\d\d:\d\d):60(?!\d)")


def parse_time(name: str, value: object, *, to_end: bool = False) -> int:
    """Return the milliseconds since 1970 of an RFC 3339 time. A date alone, or a time without a zone, is UTC.

    A date alone is the beginning of its day, or with `to_end` the last of it. Raises: InputError.
    """
    hint = f"must be an RFC 3339 time such as 2026-03-01T09:30:00Z, not {shown(value)}"
    if not isinstance(value, str):
        raise InputError(name, hint)
    try:
        # Lower case and leap seconds are RFC 3339, too.
        text, leaps = _LEAP_SECOND.subn(":59", value.upper())
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        # In UTC the last hours of the year 9999 may already be in a year that no calendar has: OverflowError.
        milliseconds = (moment.astimezone(UTC) - _EPOCH) // _MILLISECOND
    except (ValueError, OverflowError):
        raise InputError(name, hint) from None
    if leaps and milliseconds // 60_000 % 1_440 != 1_439:
        raise InputError(name, f"{hint}: only the last minute of a day has a second 60")
    if moment.year < EARLIEST_YEAR:
        raise InputError(name, f"must be in the year {EARLIEST_YEAR} or later, not {shown(value)}")
    return milliseconds + DAY_MS - 1 if to_end and _DATE.fullmatch(text) else milliseconds


def format_time(milliseconds: int) -> str:
    """Return the RFC 3339 form, in UTC; milliseconds only where there are any."""
    moment = _EPOCH + milliseconds * _MILLISECOND
    return moment.isoformat(timespec="milliseconds" if milliseconds % 1000 else "seconds").replace("+00:00", "Z")


def shown(value: object) -> str:
    """Return `value` for an error message: quoted, escaped, bounded in length; true, false and null by JSON's names."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}… ({kind(value)})"


def kind(value: object) -> str:
    """Return the JSON name of a value's type."""
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), "null" if value is None else type(value).__name__)


def check_lessons(value: object, limits: Limits) -> tuple[Lesson, ...]:
    """Return the lessons, each given as a string or an object. Raises: InputError."""
    items = check_list("lessons", value, limits.lessons)
    return tuple(_check_lesson(f"lessons[{i}]", item, limits) for i, item in enumerate(items))


def _check_lesson(name: str, item: object, limits: Limits) -> Lesson:
    if isinstance(item, str):
        return Lesson(content=check_text(name, item, min_chars=1, max_chars=limits.lesson_chars))
    if not isinstance(item, Mapping):
        raise InputError(name, f"must be a string or an object of title, description and content, not {kind(item)}")
    if unknown := set(item) - {"title", "description", "content"}:
        raise InputError(name, f"has the unknown key {shown(min(unknown, key=str))}; the keys are title, description, content")

    def part(key: str, least: int) -> str:
        return check_text(f"{name}.{key}", given(item, key, ""), min_chars=least, max_chars=limits.lesson_chars)

    return Lesson(title=part("title", 0), description=part("description", 0), content=part("content", 1))


def check_metadata(value: object, limits: Limits) -> dict[str, Scalar]:
    """Return a flat object of str, number and bool. Raises: InputError."""
    if not isinstance(value, Mapping):
        raise InputError("metadata", f"must be an object, not {kind(value)}")
    if len(value) > limits.metadata_keys:
        raise InputError("metadata", f"must have at most {limits.metadata_keys} keys, not {len(value):,}")
    return {
        check_text("a key of metadata", key, min_chars=1, max_chars=limits.id_chars): _check_scalar(key, item, limits)
        for key, item in value.items()
    }


def _check_scalar(key: str, value: object, limits: Limits) -> Scalar:
    name = f"metadata.{key[:_SHOWN_CHARS]}"
    if isinstance(value, str):
        return check_text(name, value, max_chars=limits.metadata_value_chars)
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**63):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, int):
        raise InputError(name, f"must be a whole number between -2^63 and 2^63, not {shown(value)}: give it as a string")
    raise InputError(name, f"must be a string, a finite number or a boolean, not {shown(value)}: metadata is flat")
