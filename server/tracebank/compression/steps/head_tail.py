"""Cut the middle of a text: the one step that always reaches the budget."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tracebank.compression.draft import Cut, Draft, Goal
from tracebank.compression.segments import Region, Span, fences, located


@dataclass(frozen=True, slots=True)
class Border:
    """A place to cut, and how far from the exact place it may be: a share of the piece, at least `chars`, half of it at most."""

    pattern: re.Pattern[str]
    share: float
    chars: int

    def reach(self, length: int) -> int:
        """Return how many characters of a piece may be given up to end it here."""
        return min(max(self.chars, int(length * self.share)), length // 2)


_LINE = Border(re.compile(r"\n"), 0.04, 0)
_WORD = Border(re.compile(r"\s"), 0.0, 24)
# A line that begins at the margin and closes nothing opens a block.
_CODE_BLOCK = Border(re.compile(r"\n(?=[^\s)\]}])"), 0.3, 0)
_CODE_LINE = Border(re.compile(r"\n"), 0.1, 120)

TEXT_BORDERS = (_LINE, _WORD)
CODE_BORDERS = (_CODE_BLOCK, _CODE_LINE, _WORD)

_MARKS = ("[… {:,} tokens cut …]", "…", "")
_MARK_SHARE = 0.25
_ROUNDS = 6
_NEAR_ENOUGH = 0.03
_FLAG_LETTERS = "".join(map(chr, range(0x1F1E6, 0x1F200)))


def cut_middle(borders: Sequence[Border], draft: Draft, goal: Goal) -> Cut:
    """Keep the head, the protected pieces and the tail, `goal.budget_tokens` or fewer in all.

    `head_ratio` of what the protected pieces and the marks leave goes to the head. The result is counted as a whole;
    as long as it is too long, head and tail shrink.
    """
    spans = located(draft.text, goal.protected) or []
    mark = _affordable_mark(draft, goal, spans)
    ends = _Ends(draft=draft, goal=goal, spans=spans, mark=mark, borders=borders, fences=tuple(fences(draft.text)))
    text, kept = ends.best()
    return Cut(text=text, gaps=tuple(_between(kept, len(draft.text))))


def _between(spans: Sequence[Span], end: int) -> Iterator[Span]:
    at = 0
    for start, stop in (*spans, (end, end)):
        if start > at:
            yield at, start
        at = stop


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ends:
    draft: Draft
    goal: Goal
    spans: Sequence[Span]
    mark: str
    borders: Sequence[Border]
    fences: Sequence[Region]

    def best(self) -> tuple[str, Sequence[Span]]:
        """Return the longest text found that fits, and the spans in it; the protected pieces alone always do."""
        budget, count = self.goal.budget_tokens, self.goal.tokenizer.count
        best = _rendered(self.draft, self.goal, self.spans, self.mark)
        best_tokens, best_spans = count(best), self.spans
        allowance = budget - best_tokens
        for _ in range(_ROUNDS):
            spans = self._with_ends(allowance)
            text = _rendered(self.draft, self.goal, spans, self.mark)
            tokens = count(text)
            if best_tokens <= tokens <= budget:
                best, best_tokens, best_spans = text, tokens, spans
            # What the ends share with protected pieces is free, so there may be room for more.
            if budget * (1 - _NEAR_ENOUGH) <= tokens <= budget:
                break
            allowance += budget - tokens
            if allowance <= 0:
                break
        return best, best_spans

    def _with_ends(self, allowance: int) -> list[Span]:
        text, tokenizer = self.draft.text, self.goal.tokenizer
        head_tokens = round(allowance * self.goal.head_ratio)
        tail_tokens = allowance - head_tokens
        head = len(tokenizer.head(text, head_tokens)) if head_tokens else 0
        tail = len(text) - len(tokenizer.tail(text, tail_tokens)) if tail_tokens else len(text)
        head, tail = self._head_end(head), self._tail_start(tail)
        return _merged([span for span in ((0, head), (tail, len(text)), *self._fencing(head, tail), *self.spans) if span[0] < span[1]])

    def _head_end(self, end: int) -> int:
        """Return where the head ends: within fenced code between blocks, or before it, unless that gave up half of the head."""
        text, fence = self.draft.text, self._fence_at(end)
        if fence is None:
            return _head_end(text, end, self.borders)
        found = [match.end() for match in _CODE_BLOCK.pattern.finditer(text, fence.body_start, end + 1) if match.end() <= end]
        border = found[-1] if found else fence.start
        return border if 2 * border >= end else _head_end(text, end, CODE_BORDERS)

    def _tail_start(self, start: int) -> int:
        """Return where the tail begins: within fenced code between blocks, or behind it, unless that gave up half of the tail."""
        text, fence = self.draft.text, self._fence_at(start)
        if fence is None:
            return _tail_start(text, start, self.borders)
        found = _CODE_BLOCK.pattern.search(text, start - 1, fence.body_end)
        border = found.end() if found else fence.end
        return border if 2 * (len(text) - border) >= len(text) - start else _tail_start(text, start, CODE_BORDERS)

    def _fence_at(self, at: int) -> Region | None:
        """Return the block of fenced code that a cut at this place would go through."""
        number = bisect_left(self.fences, at, key=lambda fence: fence.end)
        fence = self.fences[number] if number < len(self.fences) else None
        return fence if fence and fence.start < at < fence.end else None

    def _fencing(self, *cuts: int) -> Iterator[Span]:
        """Yield the lines that open and close each block that is cut through: an end of it may lack either, or a part of one."""
        for fence in filter(None, map(self._fence_at, cuts)):
            yield fence.start, fence.body_start
            yield fence.body_end, fence.end


def _affordable_mark(draft: Draft, goal: Goal, spans: Sequence[Span]) -> str:
    """Return the longest mark that takes at most a quarter of the budget, "" if none does."""
    count = goal.tokenizer.count
    bare = count("".join(goal.protected))
    for mark in _MARKS[:-1]:
        marked = count(_rendered(draft, goal, spans, mark))
        if marked <= goal.budget_tokens and marked - bare <= goal.budget_tokens * _MARK_SHARE:
            return mark
    return _MARKS[-1]


def _rendered(draft: Draft, goal: Goal, spans: Sequence[Span], mark: str) -> str:
    """Join the pieces of the text in `spans`, with a mark for each gap that tells how many tokens are missing."""
    text = draft.text
    kept = [text[start:end] for start, end in spans]
    if not mark:
        return "".join(kept)
    cut_chars = len(text) - sum(map(len, kept))
    cut_tokens = draft.tokens - sum(map(goal.tokenizer.count, kept))
    out: list[str] = []
    at = 0
    for (start, end), piece in zip((*spans, (len(text), len(text))), (*kept, ""), strict=True):
        if start > at:
            # One gap: exact. Several: shared out by their length.
            missing = max(1, round(cut_tokens * (start - at) / cut_chars))
            out.append(_on_its_own_line(mark.format(missing), "".join(out[-1:]), piece))
        out.append(piece)
        at = end
    return "".join(out)


def _on_its_own_line(mark: str, before: str, after: str) -> str:
    start = "\n" if before and not before.endswith("\n") else ""
    return f"{start}{mark}\n" if after and not after.startswith("\n") else f"{start}{mark}"


def _merged(spans: list[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _head_end(text: str, end: int, borders: Sequence[Border]) -> int:
    """Return the last border shortly before `end`, else `end`."""
    if 0 < end < len(text):
        for border in borders:
            start = max(1, end - border.reach(end))
            # One character more, for a pattern that looks at what follows.
            found = [match.end() for match in border.pattern.finditer(text, start - 1, end + 1) if match.end() <= end]
            if found:
                return found[-1]
    return _between_characters(text, end, -1)


def _tail_start(text: str, start: int, borders: Sequence[Border]) -> int:
    """Return the first border shortly after `start`, else `start`."""
    length = len(text) - start
    if 0 < length < len(text):
        for border in borders:
            end = min(len(text) - 1, start + border.reach(length))
            found = border.pattern.search(text, start - 1, end + 1)
            if found and found.end() < len(text):
                return found.end()
    return _between_characters(text, start, 1)


def _between_characters(text: str, at: int, step: int) -> int:
    """Move away from the middle of what is seen as one character (an emoji sequence, a flag, an accented letter), a few places at most."""
    moved = at
    for _ in range(12):
        if not 0 < moved < len(text) or not _is_inside(text, moved):
            return moved
        moved += step
    return at


def _is_inside(text: str, at: int) -> bool:
    """Tell whether the character before a place goes on behind it."""
    if text[at] in _FLAG_LETTERS:
        # Two make a flag, so it depends on how many stand before.
        return (at - len(text[:at].rstrip(_FLAG_LETTERS))) % 2 == 1
    return text[at - 1] == "\u200d" or _joins(text[at])


def _joins(char: str) -> bool:
    return (
        char == "\u200d"
        or "\U0001f3fb" <= char <= "\U0001f3ff"
        or "\U000e0020" <= char <= "\U000e007f"
        or unicodedata.category(char) in ("Mn", "Mc", "Me")
    )
