"""Lessons in a model's words: asked for by a schema, and checked against what the model had read.

What a model says is checked: a lesson with a name, a path or a number that is not in its source is dropped, because a
memory that was made up is worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tracebank.learning.reflection import MAX_LESSONS
from tracebank.records import Lesson

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


def lessons_in(items: Sequence[Mapping[str, str]], source: str) -> tuple[Lesson, ...]:
    """Return the lessons of an answer that hold nothing which the source does not."""
    lessons = (Lesson(**item) for item in items)
    return tuple(lesson for lesson in lessons if not made_up(lesson.text, source))


def made_up(text: str, source: str) -> list[str]:
    """Return the names, paths and numbers of a text that its source does not have, whatever their case."""
    known = source.casefold()
    found = (particular.strip(".,:;/\\") for particular in _PARTICULAR.findall(text))
    # Whole, not as a part of another: 13 is not in 0.13.2.
    return [p for p in found if p and not re.search(rf"(?<![\w.]){re.escape(p.casefold())}(?!\w|\.\d)", known)]
