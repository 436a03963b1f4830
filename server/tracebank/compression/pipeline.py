"""The order of the steps, from lossless to lossy. Each one runs only while the text is over the budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

from tracebank.compression.draft import Cut, Draft, Goal, Step, WordModel
from tracebank.compression.extract.relevance import Meaning
from tracebank.compression.extract.rendering import Mark, bare_mark
from tracebank.compression.segments import Kind, Segment, Span, as_code, located, marked_regions, merged_spans, split
from tracebank.compression.steps.boilerplate import without_boilerplate
from tracebank.compression.steps.code import without_comments
from tracebank.compression.steps.distil import distilled
from tracebank.compression.steps.docstrings import first_lines
from tracebank.compression.steps.duplicates import said_once
from tracebank.compression.steps.extract import extracted
from tracebank.compression.steps.head_tail import CODE_BORDERS, TEXT_BORDERS, cut_middle
from tracebank.compression.steps.json_minify import minified
from tracebank.compression.steps.layout import compact
from tracebank.compression.steps.repeats import folded
from tracebank.compression.steps.runs import folded_runs
from tracebank.compression.steps.whitespace import tidied
from tracebank.errors import InputError

if TYPE_CHECKING:
    from tracebank.tokens import Tokenizer

Strategy = Literal["auto", "head_tail", "extract", "code"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

# Hears after each step how much is done, 0 to 1, and the step's name.
Progress = Callable[[float, str], None]

_SHOWN_CHARS = 60


def unheard(share: float, name: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did. Equal numbers: it ran and found nothing to save."""

    name: str
    tokens_before: int
    tokens_after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Compressed:
    """A text within its budget. `steps` is empty when the text fitted and is therefore unchanged.

    `gaps` are the spans of `cut_from` that are left out, in the order of their marks; `cut_from` is the text after the lossless steps.
    """

    text: str
    original_tokens: int
    tokens: int
    tokenizer: str
    steps: tuple[StepReport, ...]
    cut_from: str = ""
    gaps: tuple[Span, ...] = ()


def compress(
    text: str,
    *,
    budget_tokens: int,
    tokenizer: Tokenizer,
    strategy: Strategy = "auto",
    head_ratio: float = 0.6,
    keep: Sequence[str] = (),
    query: str = "",
    meaning: Meaning | None = None,
    ends: tuple[float, float] = (0.2, 0.2),
    mark: Mark = bare_mark,
    marked: bool = False,
    words: WordModel | None = None,
    progress: Progress = unheard,
) -> Compressed:
    """Return `text` in at most `budget_tokens` tokens, each of `keep` in it byte for byte.

    `auto` runs every lossless step, then keeps the units that answer `query` (or say most), and cuts the middle where
    whole units do not fit; `extract` does so at once; `head_tail` only cuts; `code` takes a text without fences as code
    and prefers to cut between its blocks. `meaning` embeds texts; without it words alone decide. `ends` are the shares of
    the budget for instructions at the beginning and the request at the end. With `marked`, what stands between `<keep>`
    and `</keep>` survives, too. Where there is a model of `words`, extraction takes more than fits, and the least telling
    words of that go.

    Raises: InputError if an argument is out of range, or if `keep` is not in the text, or if what must survive does not fit.
    """
    _check(budget_tokens, strategy, head_ratio)
    spans = merged_spans(text, keep, marked_regions(text) if marked else ())
    segments = (Segment(kind=Kind.PROSE, body=text),)
    draft = Draft(segments=segments, text=text, tokens=tokenizer.count(text))
    original_tokens = draft.tokens
    reports: list[StepReport] = []
    if draft.tokens > budget_tokens:
        protected = tuple(text[start:end] for start, end in spans)
        goal = Goal(
            budget_tokens=budget_tokens, tokenizer=tokenizer, head_ratio=head_ratio, protected=protected, query=query, meaning=meaning,
            head_share=ends[0], tail_share=ends[1], mark=mark, words=words,
        )  # fmt: skip
        _check_fit(goal)
        draft = Draft(segments=_segmented(text, strategy, spans), text=text, tokens=draft.tokens)
        draft, reports = _run(_steps(strategy, goal), draft, goal, progress)
    return Compressed(
        text=draft.text,
        original_tokens=original_tokens,
        tokens=draft.tokens,
        tokenizer=tokenizer.name,
        steps=tuple(reports),
        cut_from=text if draft.cut_from is None else draft.cut_from,
        gaps=draft.gaps,
    )


def shortened(text: str, steps: Sequence[Step], tokenizer: Tokenizer) -> tuple[Draft, list[StepReport]]:
    """Run all of the steps on a text, as if there were no end to what has to be saved."""
    goal = Goal(budget_tokens=0, tokenizer=tokenizer, head_ratio=0.5, protected=())
    return _run(steps, Draft(segments=split(text), text=text, tokens=tokenizer.count(text)), goal)


def _run(steps: Sequence[Step], draft: Draft, goal: Goal, progress: Progress = unheard) -> tuple[Draft, list[StepReport]]:
    reports = []
    for number, step in enumerate(steps, 1):
        if draft.tokens <= goal.budget_tokens:
            break
        before = draft.tokens
        draft = _better(draft, step.run(draft, goal), goal)
        reports.append(StepReport(step.name, before, draft.tokens))
        progress(number / len(steps), step.name)
    return draft, reports


def _better(draft: Draft, result: tuple[Segment, ...] | Cut | None, goal: Goal) -> Draft:
    """Return the new draft if it is the shorter one. A shorter text can have more tokens: then the old one stays."""
    if result is None or result == draft.segments:
        return draft
    if isinstance(result, Cut):
        whole = (Segment(kind=Kind.PROSE, body=result.text),)
        tokens = goal.tokenizer.count(result.text)
        after = Draft(segments=whole, text=result.text, tokens=tokens, cut_from=draft.text, gaps=result.gaps)
    else:
        after = Draft.of(result, goal.tokenizer)
    return after if after.tokens < draft.tokens else draft


def _each(change: Callable[[Segment], str], draft: Draft, goal: Goal) -> tuple[Segment, ...]:
    """Apply `change` to the body of every segment, except where that would lose a protected piece."""
    return tuple(_changed(change, segment) for segment in draft.segments)


def _changed(change: Callable[[Segment], str], segment: Segment) -> Segment:
    if segment.kind is Kind.KEPT:
        return segment
    body = change(segment)
    lost = body == segment.body or located(body, segment.protected) is None
    return segment if lost else segment.with_body(body)


LOSSLESS = (
    Step("whitespace", partial(_each, tidied)),
    Step("json", partial(_each, minified)),
    Step("code_comments", partial(_each, without_comments)),
    Step("repeated_lines", partial(_each, folded)),
    Step("layout", partial(_each, compact)),
    Step("duplicates", said_once),
    Step("docstrings", partial(_each, first_lines)),
)

# What loses only what nobody asks for. It runs once nothing else is left to save without loss.
LEAST_LOSS = (Step("runs", partial(_each, folded_runs)), Step("boilerplate", partial(_each, without_boilerplate)))

_EXTRACTION = (Step("llmlingua", distilled), Step("extract", extracted), Step("head_tail", partial(cut_middle, TEXT_BORDERS)))

# The last step of each must reach the budget whatever it is given.
_STEPS: dict[Strategy, tuple[Step, ...]] = {
    "auto": (*LOSSLESS, *LEAST_LOSS, *_EXTRACTION),
    "extract": _EXTRACTION,
    "head_tail": (Step("head_tail", partial(cut_middle, TEXT_BORDERS)),),
    "code": (LOSSLESS[2], LOSSLESS[-1], Step("head_tail", partial(cut_middle, CODE_BORDERS))),
}


def _steps(strategy: Strategy, goal: Goal) -> tuple[Step, ...]:
    return tuple(step for step in _STEPS[strategy] if step.run is not distilled or goal.words is not None)


def _segmented(text: str, strategy: Strategy, spans: Sequence[tuple[int, int]]) -> tuple[Segment, ...]:
    if strategy in ("head_tail", "extract"):
        return (Segment(kind=Kind.PROSE, body=text),)
    segments = split(text, spans)
    if strategy == "code" and not any(segment.opening for segment in segments):
        return (as_code(text, spans),)
    return segments


def _check(budget_tokens: int, strategy: str, head_ratio: float) -> None:
    if budget_tokens < 1:
        raise InputError("max_tokens", f"must be 1 or more, not {budget_tokens}")
    if strategy not in STRATEGIES:
        offered = ", ".join(STRATEGIES)
        raise InputError("strategy", f"must be one of {offered}, not {strategy[:_SHOWN_CHARS]!r}")
    if not 0 <= head_ratio <= 1:
        raise InputError("head_ratio", f"must be 0 to 1, not {head_ratio}")


def _check_fit(goal: Goal) -> None:
    needed = goal.tokenizer.count("".join(goal.protected))
    if needed > goal.budget_tokens:
        message = f"needs {needed:,} tokens, the budget is {goal.budget_tokens:,}: raise max_tokens or keep less"
        raise InputError("keep", message)
