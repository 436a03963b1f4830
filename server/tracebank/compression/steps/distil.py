"""Words that a model calls dispensable: LLMLingua-2, behind an extraction that takes more than fits.

A token classifier, trained on what a language model left out of texts, says of each word how likely it is to be kept
(Pan et al., "LLMLingua-2", ACL 2024). Coarse before fine, as in LongLLMLingua: whole units first, for it sees no question.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from tracebank.compression.draft import Cut, Draft, Goal
from tracebank.compression.json_text import json_spans
from tracebank.compression.languages import guess
from tracebank.compression.segments import Span, fences, located, merged, touching
from tracebank.compression.steps.extract import extracted

# Below this share of the words a text is no longer read with ease.
KEPT_SHARE = 0.6
# Numbers are what nobody can guess, marks and lines are structure.
_NEVER = re.compile(r"\d|…|\A\W+\Z")


def distilled(draft: Draft, goal: Goal) -> Cut | None:
    """Return what extraction leaves of a budget that is larger by as much as words can go, without these words.

    None where that does not reach the budget, or where all of it is code whose language shows without a fence: each word of it counts.
    """
    if goal.words is None or guess(draft.text):
        return None
    wide = replace(goal, budget_tokens=int(goal.budget_tokens / KEPT_SHARE))
    cut = Cut(text=draft.text, gaps=()) if draft.tokens <= wide.budget_tokens else extracted(draft, wide)
    if cut is None:
        return None
    text = _within(cut.text, _dispensable(cut.text, goal), goal)
    return None if text is None or located(text, goal.protected) is None else Cut(text=text, gaps=cut.gaps)


def _dispensable(text: str, goal: Goal) -> list[Span]:
    """Return the words that may go, the most dispensable first, never fenced code, JSON or what is protected."""
    assert goal.words is not None
    blocks = ((fence.start, fence.end) for fence in fences(text))
    fixed = merged([*(located(text, goal.protected) or ()), *blocks, *json_spans(text, 0, len(text))])
    words = [(chance, start, end) for start, end, chance in goal.words(text) if not _NEVER.search(text[start:end])]
    return [(start, end) for _, start, end in sorted(words) if not touching(fixed, start, end)]


def _within(text: str, words: Sequence[Span], goal: Goal) -> str | None:
    """Return the text without as few of the words as need to go; None where all of them are not enough."""
    low, high = 0, len(words)
    if goal.tokenizer.count(_without(text, words)) > goal.budget_tokens:
        return None
    while low < high:
        middle = (low + high) // 2
        if goal.tokenizer.count(_without(text, words[:middle])) <= goal.budget_tokens:
            high = middle
        else:
            low = middle + 1
    return _without(text, words[:low])


def _without(text: str, words: Sequence[Span]) -> str:
    """Return the text without these words, each with the blanks before it."""
    out = []
    at = 0
    for start, end in sorted(words):
        out.append(text[at:start].rstrip(" ") if start > at else "")
        at = end
    return "".join([*out, text[at:]])
