"""Lessons in a model's words: asked for by a schema, and checked against what the model had read.

What a model says is checked: a lesson with a name, a path or a number that is not in its source is dropped, because a
memory that was made up is worse than none; and so is one that nobody could store, because an export must come in again.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tracebank.errors import InputError
from tracebank.learning.reflection import MAX_LESSONS
from tracebank.records import Lesson, Limits, check_lessons

log = logging.getLogger(__name__)

_TEXT = {"type": "string", "minLength": 1}
LESSONS: dict[str, Any] = {
    "type": "array",
    "maxItems": MAX_LESSONS,
    "items": {
        "type": "object",
        "additionalProperties": False,
        "required": ["title", "description", "content"],
        "properties": {"title": _TEXT, "description": _TEXT, "content": _TEXT},
    },
}
# What only somebody who was there can know: numbers, paths, identifiers, and names inside a sentence.
_NUMBER = r"\d+(?:[.,:]\d+)*"
_PATH = r"(?<![\w.~-])[\w.~-]*[/\\][\w./\\~-]+"
_IDENTIFIER = r"\b\w+(?:[_.]\w+)+|\b[a-z]+[A-Z]\w*|\b[A-Z][^\Wa-z]*[a-z][^\WA-Z]*[A-Z]\w*"
_NAME = r"(?<=[a-z,;] )[A-Z]\w+"
_PARTICULAR = re.compile(f"{_PATH}|{_IDENTIFIER}|{_NAME}|{_NUMBER}")


def lessons_in(items: Sequence[Mapping[str, str]], source: str, limits: Limits) -> tuple[Lesson, ...]:
    """Return the lessons of an answer that an agent could give, too, and that hold nothing which the source does not.

    The source can be long: not on the event loop.
    """
    return tuple(lesson for lesson in _within(items, limits) if not made_up(lesson.text, source))


def _within(items: Sequence[Mapping[str, str]], limits: Limits) -> Iterator[Lesson]:
    for item in items:
        try:
            yield from check_lessons([item], limits)
        except InputError as error:
            log.info("a lesson of the language model is dropped: %s", error)


def made_up(text: str, source: str) -> list[str]:
    """Return the names, paths and numbers of a text that its source does not have, whatever their case."""
    known = source.casefold()
    found = (particular.strip(".,:;/\\") for particular in _PARTICULAR.findall(text))
    return [p for p in found if p and not _has(known, p.casefold())]


def _has(known: str, particular: str) -> bool:
    """Return whether it is there whole, not as a part of another: 13 is not in 0.13.2."""
    # Most are there or are not, and to look for a string costs a tenth of a pattern that begins with what stands before it.
    escaped = re.escape(particular)
    return particular in known and re.search(rf"{escaped}(?<![\w.]{escaped})(?!\w|\.\d)", known) is not None
