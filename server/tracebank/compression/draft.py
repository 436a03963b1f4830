"""What passes between the steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tracebank.compression.extract.relevance import Meaning
from tracebank.compression.extract.rendering import Mark, bare_mark
from tracebank.compression.segments import Segment, Span

if TYPE_CHECKING:
    from tracebank.tokens import Tokenizer


# How telling each word of a text is: (start, end, probability of being kept), in order. A model's, where there is one.
WordModel = Callable[[str], Sequence[tuple[int, int, float]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What is asked for. `protected` are the pieces that must survive, in their order, none overlapping another.

    `head_share` and `tail_share` of the budget are for instructions at the beginning and the request at the end.
    """

    budget_tokens: int
    tokenizer: Tokenizer
    head_ratio: float
    protected: tuple[str, ...]
    query: str = ""
    meaning: Meaning | None = None
    head_share: float = 0.2
    tail_share: float = 0.2
    mark: Mark = bare_mark
    words: WordModel | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A text that a lossy step has shortened: what is left, and the spans of its input that are gone, in the order of the marks."""

    text: str
    gaps: tuple[Span, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """The text as it stands after a step. `gaps` are spans of `cut_from`, the text that a lossy step was given."""

    segments: tuple[Segment, ...]
    text: str
    tokens: int
    cut_from: str | None = None
    gaps: tuple[Span, ...] = ()

    @classmethod
    def of(cls, segments: tuple[Segment, ...], tokenizer: Tokenizer) -> Draft:
        """Join the segments and count their tokens."""
        text = "".join(segment.text for segment in segments)
        return cls(segments=segments, text=text, tokens=tokenizer.count(text))


@dataclass(frozen=True, slots=True)
class Step:
    """One way to make a text shorter. `run` is pure, leaves every protected piece as it is, and returns None where it can do nothing."""

    name: str
    run: Callable[[Draft, Goal], tuple[Segment, ...] | Cut | None]
