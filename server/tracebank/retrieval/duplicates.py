"""Telling near-equal traces: the same task done again in the same words. One of them is shown, with how many others.

Nothing is refused or dropped for it: what is not shown beside its like stays where it is, and is named.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from tracebank.records import Trace

# Of all words of two traces, so many are in both: of twenty words not one may differ, of two hundred five in each.
SHARED_WORDS = 0.95
_WORD = re.compile(r"\w+")
# Words and signs: "-5", "1.2", "!=" and "🎉" say something, the marks behind a word do not.
_MARKS = r".,;:!?"
_SAID = re.compile(rf"\w+|[^\w\s{_MARKS}]|(?<![{_MARKS}])[{_MARKS}]++(?=[^\s\"')\]])")

Item = TypeVar("Item")


def length_chars(trace: Trace) -> int:
    """Return how many characters are compared of a trace."""
    return len(trace.task) + len(trace.content) + sum(len(lesson.text) for lesson in trace.lessons)


@dataclass(slots=True)
class _Words:
    """A trace's words, counted when they are first asked for: most traces differ in length already."""

    trace: Trace
    counted: Counter[str] = field(default_factory=Counter)

    @property
    def length(self) -> int:
        return length_chars(self.trace)

    @property
    def words(self) -> Counter[str]:
        if not self.counted:
            self.counted = Counter(_WORD.findall(self.trace.text.lower()))
        return self.counted

    def said_without(self, words: Collection[str]) -> list[str]:
        """Return all that it says but these words, in order."""
        return [said for said in _SAID.findall(self.trace.text.lower()) if said not in words]


def near_equal(a: Trace, b: Trace) -> bool:
    """Return whether two traces ended alike and say the same in the same order, but for a few words, no number and no sign."""
    return _near_equal(_Words(a), _Words(b))


def _near_equal(a: _Words, b: _Words) -> bool:
    if a.trace.outcome != b.trace.outcome or a.trace.namespace != b.trace.namespace:
        return False
    if min(a.length, b.length) < 0.9 * max(a.length, b.length):
        return False
    shared = (a.words & b.words).total()
    if shared < SHARED_WORDS * (a.words.total() + b.words.total() - shared):
        return False
    # "Ticket 7" and "ticket 8" are two things, however much else they share.
    differing = (a.words - b.words) + (b.words - a.words)
    if any(character.isdigit() for word in differing for character in word):
        return False
    # And "from 1 to 2" is the opposite of "from 2 to 1".
    return a.said_without(differing) == b.said_without(differing)


class Distinct(Generic[Item]):
    """The first of each of the items that are near-equal, with the others. It grows: of what is kept the words are counted once."""

    def __init__(self, trace_of: Callable[[Item], Trace]) -> None:
        self._trace_of = trace_of
        self._kept: list[tuple[Item, _Words, list[Item]]] = []

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[tuple[Item, list[Item]]]:
        """Yield each item that is kept, in order, with the others that say the same."""
        return ((item, others) for item, _, others in self._kept)

    def add(self, items: Iterable[Item]) -> None:
        """Take more items, behind those that it has. Long ones belong in a thread."""
        for item in items:
            words = _Words(self._trace_of(item))
            like = next((others for _, known, others in self._kept if _near_equal(known, words)), None)
            if like is None:
                self._kept.append((item, words, []))
            else:
                like.append(item)
