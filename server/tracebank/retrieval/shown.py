"""One memory as it is shown: quoted between tags, with its origin, and never as instructions.

A stored text that looks like the tag is defused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tracebank.records import Lesson, Outcome, format_time
from tracebank.retrieval.fusion import Ranked
from tracebank.store import StoredTrace

UNSHOWN_TASK_CHARS = 160
PARTS = ("dense", "lexical", "whole", "context", "tokens")
# One run of blanks beside another would be tried in all ways to part them.
_TAG = re.compile(r"<(?=\s*(?:/\s*)?memory\b)", re.IGNORECASE)

Span = tuple[str, int, int, int]
Piece = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One memory as the caller gets it; `parts` are those of the score, `near_equal` the ids of others that say the same."""

    trace_id: str
    namespace: str
    task: str
    outcome: str
    score: float
    lessons: tuple[str, ...]
    excerpt: str
    tags: tuple[str, ...]
    occurred_at: str
    parts: Mapping[str, float]
    near_equal: tuple[str, ...]


@dataclass(slots=True)
class Memory:
    """A memory while its budget is filled."""

    stored: StoredTrace
    ranked: Ranked
    spans: Sequence[Span]
    number: int
    with_namespace: bool
    near_equal: tuple[str, ...] = ()
    unfit: bool = False
    leads: bool = False
    # With what is said after each.
    lessons_to_tell: Sequence[tuple[Lesson, str]] = ()
    # Whether its head has room to say how many of them are left out.
    counts_lessons: bool = False
    task: str = ""
    lessons: list[str] = field(default_factory=list)
    passages: list[Piece] = field(default_factory=list)
    shown: bool = False

    @property
    def opening(self) -> str:
        """What stands before it: whose it is, when it was, how well it fits, and what is left out."""
        trace = self.stored.trace
        where = f' namespace="{_named(trace.namespace)}"' if self.with_namespace else ""
        day = format_time(trace.occurred_at_ms or 0)[:10]
        more = f' near_equal="{len(self.near_equal)} more"' if self.near_equal else ""
        lessons = len(trace.lessons) if self.unfit else len(self.lessons_to_tell)
        if self.counts_lessons and (left_out := lessons - len(self.lessons)):
            more += f' lessons_left_out="{left_out}"'
        return f'<memory id="{_named(trace.trace_id)}"{where} outcome="{trace.outcome}" score="{self.ranked.score:.2f}" date="{day}"{more}>'

    @property
    def task_label(self) -> str:
        """What stands before the task: a failure is a warning."""
        return "Warning, this failed: " if self.stored.trace.outcome == Outcome.FAILURE else "Task: "

    @property
    def excerpt(self) -> str:
        """The chosen passages in reading order, overlaps joined, with a mark where something is left out."""
        content = self.stored.trace.content
        joined: list[list[int]] = []
        for start, end in sorted(self.passages):
            if joined and not content[joined[-1][1] : start].strip():
                joined[-1][1] = max(end, joined[-1][1])
            else:
                joined.append([start, end])
        text = "\n…\n".join(content[start:end].strip() for start, end in joined)
        before, after = (joined and content[: joined[0][0]].strip()), (joined and content[joined[-1][1] :].strip())
        return f"{'… ' if before else ''}{text}{' …' if after else ''}"

    @property
    def text(self) -> str:
        """All that is shown of it, between its tags."""
        lines = [f"{self.task_label}{self.task}", *(f"Lesson: {lesson}" for lesson in self.lessons)]
        if self.passages:
            lines.append(self.excerpt)
        return "\n".join([self.opening, *(quoted(line) for line in lines), "</memory>"])

    @property
    def _parts(self) -> dict[str, float]:
        parts = {part: round(getattr(self.ranked, part), 4) for part in PARTS}
        return {**parts, "reranker": round(self.ranked.reranker, 4)} if self.ranked.reranker else parts

    def result(self, *, shown: bool) -> Result:
        """Return it as the caller gets it; without its text where it is not `shown`."""
        trace = self.stored.trace
        return Result(
            trace_id=trace.trace_id, namespace=trace.namespace, outcome=str(trace.outcome), score=round(self.ranked.score, 4),
            task=self.task if shown else trace.task[:UNSHOWN_TASK_CHARS], lessons=tuple(self.lessons),
            excerpt=self.excerpt if self.passages else "", tags=trace.tags, occurred_at=format_time(trace.occurred_at_ms or 0),
            parts=self._parts, near_equal=self.near_equal,
        )  # fmt: skip


def quoted(text: str) -> str:
    """Return a text in which nothing looks like our tags."""
    return _TAG.sub("&lt;", text)


def _named(name: str) -> str:
    """Return a name as it stands in quotes. No more of it is escaped than would end them: who reads it gives it back as it is."""
    return quoted(name.replace('"', "&quot;"))
