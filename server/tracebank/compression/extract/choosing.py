"""Choose units under a budget of tokens, so that together they say most and the same thing not twice.

Greedy maximisation of a submodular gain per cost (Lin and Bilmes, "A Class of Submodular Functions for Document
Summarization", ACL 2011): what a unit adds shrinks with what was chosen before. Gains are lazily renewed.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tracebank.compression.extract.outline import Outline
from tracebank.compression.extract.units import Sort
from tracebank.compression.extract.words import Bag

# How much of its worth a unit loses whose words were all said before.
REDUNDANCY = 0.15
# 0 would ignore length, 1 would prefer crumbs.
COST_POWER = 0.2
_EPSILON = 1e-12
# With fewer telling words a unit says what it says below its heading or by its speaker only, and of what stands before it: "Yes."
_FEWEST_TELLING = 5

# The section of a unit and the text before it, where they count, and what stands in it.
_Saying = tuple[int | None, str, str]


class _Brought(NamedTuple):
    """What was not there before a unit was chosen."""

    positions: frozenset[int]
    stems: frozenset[str]
    sayings: frozenset[_Saying]


@dataclass(slots=True)
class Choice:
    """Units chosen so far; `worth` is [len(outline.leaves)]. `spent_tokens` includes frames and marks."""

    outline: Outline
    worth: Sequence[float]
    budget_tokens: int
    mark_tokens: int = 1
    order: list[int] = field(default_factory=list)
    _brought: list[_Brought] = field(default_factory=list)
    chosen: set[int] = field(default_factory=set)
    spent_tokens: int = 0
    _said: set[str] = field(default_factory=set)
    _saying: Sequence[_Saying] = field(init=False)
    _sayings: set[_Saying] = field(default_factory=set)
    _given_up: set[int] = field(default_factory=set)
    _totals: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._saying = list(_each_saying(self.outline))

    def take(self, position: int, *, framed: bool = True) -> None:
        """Choose a unit, with the frames around it."""
        self.spent_tokens += self.cost(position) if framed else self.outline.tokens[position] + self.mark_tokens
        brought = _Brought(
            positions=frozenset({position, *(self.outline.units[position].frames if framed else ())} - self.chosen),
            stems=frozenset(self.outline.bags[position].counts.keys() - self._said),
            sayings=frozenset({self._saying[position]} - self._sayings),
        )
        self.order.append(position)
        self._brought.append(brought)
        self.chosen |= brought.positions
        self._said |= brought.stems
        self._sayings |= brought.sayings

    def drop_last(self) -> None:
        """Give up what was chosen last for good, and the frames that came with it. Raises: IndexError if nothing was."""
        self._given_up.add(self.order.pop())
        brought = self._brought.pop()
        self.chosen -= brought.positions
        self._said -= brought.stems
        self._sayings -= brought.sayings

    def fits(self, position: int) -> bool:
        """Tell whether there is room for a unit."""
        return self.spent_tokens + self.cost(position) <= self.budget_tokens

    def cost(self, position: int) -> int:
        """Return the tokens that a unit adds: its own, those of its frames, and a mark unless it closes a gap."""
        tokens = self.outline.tokens
        frames = sum(tokens[frame] for frame in self.outline.units[position].frames if frame not in self.chosen)
        beside = (position - 1 in self.chosen) + (position + 1 in self.chosen)
        return max(1, tokens[position] + frames + (1 - beside) * self.mark_tokens)

    def fill(self) -> None:
        """Take the best units, one after the other, as long as one fits."""
        worth = dict(zip(self.outline.leaves, self.worth, strict=True))
        heap = [(-self._gain(leaf, worth[leaf]), leaf) for leaf in self.outline.leaves if worth[leaf] > 0 and leaf not in self.chosen]
        heapq.heapify(heap)
        below = self._below(leaf for _, leaf in heap)
        while heap:
            known, leaf = heapq.heappop(heap)
            if leaf in self.chosen or leaf in self._given_up or self._is_said(leaf):
                continue
            gain = -self._gain(leaf, worth[leaf])
            if gain > known + _EPSILON and heap and gain > heap[0][0]:
                heapq.heappush(heap, (gain, leaf))
            elif self.fits(leaf):
                fresh = [frame for frame in self.outline.units[leaf].frames if frame not in self.chosen]
                self.take(leaf)
                # A frame is paid for once: what else stands in it has become cheaper.
                for cheaper in (other for frame in fresh for other in below.pop(frame, ()) if other not in self.chosen):
                    heapq.heappush(heap, (-self._gain(cheaper, worth[cheaper]), cheaper))

    def says_all(self) -> bool:
        """Tell whether each unit was chosen, or says what one that was chosen says."""
        return all(leaf in self.chosen or self._is_said(leaf) for leaf in self.outline.leaves)

    def _below(self, leaves: Iterable[int]) -> dict[int, list[int]]:
        below: dict[int, list[int]] = {}
        for leaf in leaves:
            for frame in self.outline.units[leaf].frames:
                below.setdefault(frame, []).append(leaf)
        return below

    def _is_said(self, position: int) -> bool:
        """Tell whether a unit that was chosen says the same in the same words; what has no words, or is a little code, is structure."""
        bag, sort = self.outline.bags[position], self.outline.units[position].sort
        structure = not bag.counts or (sort is Sort.CODE and _is_brief(bag))
        return not structure and self._saying[position] in self._sayings

    def _gain(self, position: int, worth: float) -> float:
        known = self._share_said(position)
        return worth * (1 - REDUNDANCY * known) / float(self.cost(position) ** COST_POWER)

    def _share_said(self, position: int) -> float:
        bag, weights = self.outline.bags[position], self.outline.weights
        total = self._totals.get(position)
        if total is None:
            total = self._totals[position] = sum(weights[stem] for stem in bag.counts)
        # In the order of the text: the sum of a set would differ with its order, which differs from process to process.
        return sum(weights[stem] for stem in bag.counts if stem in self._said) / total if total else 1.0


def _each_saying(outline: Outline) -> Iterator[_Saying]:
    """Yield what each unit says. Equal ones in a row all stand behind what is before the first."""
    before = text = ""
    for position, unit in enumerate(outline.units):
        last, text = text, " ".join(outline.piece(position).split())
        before = before if text == last else last
        yield (unit.section, before, text) if _is_brief(outline.bags[position]) else (None, "", text)


def _is_brief(bag: Bag) -> bool:
    return len(bag.telling) < _FEWEST_TELLING
