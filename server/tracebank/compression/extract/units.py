"""Cut a text into the units that extraction keeps or drops, and the structure that comes along with them.

Units lie end to end and joined are the text again. A heading, a speaker, a document's title, a table's head or a fence is
a frame: it is never chosen for itself, it comes along with what is chosen below it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from tracebank.compression.segments import Region, fences

# Nobody misses half of a longer sentence more than the tokens it costs.
LONGEST_CHARS = 600
_PIECE_CHARS = 400
# More units than this are joined to larger ones, so that time and memory are bounded for any text.
MOST_UNITS = 20_000


class Sort(Enum):
    """What a unit is."""

    FRAME = "frame"
    SENTENCE = "sentence"
    LINE = "line"  # a list item, a table row, a line of a log
    CODE = "code"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Characters `start` to `end`. `frames` are the positions of the frames around it, the outermost first.

    `section` numbers what stands under one frame, `place` counts the units of a paragraph.
    """

    start: int
    end: int
    sort: Sort
    frames: tuple[int, ...] = ()
    section: int = 0
    place: int = 0


_BLANK = re.compile(r"[ \t\r]*\Z")
_MARKDOWN_HEADING = re.compile(r"(#{1,6})[ \t]+\S|(={2,5})[ \t]*\S.*=+\s*\Z")
_OPENING_TAG = re.compile(r"[ \t]*<([A-Za-z][\w.:-]*)(?:\s[^<>]*)?(?<!/)>[ \t\r]*\Z")
_CLOSING_TAG = re.compile(r"[ \t]*</([A-Za-z][\w.:-]*)>[ \t\r]*\Z")
_BOLD_LINE = re.compile(r"[ \t]*(?:\*\*[^*\n]{1,100}\*\*|__[^_\n]{1,100}__):?[ \t\r]*\Z")
_CAPITALS = re.compile(r"[^a-z]*[A-Z]{2}[^a-z.]{0,70}\Z")
_ITEM = re.compile(r"[ \t]*(?:[-*+•‣◦–]|\d{1,3}[.)]|[A-Za-z][.)])[ \t]+\S")
_ROW = re.compile(r"[ \t]*\|.*\|[ \t\r]*\Z")
_RULE_ROW = re.compile(r"[ \t]*\|[-:| \t]+\|[ \t\r]*\Z")
_LOG = re.compile(
    r"[ \t]*[\[(<]?(?:\d{4}[-/]\d\d[-/]\d\d[T ,]|\d\d:\d\d:\d\d|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d"
    r"|(?:TRACE|DEBUG|INFO|NOTICE|WARN|WARNING|ERROR|FATAL|CRITICAL)\b)"
)
# What names the source or the speaker at the beginning of a line: "Document [3](Title: …)", "[3]", "Passage 2:",
# "User:", "Ann (09:31):", "[2026-03-01] Ann:".
_SOURCE = re.compile(
    r"[ \t]*(?:[A-Z][\w-]{0,20} ?)?\[[\w.-]{1,12}\](?:[ \t]?\((?:[^()\n]|\([^()\n]*\)){1,300}\))?[:.]?[ \t]+(?=\S)"
    r"|[ \t]*(?:Document|Doc|Passage|Source|Result|Excerpt|Context|Article|Chunk|Page|File|Memory|Example)"
    r"[ \t]+#?\w{1,8}[ \t]*[:.)–-][ \t]+(?=\S)"
)
_SPEAKER = re.compile(
    r"[ \t]*(?:\[[^\]\n]{1,40}\][ \t]+)?(?:\*\*)?[^\W\d_][\w.'’ -]{0,30}?(?:[ \t]?\([^()\n]{1,40}\))?(?:\*\*)?:(?:\*\*)?[ \t]+(?=\S)"
)
_MOST_SPEAKER_WORDS = 4
# Words after which a full stop does not end the sentence.
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\[\"'])(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|Sr|Jr|St|Gen|Col|Lt|Sgt|Capt|Rev|Hon|Gov|Sen|Rep|vs|etc|e\.g|i\.e|cf|al|approx|No|Nos|Fig|Figs|Eq"
    r"|Sec|Vol|pp?|Inc|Ltd|Co|Corp|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|(?:[A-Za-z]\.)+[A-Za-z])\.\Z"
)
_ABBREVIATION_CHARS = 12
_SENTENCE_END = re.compile(r"[.!?…]{1,5}[\"'”’)\]*_]{0,3}\s++(?=[\"'“‘(\[*_]{0,3}[^\sa-z,;:)])|[。！？]+[」』”）]*")
_SOFT_BORDER = re.compile(r"[;,:)\]}][ \t]|\s")
_WRAPPED_CHARS = range(50, 130)
_ENDS_SENTENCE = re.compile(r"[.!?:…。！？][\"'”’)\]*_]*\s*\Z")
_LONGEST_HEADING_CHARS = 100
# Of a longer line only the beginning is looked at: time stays linear whatever it holds.
_LONGEST_STRUCTURE_CHARS = 2000
_INTRODUCTION_LEVEL, _LABEL_LEVEL, _TAG_LEVEL = 7, 8, 0


def split_units(text: str) -> list[Unit]:
    """Return the units of `text`, in order; an empty text has none. Linear in its length."""
    units = coarsened(_Splitter(text).split())
    return units if len(units) <= 2 * MOST_UNITS else _stretches(text)


def _stretches(text: str) -> list[Unit]:
    """Return `MOST_UNITS` units of like length, whole lines where they can be: a text that is all frames has none that help."""
    least_chars = max(_PIECE_CHARS, len(text) // MOST_UNITS)
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
            if _BLANK.match(line):
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
        if _ITEM.match(self.text, paragraph) and line[:1] in " \t":
            return False
        goes_on = line.lstrip()[:1].islower() or len(before) in _WRAPPED_CHARS
        return not goes_on or bool(_ENDS_SENTENCE.search(before) and len(before) not in _WRAPPED_CHARS)

    def _is_structure(self, line: str) -> bool:
        return (
            any(pattern.match(line) for pattern in (_MARKDOWN_HEADING, _OPENING_TAG, _CLOSING_TAG, _BOLD_LINE, _ITEM, _ROW, _LOG, _SOURCE))
            or _speaker(line) is not None
        )

    def _structure(self, line: str, at: int, stop: int, blank: bool) -> int:
        """Take what the line is as a whole, and return where its paragraph begins."""
        if not _ROW.match(line):
            self.in_table = False
        if blank and not _ITEM.match(line) and self.frames and self.frames[-1].level == _INTRODUCTION_LEVEL:
            self._leave(_INTRODUCTION_LEVEL)
        if tag := _CLOSING_TAG.match(line):
            return self._close(tag[1], at, stop)
        if tag := _OPENING_TAG.match(line):
            self._enter(at, stop, len([f for f in self.frames if f.level < 0]) - 99, tag[1])
            return stop
        if level := _heading_level(line):
            if level == _INTRODUCTION_LEVEL and _ITEM.match(line):
                return at
            self._enter(at, stop, level)
            return stop
        if _ROW.match(line):
            return self._row(line, at, stop)
        if _LOG.match(line):
            self._leave(_LABEL_LEVEL)
            self._add(at, stop, Sort.LINE)
            return stop
        if label := _SOURCE.match(line):
            self._enter(at, at + label.end(), _LABEL_LEVEL)
            return at + label.end()
        if (end := _speaker(line)) is not None:
            self._enter(at, at + end, _LABEL_LEVEL)
            return at + end
        return at

    def _row(self, line: str, at: int, stop: int) -> int:
        if not self.in_table:
            self.in_table = True
            self._enter(at, stop, _LABEL_LEVEL)
        elif _RULE_ROW.match(line) and self.units[-1].sort is Sort.FRAME:
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
        sort = Sort.LINE if _ITEM.match(self.text, start, end) else Sort.SENTENCE
        self.place = 0
        for first, last in sentences(self.text, start, end):
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
        frames = tuple(frame.position for frame in self.frames)
        self.units.append(Unit(start=start, end=end, sort=sort, frames=frames, section=self.section, place=self.place))
        self.place += 1

    # -- fences -------------------------------------------------------------------------------------------------

    def _fence(self, fence: Region) -> None:
        """Add a fenced block: its lines of back quotes are a frame around its parts."""
        end = fence.end + (self.text[fence.end : fence.end + 1] == "\n")
        self._add(fence.start, fence.body_start, Sort.FRAME)
        opening = len(self.units) - 1
        self.frames.append(_Frame(opening, 99))
        for start, stop in code_parts(self.text, fence.body_start, fence.body_end):
            self._add(start, stop, Sort.CODE)
        self.frames.pop()
        if end > fence.body_end:
            self.closings[opening] = len(self.units)
            self._add(fence.body_end, end, Sort.FRAME)


def _heading_level(line: str) -> int:
    """Return 1 for the highest heading, 7 for a line that introduces what follows, 0 for none."""
    if match := _MARKDOWN_HEADING.match(line):
        return len(match[1] or match[2])
    if len(line) > _LONGEST_HEADING_CHARS:
        return 0
    if _BOLD_LINE.match(line) or (_CAPITALS.match(line) and not _LOG.match(line) and not _ROW.match(line)):
        return 6
    return _INTRODUCTION_LEVEL if line.rstrip().endswith(":") else 0


def _speaker(line: str) -> int | None:
    match = _SPEAKER.match(line)
    if match is None or len(match[0].split()) > _MOST_SPEAKER_WORDS + (line.lstrip()[:1] == "["):
        return None
    return match.end()


# A line at the margin that closes nothing opens a block; a blank line before it makes sure.
_BLOCK_BORDER = re.compile(r"\n[ \t]*+\n(?=[^\s)\]}])")
_ANY_BLOCK_BORDER = re.compile(r"\n(?=[^\s)\]}#@/*])")


def code_parts(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the blocks of code between `start` and `end`, larger ones cut where a line begins at the margin."""
    at = start
    for border in (*_BLOCK_BORDER.finditer(text, start, end), None):
        stop = border.end() if border else end
        if stop - at > 4 * LONGEST_CHARS:
            yield from _lines_together(text, at, stop)
        elif stop > at:
            yield at, stop
        at = stop


def _lines_together(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield stretches of whole blocks, each at most as long as it has to be."""
    at = start
    last = start
    for border in (*_ANY_BLOCK_BORDER.finditer(text, start, end), None):
        stop = border.end() if border else end
        if stop - at > 4 * LONGEST_CHARS and last > at:
            yield at, last
            at = last
        last = stop
    if at < end:
        yield at, end


def sentences(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the sentences between `start` and `end`, with the white space behind them; long ones in pieces."""
    at = start
    for match in _SENTENCE_END.finditer(text, start, end):
        # What stands before the white space decides, and no more of it than an abbreviation is long.
        before = text[max(at, match.start() - _ABBREVIATION_CHARS) : match.start() + 1]
        if match.end() < end and not (match[0][0] == "." and _ABBREVIATION.search(before)):
            yield from _pieces(text, at, match.end())
            at = match.end()
    if at < end:
        yield from _pieces(text, at, end)


def _pieces(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while end - start > LONGEST_CHARS:
        borders = [match.end() for match in _SOFT_BORDER.finditer(text, start + _PIECE_CHARS // 2, start + _PIECE_CHARS)]
        stop = borders[-1] if borders else start + _PIECE_CHARS
        yield start, stop
        start = stop
    yield start, end


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
        frames = tuple(moved[frame] for frame in unit.frames if frame in moved)
        run += 1
        if last and unit.sort is not Sort.FRAME and last.sort is unit.sort and run < together and last.section == unit.section:
            joined[-1] = Unit(start=last.start, end=unit.end, sort=last.sort, frames=last.frames, section=last.section, place=last.place)
            continue
        run = 0
        moved[position] = len(joined)
        joined.append(Unit(start=unit.start, end=unit.end, sort=unit.sort, frames=frames, section=unit.section, place=unit.place))
    return joined
