"""Cutting a trace into the pieces that are embedded and searched.

The task and each lesson stand alone, because each says by itself when the memory applies. The content is cut into
overlapping windows, because an embedding model sees a few hundred tokens and blurs what is longer: windows of the
model's own tokens, that end and begin where a paragraph, a line, a sentence or at least a word does.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tracebank.records import Trace

Span = tuple[int, int]
# Where each token of a text begins and ends, in characters and in order.
TokenSpans = Callable[[str], Sequence[Span]]

# How good a place is to cut. Code is better cut at a blank line than elsewhere, and best not at all.
WORD, CODE_LINE, SENTENCE, LINE, PARAGRAPH = 1, 2, 3, 4, 5
_CODE_GAP = SENTENCE
_FENCE = re.compile(r"^[ \t>]*(?:```|~~~)[^\n]*\n?", re.MULTILINE)
_PLACES = (
    (SENTENCE, WORD, re.compile(r"[.!?…][\"'”’)\]]*\s+|[。！？]")),
    (LINE, CODE_LINE, re.compile(r"\n")),
    (PARAGRAPH, _CODE_GAP, re.compile(r"\n[ \t]*\n\s*")),
)
# A run without a blank (a line of base64, a hash) counts as one token of this length after the other, so that a
# window is bounded whatever the text is.
LONGEST_TOKEN_CHARS = 32
# One token for a word, one for a character of a script that is written without spaces.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]|[^\s\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]+")
# To be raised whenever the same text would be cut elsewhere, or what is cut of a trace changes.
CUT_VERSION = 1
# The same for English prose as a model's own tokens: 4 characters make about one.
CHARS_PER_TOKEN = 4

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


def cut_mark(tokenizer: bytes, *, tokens: int, overlap_tokens: int) -> bytes:
    """Return 16 bytes that are the same where equal texts are cut at the same places; `tokenizer` tells one from another."""
    return hashlib.blake2b(tokenizer + f":{CUT_VERSION}:{tokens}:{overlap_tokens}".encode(), digest_size=16).digest()


def word_spans(text: str) -> list[Span]:
    """Return about what a model's tokens would be, for when its tokenizer is not at hand."""
    return [span for word in _WORD.finditer(text) for span in _divided(*word.span(), CHARS_PER_TOKEN + 1)]


def windows(text: str, token_spans: TokenSpans, *, tokens: int, overlap_tokens: int) -> list[Span]:
    """Return the (start, end) of windows of at most `tokens` tokens, in order; together they hold everything but blanks.

    A window ends at the best place of its second half. The next begins with the first sentence among the
    `overlap_tokens` before that place, else with a line of code, else with a word. The overlap is at most half a window.
    """
    found = token_spans(text) or word_spans(text)
    spans = list(found)
    if any(end - start > LONGEST_TOKEN_CHARS for start, end in found):
        spans = [part for start, end in found for part in _divided(start, end, LONGEST_TOKEN_CHARS)]
    if len(spans) <= tokens:
        return [(spans[0][0], spans[-1][1])] if spans else []
    quality = _quality(text, spans)
    cut: list[Span] = []
    start = 0
    while start + tokens < len(spans):
        # The last of the best: reversed, because argmax returns the first.
        second_half = quality[start + tokens // 2 + 1 : start + tokens + 1]
        end = start + tokens - int(np.argmax(second_half[::-1]))
        cut.append((spans[start][0], spans[end - 1][1]))
        overlap = quality[end - overlap_tokens : end + 1]
        start = end - overlap_tokens + int(np.argmax(overlap >= min(SENTENCE, overlap.max())))
    cut.append((spans[start][0], spans[-1][1]))
    return cut


def parts_of(trace: Trace) -> list[tuple[Part, int, str]]:
    """Return what of a trace is cut, in reading order: task, lessons, content."""
    parts: list[tuple[Part, int, str]] = [("task", 0, trace.task)]
    parts += [("lesson", i, lesson.text) for i, lesson in enumerate(trace.lessons)]
    return [*parts, ("content", 0, trace.content)]


def chunks_of(trace: Trace, token_spans: TokenSpans, *, tokens: int, overlap_tokens: int) -> list[Chunk]:
    """Return the chunks of a trace in reading order."""
    return [
        Chunk(part=part, item=item, start=start, end=end, text=text[start:end])
        for part, item, text in parts_of(trace)
        for start, end in windows(text, token_spans, tokens=tokens, overlap_tokens=overlap_tokens)
    ]


def _divided(start: int, end: int, longest: int) -> Iterator[Span]:
    for at in range(start, end, longest):
        yield at, min(at + longest, end)


def _quality(text: str, spans: Sequence[Span]) -> NDArray[np.int8]:
    """Return for each token, and for the end, how good a place to cut is before it."""
    starts, ends = np.array(spans, np.int64).T
    quality = np.zeros(len(spans) + 1, np.int8)
    quality[1:-1][starts[1:] > ends[:-1]] = WORD
    quality[-1] = PARAGRAPH
    fences = [fence.span() for fence in _FENCE.finditer(text)]
    # From the line behind an opening fence to the line of the closing one; one that is never closed goes to the end.
    edges = np.array([fences[i][(i + 1) % 2] for i in range(len(fences))], np.int64)

    def rate(places: NDArray[np.int64], outside: int, inside: int) -> None:
        # The edges themselves are in it: a fence is not cut off.
        in_code = (np.searchsorted(edges, places, side="left") | np.searchsorted(edges, places, side="right")) % 2 == 1 if fences else False
        # A place belongs to the first token that reaches beyond it.
        tokens = np.searchsorted(ends, places, side="right")
        np.maximum.at(quality, tokens, np.where(in_code, inside, outside).astype(np.int8))

    for outside, inside, pattern in _PLACES:
        rate(np.array([place.end() for place in pattern.finditer(text)], np.int64), outside, inside)
    # Before an opening fence and behind a closing one.
    rate(np.array([fence[i % 2] for i, fence in enumerate(fences)], np.int64), PARAGRAPH, PARAGRAPH)
    return quality
