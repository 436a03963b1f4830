"""What passes between the steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tracebank.compression.extract.relevance import Meaning
from tracebank.compression.extract.rendering import Mark, bare_mark
from tracebank.compression.segments import Segment

if TYPE_CHECKING:
    from tracebank.tokens import Tokenizer


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """The text as it stands after a step."""

    segments: tuple[Segment, ...]
    text: str
    tokens: int

    @classmethod
    def of(cls, segments: tuple[Segment, ...], tokenizer: Tokenizer) -> Draft:
        """Join the segments and count their tokens."""
        text = "".join(segment.text for segment in segments)
        return cls(segments=segments, text=text, tokens=tokenizer.count(text))


@dataclass(frozen=True, slots=True)
class Step:
    """One way to make a text shorter. `run` is pure and must leave every protected piece as it is."""

    name: str
    run: Callable[[Draft, Goal], tuple[Segment, ...]]
