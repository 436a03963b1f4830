"""Filling a token budget with pieces of what was found.

Passages go in by their value, whichever memory they are from, and a memory is opened, with its lessons, by its first:
so a small budget holds what is said about the question, not the heads of everything found.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tracebank.records import Detail
from tracebank.retrieval.passages import pieces
from tracebank.retrieval.shown import Memory, Piece, quoted

if TYPE_CHECKING:
    from tracebank.tokens import Tokenizer

CONCISE_TASK_TOKENS, CONCISE_LESSON_TOKENS = 120, 160
CONCISE_LESSONS, CONCISE_PASSAGES = 4, 8
# A task of fewer tokens says nothing.
LEAST_TASK_TOKENS = 5
# So many memories in a row of which an offer finds no room: what comes is worth less, and counting its tokens costs time. Of one
# memory so many offers in a row: another one has shorter pieces.
PATIENCE, PATIENCE_WITH_ONE = 8, 3
# Patterns may have one part in so many of a budget.
PATTERNS_SHARE = 8
PATTERNS = "Seen in these: "


# A memory and a piece of it; None: it has none that was found.
_Offer = tuple[Memory, Piece | None]


class Filler:
    """Adds pieces to memories while there is room, by the sum of the pieces' tokens."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, detail: Detail, head: Sequence[str]) -> None:
        self._tokenizer, self._max_tokens, self._concise = tokenizer, max_tokens, detail == "concise"
        self._left = max_tokens - sum(self._cost(line) for line in head)
        self._any_shown = False
        self._without_room = sys.maxsize

    def fill(self, memories: Sequence[Memory], patterns: Sequence[str]) -> tuple[list[Memory], list[str]]:
        """Return the memories that are shown, best first, each with what there was room for, and the patterns."""
        patterns = self._add_patterns(patterns)
        # What is put aside for the others' sake may still find room behind them.
        self._show(self._show(self._offers(memories), patience=PATIENCE_WITH_ONE), patience=PATIENCE)
        shown = [memory for memory in memories if memory.shown]
        return shown, patterns if shown else []

    def _show(self, offers: Sequence[_Offer], *, patience: int) -> list[_Offer]:
        """Show what there is room for. Returns what was put aside, because so many of the same memory in a row found none."""
        aside: list[_Offer] = []
        failures: Counter[int] = Counter()
        for memory, piece in offers:
            # Where there is no room for the best, what fits less is not shown in its place.
            if not self._any_shown and memory.number > self._without_room:
                continue
            if failures[memory.number] == patience:
                aside.append((memory, piece))
                continue
            fits = (memory.shown or self._open(memory, piece)) and (piece is None or self._add_passage(memory, piece))
            if not self._any_shown:
                self._without_room = min(self._without_room, memory.number)
            if fits:
                failures.clear()
                continue
            failures[memory.number] += 1
            if len(failures) == PATIENCE:
                break
        return aside

    def _add_patterns(self, patterns: Sequence[str]) -> list[str]:
        """Return the first patterns, in a small share of the budget: they say much in few words, but the memories are the evidence."""
        room = self._max_tokens // PATTERNS_SHARE
        shown: list[str] = []
        for line in patterns:
            if (cost := self._cost(f"{PATTERNS}{line}\n")) > room:
                break
            room, self._left = room - cost, self._left - cost
            shown.append(line)
        return shown

    def _offers(self, memories: Sequence[Memory]) -> list[_Offer]:
        """Return what could be shown, the most valuable first: a passage as its memory and its chunk promise together.

        Before all else comes the best of each memory that leads: its score is that of another question.
        """
        offers: list[tuple[bool, float, int, int, Memory, Piece | None]] = []
        for memory in memories:
            score, passages = memory.ranked.score, memory.ranked.passages
            found = pieces(memory.stored.trace.content, self._chunks(memory))
            offers += [
                (i > 0 or not memory.leads, -score - value, memory.number, start, memory, (start, end))
                for i, (value, start, end) in enumerate(found)
            ]
            if not found:
                value = max((value for _, value in passages), default=0.0)
                offers.append((not memory.leads, -score - value, memory.number, 0, memory, None))
        return [(memory, piece) for *_, memory, piece in sorted(offers, key=lambda offer: offer[:4])]

    def _chunks(self, memory: Memory) -> list[tuple[float, int, int]]:
        """Return the scored chunks of the content: those found, best first, or its beginning."""
        spans, passages = memory.spans, memory.ranked.passages
        found = [(value, spans[i][2], spans[i][3]) for i, value in passages if i < len(spans) and spans[i][0] == "content"]
        beginning = [(0.0, start, end) for part, _, start, end in spans if part == "content"][:1]
        return found[: CONCISE_PASSAGES if self._concise else None] or beginning

    def _open(self, memory: Memory, piece: Piece | None) -> bool:
        """Begin to show a memory: its head and its lessons. Not for its head alone, unless it is the first."""
        memory.task = self._clipped(memory.stored.trace.task, CONCISE_TASK_TOKENS)
        head = self._head(memory)
        if head > self._left and not self._any_shown:
            # The beginning of the best one is worth more than all of a shorter one that fits less.
            task, memory.task = memory.task, ""
            if (room := self._left - self._head(memory) - 2) >= LEAST_TASK_TOKENS:
                memory.task = self._cut(task, room)
                # Quoted it may be longer than it is.
                if (over := self._head(memory) - self._left) > 0:
                    memory.task = self._cut(task, max(1, room - over))
                head = self._head(memory)
        alone = piece is None or memory.number == 1 or memory.lessons_to_tell
        if head + (0 if alone else self._cost(memory.stored.trace.content[slice(*piece or ())])) > self._left:
            return False
        self._left -= head
        memory.shown = self._any_shown = True
        self._add_lessons(memory)
        memory.counts_lessons = True
        if len(memory.lessons) < len(memory.lessons_to_tell):
            if (counting := self._head(memory) - head) > self._left:
                memory.counts_lessons = False
            else:
                self._left -= counting
        return True

    def _head(self, memory: Memory) -> int:
        return self._tokenizer.count(f"{memory.opening}\n{quoted(memory.task_label + memory.task)}\n</memory>\n") + 1

    def _add_lessons(self, memory: Memory) -> None:
        for lesson, remark in memory.lessons_to_tell[: CONCISE_LESSONS if self._concise else None]:
            said = lesson.below(memory.stored.trace.task)
            text = " ".join([self._clipped(said, CONCISE_LESSON_TOKENS), *([remark] if remark else [])])
            if self._take(f"Lesson: {text}\n"):
                memory.lessons.append(text)

    def _add_passage(self, memory: Memory, piece: Piece) -> bool:
        content = memory.stored.trace.content
        joins = any(not content[min(piece[1], end) : max(piece[0], start)].strip() for start, end in memory.passages[-1:])
        if not self._take(content[slice(*piece)] + ("\n" if joins else "\n…\n")):
            return False
        memory.passages.append(piece)
        return True

    def _clipped(self, text: str, tokens: int) -> str:
        tokens = tokens if self._concise else self._max_tokens
        return self._cut(text, max(1, min(tokens, self._max_tokens // 2)))

    def _cut(self, text: str, tokens: int) -> str:
        # A token is at least one character, so a short text needs no count.
        if len(text) <= tokens or self._tokenizer.count(text) <= tokens:
            return text
        return self._tokenizer.head(text, tokens).rstrip() + " …"

    def _cost(self, text: str) -> int:
        # Quoted it is longer.
        return self._tokenizer.count(quoted(text)) + 1

    def _take(self, piece: str) -> bool:
        cost = self._cost(piece)
        if cost > self._left:
            return False
        self._left -= cost
        return True
