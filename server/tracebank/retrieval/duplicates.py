"""Telling near-equal traces: the same task done again in the same words. One of them is shown, with how many others.

Nothing is refused or dropped for it: what is not shown beside its like stays where it is, and is named.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from tracebank.records import Trace

# Of all words of two traces, so many are in both: of twenty words not one may differ, of two hundred five in each.
SHARED_WORDS = 0.95
_WORD = re.compile(r"\w+")

Item = TypeVar("Item")


@dataclass(slots=True)
class _Words:
    """A trace's words, counted when they are first asked for: most traces differ in length already."""

    trace: Trace
    counted: Counter[str] = field(default_factory=Counter)

    @property
    def length(self) -> int:
        return len(self.trace.task) + len(self.trace.content) + sum(len(lesson.text) for lesson in self.trace.lessons)

    @property
    def words(self) -> Counter[str]:
        if not self.counted:
            self.counted = Counter(_WORD.findall(self.trace.text.lower()))
        return self.counted


def near_equal(a: Trace, b: Trace) -> bool:
    """Return whether two traces ended alike and say the same, but for a few words and no number."""
    return _near_equal(_Words(a), _Words(b))


def _near_equal(a: _Words, b: _Words) -> bool:
    if a.trace.outcome != b.trace.outcome or a.trace.namespace != b.trace.namespace:
        return False
    if min(a.length, b.length) < 0.9 * max(a.length, b.length):
        return False
    shared, either = (a.words & b.words).total(), (a.words | b.words).total()
    # "Ticket 7" and "ticket 8" are two things, however much else they share.
    differing = (a.words - b.words) + (b.words - a.words)
    return shared >= SHARED_WORDS * either and not any(character.isdigit() for word in differing for character in word)


def without_repeats(items: Sequence[Item], trace_of: Callable[[Item], Trace]) -> list[tuple[Item, list[Item]]]:
    """Return the first of each that are near-equal, in order, each with the others."""
    kept: list[tuple[Item, _Words, list[Item]]] = []
    for item in items:
        words = _Words(trace_of(item))
        like = next((others for _, known, others in kept if _near_equal(known, words)), None)
        if like is None:
            kept.append((item, words, []))
        else:
            like.append(item)
    return [(item, others) for item, _, others in kept]
