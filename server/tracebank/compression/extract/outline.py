"""A text as extraction sees it: its units, their words and tokens, and the sections they stand in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tracebank.compression.extract.lines import is_source
from tracebank.compression.extract.units import Sort, Unit, split_units
from tracebank.compression.extract.words import Bag, Scores, rarity
from tracebank.compression.segments import Span, touching

if TYPE_CHECKING:
    from tracebank.tokens import Tokenizer

# A frame's words stand before a unit's own in what the model reads; a longer one would drown them.
_FRAME_CHARS = 200
# What of a frame says nothing: "Document [3](Title: …)", "## ". Without its number a passage is the same wherever it stands.
_NAMING = re.compile(r"[#>\s]*(?:(?:[A-Z][\w-]* ?)?\[[\w.-]{1,12}\])?\s*(?:\((?:[Tt]itle: ?)?(?P<title>.*)\)[:.]?\s*\Z)?", re.DOTALL)
# A passage that begins within a sentence has lost its beginning: so many sentences at least are taken to be missing.
_LOST_SENTENCES = 2
# What has no order of importance: items, rows.
_UNORDERED = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """What stands under one frame: positions in `Outline.leaves`, and the words of all of it, the frame's among them."""

    members: tuple[int, ...]
    bag: Bag


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """The units of a text. `leaves` are the positions of those that can be chosen; scores are [len(leaves)]."""

    text: str
    units: Sequence[Unit]
    tokens: Sequence[int]
    bags: Sequence[Bag]
    leaves: Sequence[int]
    sections: Sequence[Section]
    weights: Mapping[str, float]

    @classmethod
    def of(cls, text: str, tokenizer: Tokenizer, kept: Sequence[Span] = ()) -> Outline:
        """Read a text; each of the `kept` spans is a unit of its own."""
        units = carved(split_units(text), kept)
        texts = [text[unit.start : unit.end] for unit in units]
        bags = [Bag.of(piece) for piece in texts]
        leaves = [position for position, unit in enumerate(units) if unit.sort is not Sort.FRAME]
        return cls(
            text=text, units=units, bags=bags, leaves=leaves, sections=list(_sections(units, bags, leaves)),
            # The blank behind a sentence is part of the next word's token.
            tokens=[tokenizer.count(piece.rstrip(" ")) for piece in texts],
            weights=rarity(bags),
        )  # fmt: skip

    def piece(self, position: int) -> str:
        """Return the text of a unit."""
        unit = self.units[position]
        return self.text[unit.start : unit.end]

    def in_context(self, position: int) -> str:
        """Return the text of a unit behind what the frame next to it says: whom or what it is about."""
        frame = self._around(position)
        about = "" if frame is None else _about(self.piece(frame)[:_FRAME_CHARS])
        return " ".join(filter(None, (about, self.piece(position).strip())))

    def _around(self, position: int) -> int | None:
        return next((frame for frame in reversed(self.units[position].frames) if frame < position), None)

    def spread(self, of_sections: Sequence[float] | Scores) -> Scores:
        """Return for each leaf what its section has."""
        scores = np.zeros(len(self.leaves))
        for section, score in zip(self.sections, of_sections, strict=True):
            scores[list(section.members)] = score
        return scores

    def early(self) -> Scores:
        """Return 1 for the first sentence of a paragraph, 1/2 for the second, …; less where its beginning is missing."""
        lost = self.spread([_LOST_SENTENCES * (not _begins(self.piece(self.leaves[section.members[0]]))) for section in self.sections])
        units = [self.units[leaf] for leaf in self.leaves]
        places = [1 / (1 + unit.place + missing) for unit, missing in zip(units, lost, strict=True)]
        return np.where([unit.sort is Sort.SENTENCE for unit in units], places, _UNORDERED)

    def said(self) -> NDArray[np.bool_]:
        """Return which leaves belong to a turn of a dialogue, or to a field that has a name."""
        return np.array([self._is_said(leaf) for leaf in self.leaves], bool)

    def _is_said(self, position: int) -> bool:
        frame = self._around(position)
        return frame is not None and self.piece(frame).rstrip().endswith(":") and not is_source(self.piece(frame))

    def whole(self) -> Scores:
        """Return 1 for what begins and ends as a sentence does, 1/2 for half of that: a torn one says half."""
        return np.array([_wholeness(self.piece(leaf).strip()) for leaf in self.leaves])


def _about(frame: str) -> str:
    naming = _NAMING.match(frame)
    assert naming is not None  # it matches nothing, too
    about = (naming["title"] or frame[naming.end() :]).strip()
    return f"{about}." if about[-1:].isalnum() else about


def _wholeness(bare: str) -> float:
    ends = bare.rstrip("\"'”’)]*_`")[-1:] in (".", "!", "?", "。", "！", "？")
    return (_begins(bare) + ends) / 2


def _begins(piece: str) -> bool:
    bare = piece.strip()
    return not bare[:1].islower() and bare[:1] not in ",;:.)]}"


def _sections(units: Sequence[Unit], bags: Sequence[Bag], leaves: Sequence[int]) -> Iterable[Section]:
    members: dict[int, list[int]] = {}
    for number, leaf in enumerate(leaves):
        members.setdefault(units[leaf].section, []).append(number)
    for numbers in members.values():
        first = leaves[numbers[0]]
        frame = [frame for frame in units[first].frames if frame < first][-1:]
        yield Section(members=tuple(numbers), bag=Bag.joined(bags[at] for at in (*frame, *(leaves[n] for n in numbers))))


def carved(units: Sequence[Unit], kept: Sequence[Span]) -> list[Unit]:
    """Return the units cut at the borders of the kept spans (merged), which become leaves whatever they were cut from."""
    if not kept:
        return list(units)
    borders = sorted({border for span in kept for border in span})
    carved: list[Unit] = []
    moved: dict[int, int] = {}
    at = 0
    for position, unit in enumerate(units):
        while at < len(borders) and borders[at] <= unit.start:
            at += 1
        inside = []
        while at < len(borders) and borders[at] < unit.end:
            inside.append(borders[at])
            at += 1
        moved[position] = len(carved)
        ends = [unit.start, *inside, unit.end]
        for start, end in pairwise(ends):
            sort = Sort.LINE if unit.sort is Sort.FRAME and touching(kept, start, end) else unit.sort
            carved.append(Unit(start=start, end=end, sort=sort, frames=unit.frames, section=unit.section, place=unit.place))
    return [unit.framed(moved) for unit in carved]
