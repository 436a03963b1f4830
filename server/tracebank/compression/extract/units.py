"""Cut a text into the units that extraction keeps or drops, and the structure that comes along with them.

Units lie end to end and joined are the text again. A heading, a speaker, a document's title, a table's head or a fence is
a frame: it is never chosen for itself, it comes along with what is chosen below it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from tracebank.compression.extract.lines import (
    BLANK,
    BOLD_LINE,
    CLOSING_TAG,
    INTRODUCTION_LEVEL,
    ITEM,
    LOG,
    MARKDOWN_HEADING,
    OPENING_TAG,
    ROW,
    RULE_ROW,
    SOURCE,
    heading_level,
    speaker_end,
)
from tracebank.compression.extract.pieces import PIECE_CHARS, code_parts, sentence_pieces
from tracebank.compression.segments import LOGS, Region, fences

# More units than this are joined to larger ones, so that time and memory are bounded for any text.
MOST_UNITS = 20_000
# Of what a unit stands in the nearest come along with it. Of a page's markup, a hundred tags deep, all would cost more than they say,
# and they are looked at each time a unit is.
MOST_FRAMES = 16


class Sort(Enum):
    """What a unit is."""

    FRAME = "frame"
    SENTENCE = "sentence"
    LINE = "line"  # a list item, a table row, a line of a log
    CODE = "code"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Characters `start` to `end`. `frames` are the positions of the `MOST_FRAMES` nearest around it, the outermost first.

    `section` numbers what stands under one frame, `place` counts the units of a paragraph.
    """

    start: int
    end: int
    sort: Sort
    frames: tuple[int, ...] = ()
    section: int = 0
    place: int = 0

    def framed(self, moved: Mapping[int, int]) -> Unit:
        """Return the unit with its frames where they have `moved` to."""
        frames = tuple(moved[frame] for frame in self.frames)
        return Unit(start=self.start, end=self.end, sort=self.sort, frames=frames, section=self.section, place=self.place)


_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_WRAPPED_CHARS = range(50, 130)
_ENDS_SENTENCE = re.compile(r"[.!?:…。！？][\"'”’)\]*_]*\s*\Z")
# Of a longer line only the beginning is looked at: time stays linear whatever it holds.
_LONGEST_STRUCTURE_CHARS = 2000
_LABEL_LEVEL = 8


def split_units(text: str) -> list[Unit]:
    """Return the units of `text`, in order; an empty text has none. Linear in its length."""
    units = coarsened(_Splitter(text).split())
    return units if len(units) <= 2 * MOST_UNITS else _stretches(text)


def _stretches(text: str) -> list[Unit]:
    """Return `MOST_UNITS` units of like length, whole lines where they can be: a text that is all frames has none that help."""
    least_chars = max(PIECE_CHARS, len(text) // MOST_UNITS)
    units: list[Unit] = []
    at = 0
    while at < len(text):
        end = min(len(text), at + least_chars)
        end = text.find("\n", end, end + least_chars) + 1 or end
        units.append(Unit(start=at, end=end, sort=Sort.LINE))
        at = end
    return units


@dataclass(slots=True)
class _Frame:
    position: int
    level: int
    name: str = ""
    # A label without a document or a role to it names its own paragraph only.
    lasting: bool = True


@dataclass(slots=True)
class _Splitter:
    text: str
    units: list[Unit] = field(default_factory=list)
    frames: list[_Frame] = field(default_factory=list)
    closings: dict[int, int] = field(default_factory=dict)
    section: int = 0
    place: int = 0
    in_table: bool = False

    def split(self) -> list[Unit]:
        at = 0
        for fence in fences(self.text):
            self._lines(at, fence.start)
            self._fence(fence)
            at = fence.end
            if self.text[at : at + 1] == "\n":
                at += 1
        self._lines(at, len(self.text))
        return [self._closed(unit) for unit in self.units]

    def _closed(self, unit: Unit) -> Unit:
        """Return the unit with the ends of its frames beside their beginnings."""
        ends = [self.closings[frame] for frame in unit.frames if frame in self.closings]
        if not ends:
            return unit
        return Unit(
            start=unit.start, end=unit.end, sort=unit.sort, frames=(*unit.frames, *ends), section=unit.section, place=unit.place
        )  # fmt: skip

    # -- what lies between the fences ---------------------------------------------------------------------------

    def _lines(self, at: int, end: int) -> None:
        paragraph = at
        blank = False
        while at < end:
            stop = self.text.find("\n", at, end) + 1 or end
            line = self.text[at:stop].rstrip("\n")
            if BLANK.match(line):
                self._paragraph(paragraph, at)
                self._blank(at, stop)
                paragraph, blank = stop, True
            elif self._begins(line, at, paragraph):
                self._paragraph(paragraph, at)
                paragraph, blank = self._structure(line[:_LONGEST_STRUCTURE_CHARS], at, stop, blank), False
            at = stop
        self._paragraph(paragraph, end)

    def _begins(self, line: str, at: int, paragraph: int) -> bool:
        """Tell whether the line begins something new, rather than going on with the paragraph."""
        if paragraph == at or self._is_structure(line[:_LONGEST_STRUCTURE_CHARS]):
            return True
        before = self.text[self.text.rfind("\n", 0, at - 1) + 1 : at - 1]
        if ITEM.match(self.text, paragraph) and line[:1] in " \t":
            return False
        goes_on = line.lstrip()[:1].islower() or len(before) in _WRAPPED_CHARS
        return not goes_on or bool(_ENDS_SENTENCE.search(before) and len(before) not in _WRAPPED_CHARS)

    def _is_structure(self, line: str) -> bool:
        return (
            any(pattern.match(line) for pattern in (MARKDOWN_HEADING, OPENING_TAG, CLOSING_TAG, BOLD_LINE, ITEM, ROW, LOG, SOURCE))
            or speaker_end(line) is not None
        )

    def _structure(self, line: str, at: int, stop: int, blank: bool) -> int:
        """Take what the line is as a whole, and return where its paragraph begins."""
        if not ROW.match(line):
            self.in_table = False
        if blank and not ITEM.match(line) and self.frames and self.frames[-1].level == INTRODUCTION_LEVEL:
            self._leave(INTRODUCTION_LEVEL)
        if tag := CLOSING_TAG.match(line):
            return self._close(tag[1], at, stop)
        if tag := OPENING_TAG.match(line):
            self._enter(at, stop, len([f for f in self.frames if f.level < 0]) - 99, tag[1])
            return stop
        if level := heading_level(line):
            if level == INTRODUCTION_LEVEL and ITEM.match(line):
                return at
            self._enter(at, stop, level)
            return stop
        if ROW.match(line):
            return self._row(line, at, stop)
        if LOG.match(line):
            self._leave(_LABEL_LEVEL)
            self._add(at, stop, Sort.LINE)
            return stop
        if label := SOURCE.match(line):
            self._enter(at, at + label.end(), _LABEL_LEVEL)
            return at + label.end()
        if (end := speaker_end(line)) is not None:
            self._enter(at, at + end, _LABEL_LEVEL)
            return at + end
        return at

    def _row(self, line: str, at: int, stop: int) -> int:
        if not self.in_table:
            self.in_table = True
            self._enter(at, stop, _LABEL_LEVEL)
        elif RULE_ROW.match(line) and self.units[-1].sort is Sort.FRAME:
            self._widen(stop)
        else:
            self._add(at, stop, Sort.LINE)
        return stop

    def _blank(self, at: int, stop: int) -> None:
        if self.units:
            self._widen(stop)
        else:
            self._add(at, stop, Sort.SENTENCE)
        self.place = 0

    def _widen(self, end: int) -> None:
        last = self.units[-1]
        self.units[-1] = Unit(start=last.start, end=end, sort=last.sort, frames=last.frames, section=last.section, place=last.place)

    def _paragraph(self, start: int, end: int) -> None:
        """Add the sentences from `start` to `end`, all of one paragraph, item or turn."""
        if start >= end:
            return
        sort = Sort.LINE if ITEM.match(self.text, start, end) else Sort.SENTENCE
        self.place = 0
        for first, last in sentence_pieces(self.text, start, end):
            self._add(first, last, sort)

    # -- frames -------------------------------------------------------------------------------------------------

    def _enter(self, start: int, end: int, level: int, name: str = "") -> None:
        self._leave(level)
        self._add(start, end, Sort.FRAME)
        self.frames.append(_Frame(len(self.units) - 1, level, name))
        self.section, self.place = self.section + 1, 0

    def _leave(self, level: int) -> None:
        while self.frames and self.frames[-1].level >= level:
            self.frames.pop()

    def _close(self, name: str, start: int, stop: int) -> int:
        depth = next((i for i in reversed(range(len(self.frames))) if self.frames[i].name == name), None)
        if depth is None:
            self._add(start, stop, Sort.LINE)
            return stop
        opening = self.frames[depth].position
        del self.frames[depth:]
        self.closings[opening] = len(self.units)
        self._add(start, stop, Sort.FRAME)
        self.section, self.place = self.section + 1, 0
        return stop

    def _add(self, start: int, end: int, sort: Sort) -> None:
        frames = tuple(frame.position for frame in self.frames[-MOST_FRAMES:])
        self.units.append(Unit(start=start, end=end, sort=sort, frames=frames, section=self.section, place=self.place))
        self.place += 1

    # -- fences -------------------------------------------------------------------------------------------------

    def _fence(self, fence: Region) -> None:
        """Add a fenced block: its lines of back quotes are a frame around its parts, which are blocks of code or lines of a log."""
        end = fence.end + (self.text[fence.end : fence.end + 1] == "\n")
        self._add(fence.start, fence.body_start, Sort.FRAME)
        opening = len(self.units) - 1
        self.frames.append(_Frame(opening, 99))
        if fence.language in LOGS:
            for line in _LINE.finditer(self.text, fence.body_start, fence.body_end):
                self._add(*line.span(), Sort.LINE)
        else:
            for start, stop in code_parts(self.text, fence.body_start, fence.body_end):
                self._add(start, stop, Sort.CODE)
        self.frames.pop()
        if end > fence.body_end:
            self.closings[opening] = len(self.units)
            self._add(fence.body_end, end, Sort.FRAME)


def coarsened(units: Sequence[Unit], most: int = MOST_UNITS) -> list[Unit]:
    """Return `most` units or so: neighbours in one frame are joined where there are more."""
    if len(units) <= most:
        return list(units)
    together = -(-len(units) // most)
    joined: list[Unit] = []
    moved: dict[int, int] = {}
    run = 0
    for position, unit in enumerate(units):
        last = joined[-1] if joined else None
        run += 1
        if last and unit.sort is not Sort.FRAME and last.sort is unit.sort and run < together and last.section == unit.section:
            joined[-1] = Unit(start=last.start, end=unit.end, sort=last.sort, frames=last.frames, section=last.section, place=last.place)
            continue
        run = 0
        moved[position] = len(joined)
        joined.append(unit)
    # Only now: what closes a frame stands behind the units in it.
    return [unit.framed(moved) for unit in joined]
