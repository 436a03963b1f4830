"""Cutting a trace into the pieces that are embedded and searched.

The task and each lesson stand alone, because each says by itself when the memory applies; the content is cut into
overlapping windows, because an embedding model sees a few hundred tokens and blurs what is longer.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Literal

from tracebank.records import Trace

# A word is a run of up to 32 characters, or one character of a script that is written without spaces:
# so a window has a bounded number of model tokens whatever the text is.
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]|[^\s\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]{1,32}"
)

Part = Literal["task", "lesson", "content"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of a trace: characters start to end of the part `part` (of lesson `item`)."""

    part: Part
    item: int
    start: int
    end: int
    text: str


def text_hash(text: str) -> bytes:
    """Return 16 bytes that stand for a text in the embedding cache."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def windows(text: str, *, words: int, overlap_words: int) -> list[tuple[int, int]]:
    """Return the (start, end) of windows of `words` words, each sharing `overlap_words` with the one before."""
    spans = [match.span() for match in _WORD.finditer(text)]
    step = max(1, words - overlap_words)
    # The last window starts where something is left that the one before did not hold.
    starts = range(0, max(1, len(spans) - overlap_words), step)
    return [(spans[i][0], spans[min(i + words, len(spans)) - 1][1]) for i in starts] if spans else []


def chunks_of(trace: Trace, *, words: int, overlap_words: int) -> list[Chunk]:
    """Return the chunks of a trace in reading order: task, lessons, content."""
    parts: list[tuple[Part, int, str]] = [("task", 0, trace.task)]
    parts += [("lesson", i, lesson.text) for i, lesson in enumerate(trace.lessons)]
    parts.append(("content", 0, trace.content))
    return [
        Chunk(part=part, item=item, start=start, end=end, text=text[start:end])
        for part, item, text in parts
        for start, end in windows(text, words=words, overlap_words=overlap_words)
    ]
