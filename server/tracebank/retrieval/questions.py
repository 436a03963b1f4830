"""Long questions: an agent may send its whole task, of which an embedding model sees the first few hundred tokens.

So a long one is asked in parts, and each trace is seen as the part that it answers best sees it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tracebank.chunking import TokenSpans, windows

# Within what small models see (256, with their special tokens).
PART_TOKENS = 224
# What is asked for stands at the beginning or at the end; between them is what it is about at length.
FIRST_PARTS, LAST_PARTS = 3, 3


def parts_of(text: str, token_spans: TokenSpans) -> list[str]:
    """Return a short question as it is, and a long one in parts that end where a paragraph, a line or a sentence does."""
    if len(text) <= PART_TOKENS:  # a token is at least one character
        return [text]
    spans = windows(text, token_spans, tokens=PART_TOKENS, overlap_tokens=0)
    parts = [text[start:end] for start, end in spans] if len(spans) > 1 else [text]
    return parts if len(parts) <= FIRST_PARTS + LAST_PARTS else [*parts[:FIRST_PARTS], *parts[-LAST_PARTS:]]


def all_of(parts: Iterable[Sequence[str]]) -> list[str]:
    """Return the parts of all questions, each once."""
    return list(dict.fromkeys(part for own in parts for part in own))
