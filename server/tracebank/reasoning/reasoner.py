"""Think, recall, draft, judge, refine; contrast the attempts, keep the best answer, and remember what they teach.

After ReasoningBank's memory-aware test-time scaling (Ouyang et al. 2025, arXiv:2509.25140): several attempts side by
side are contrasted, and one is refined in sequence. A provider that fails midway costs the rest, never what was drafted.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from anyio import to_thread

from tracebank.errors import LlmError, TracebankError
from tracebank.lasting import Lasting
from tracebank.learning.model_lessons import lessons_in
from tracebank.llm import Completion, LlmClient, Request
from tracebank.metrics import Metrics
from tracebank.reasoning import prompts
from tracebank.reasoning.attempts import Attempt, Draft, Verdict, best_of
from tracebank.reasoning.progress import Listener, Progress
from tracebank.reasoning.prompts import Briefing
from tracebank.reasoning.remembering import Bill, as_trace, parent_among
from tracebank.reasoning.request import Assignment, parse_assignment
from tracebank.records import Lesson, Limits, Trace
from tracebank.retrieval import Page
from tracebank.settings import ReasoningSettings
from tracebank.store import Added

log = logging.getLogger(__name__)

# What is known about these questions, in this namespace, in at most so many tokens of text.
Recall = Callable[[Sequence[str], str, int], Awaitable[Page]]
# Stores a trace the engine's own way, and runs a write with its row in the same transaction.
Keep = Callable[[Trace, Callable[[sqlite3.Connection, Added], None]], Awaitable[Added]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasoned:
    """The best answer, and how it was come by.

    `draft` has the verdict on it. `trace_id` None: it could not be stored, and `notes` say why, as they do of every
    part that is missing. `seq` is the last entry of its trace in the outbox.
    """

    draft: Draft
    drafts: int
    lessons: tuple[str, ...]
    memories: tuple[str, ...]
    notes: tuple[str, ...]
    bill: Bill
    trace_id: str | None = None
    seq: int | None = None


@dataclass(slots=True)
class _Run:
    """One call while it runs. What is in it when time is up, or a provider fails, is what there is."""

    assignment: Assignment
    progress: Progress
    attempts: list[Attempt]
    deadline: float
    briefing: Briefing
    memories: Page | None = None
    bill: Bill = field(default_factory=Bill)
    notes: list[str] = field(default_factory=list)


class Reasoner:
    """Works on tasks with the configured language models."""

    def __init__(
        self, *, llm: LlmClient, keep: Keep, settings: ReasoningSettings, limits: Limits, metrics: Metrics, new_id: Callable[[], str]
    ) -> None:
        self._llm, self._keep, self._settings, self._limits = llm, keep, settings, limits
        self._metrics, self._new_id = metrics, new_id
        self._storing = Lasting()

    async def close(self) -> None:
        """Finish what is being stored."""
        await self._storing.settled()

    async def reason(self, raw: Mapping[str, Any], *, namespace: str, recall: Recall, listener: Listener | None = None) -> Reasoned:
        """Return the best answer within the time there is; it is remembered as a trace.

        Who cancels ends everything, and nothing is stored.
        Raises: InputError, and LlmError or StoreError where not even one draft could be had.
        """
        assignment = parse_assignment(raw, limits=self._limits, defaults=self._settings, namespace=namespace)
        run = self._begin(assignment, listener)
        try:
            async with asyncio.timeout_at(run.deadline):
                await self._brief(run, recall)
                async with asyncio.TaskGroup() as group:
                    for attempt in run.attempts:
                        group.create_task(self._pursue(run, attempt))
        except TimeoutError:
            run.notes.append(f"stopped after {self._settings.timeout_s:g} s (setting reasoning.timeout_s)")
        run.notes += [f"attempt {a.number} ended early: {a.error}" for a in run.attempts if a.error is not None]
        self._check_any(run)
        best, lessons = await self._contrast(run)
        if best.cut:
            run.notes.append("the answer is cut off at its end: raise the provider's max_output_tokens, or ask for less at a time")
        return await self._remembered(run, best, lessons)

    def _begin(self, assignment: Assignment, listener: Listener | None) -> _Run:
        # Think, recall, contrast, remember; and for each draft one step to write it and one to judge it.
        steps = 4 + 2 * assignment.candidates * assignment.iterations
        return _Run(
            assignment=assignment,
            progress=Progress(steps, listener),
            attempts=[Attempt(number) for number in range(1, assignment.candidates + 1)],
            deadline=asyncio.get_running_loop().time() + self._settings.timeout_s,
            briefing=Briefing(task=assignment.task),
        )

    def _check_any(self, run: _Run) -> None:
        if any(attempt.drafts for attempt in run.attempts):
            return
        for attempt in run.attempts:
            if attempt.error is not None:
                raise attempt.error
        raise LlmError(
            f"no draft after {self._settings.timeout_s:g} s: raise reasoning.timeout_s, or ask a faster model; nothing was stored"
        )

    # -- the steps ----------------------------------------------------------------------------------------------

    async def _brief(self, run: _Run, recall: Recall) -> None:
        """Plan, and read what is known. An answer without a plan, or without memories, is better than none."""
        assignment = run.assignment
        questions = [assignment.task]
        await run.progress.step("thinking")
        try:
            with _ours_told("thinking"):
                thought = (await self._ask(run, "think", prompts.think(assignment.task))).value
            questions += [question[: self._limits.query_chars] for question in thought["questions"] if question.strip()]
            run.briefing = replace(run.briefing, plan=thought["plan"])
        except TracebankError as error:
            run.notes.append(f"no plan: {error}")
        await run.progress.step("recalling")
        try:
            with _ours_told("recalling"):
                run.memories = await recall(questions, assignment.namespace, self._settings.memory_tokens)
        except TracebankError as error:
            run.notes.append(f"no memories: {error}")
        if run.memories is not None and run.memories.results:
            run.briefing = replace(run.briefing, memories=run.memories.text)

    async def _pursue(self, run: _Run, attempt: Attempt) -> None:
        """Draft, judge and refine until the judge is content. Whatever ends it, the drafts stay."""
        iterations = run.assignment.iterations
        try:
            with _ours_told(f"attempt {attempt.number}"):
                for number in range(1, iterations + 1):
                    await self._draft(run, attempt, number)
                    verdict = attempt.drafts[-1].verdict
                    if verdict is not None and verdict.satisfied:
                        break
        except TracebankError as error:
            attempt.error = error
        # A draft that never came has cost its step of writing.
        unwritten = attempt.error is not None and (not attempt.drafts or attempt.drafts[-1].verdict is not None)
        run.progress.skip(2 * (iterations - len(attempt.drafts)) - unwritten)

    async def _draft(self, run: _Run, attempt: Attempt, number: int) -> None:
        candidates = run.assignment.candidates
        of = f"attempt {attempt.number}, draft {number}"
        await run.progress.step(f"{of}: writing")
        first = not attempt.drafts
        request = prompts.draft(run.briefing, attempt.number, candidates) if first else prompts.refine(run.briefing, attempt.best)
        written = await self._ask(run, "draft" if first else "refine", request)
        # It is here before it is judged: a judge that fails does not take it away.
        attempt.drafts.append(Draft(text=written.text, cut=written.truncated))
        await run.progress.step(f"{of}: judging")
        said = (await self._ask(run, "judge", prompts.judge(run.briefing, attempt.drafts[-1]))).value
        verdict = Verdict(score=float(said["score"]), satisfied=said["satisfied"], problems=tuple(said["problems"]))
        attempt.drafts[-1] = replace(attempt.drafts[-1], verdict=verdict)

    async def _contrast(self, run: _Run) -> tuple[Draft, tuple[Lesson, ...]]:
        """Return the best draft of all, and what the attempts teach together."""
        attempts = [attempt for attempt in run.attempts if attempt.drafts]
        await run.progress.step("contrasting")
        try:
            async with asyncio.timeout_at(run.deadline):
                with _ours_told("contrasting"):
                    said = (await self._ask(run, "contrast", prompts.distil(run.briefing, attempts))).value
        except TimeoutError:
            run.notes.append("no lessons: there was no time left to contrast the drafts")
        except TracebankError as error:
            run.notes.append(f"no lessons: {error}")
        else:
            source = "\n".join([run.briefing.task, run.briefing.memories, *map(prompts.told, attempts)])
            lessons = await to_thread.run_sync(lessons_in, said["lessons"], source, self._limits)
            return best_of(attempts, said.get("best")), lessons
        return best_of(attempts), ()

    async def _remembered(self, run: _Run, best: Draft, lessons: Sequence[Lesson]) -> Reasoned:
        found = run.memories.results if run.memories is not None else ()
        reasoned = Reasoned(
            draft=best,
            drafts=sum(len(attempt.drafts) for attempt in run.attempts),
            lessons=tuple(lesson.text for lesson in lessons),
            memories=tuple(result.trace_id for result in found),
            notes=tuple(run.notes),
            bill=run.bill,
        )
        trace = as_trace(
            self._new_id(), run.assignment, run.briefing.plan, run.attempts, best, lessons,
            parent_id=parent_among(found), memories=reasoned.memories, bill=run.bill, limits=self._limits,
        )  # fmt: skip
        await run.progress.step("remembering")
        try:
            # It is one transaction, and what follows it must not be left out because somebody cancels now.
            added = await self._storing.run(self._stored(trace))
        except TracebankError as error:
            # The answer was paid for.
            return replace(reasoned, notes=(*reasoned.notes, f"not remembered: {error}"))
        return replace(reasoned, trace_id=trace.trace_id, seq=added.seq)

    async def _stored(self, trace: Trace) -> Added:
        return await self._keep(trace, lambda db, added: None)

    async def _ask(self, run: _Run, step: str, request: Request) -> Completion:
        with self._metrics.timed(f"reason_{step}"):
            completion = await self._llm.query_with_fallback(request)
        run.bill = run.bill.plus(completion)
        return completion


@contextmanager
def _ours_told(step: str) -> Iterator[None]:
    """Let a fault of our own end its step and no more: what others drafted was paid for. The log has it. Raises: LlmError in its place."""
    try:
        yield
    except TracebankError:
        raise
    except Exception as error:
        log.exception("%s failed", step)
        raise LlmError(f"it failed within ({type(error).__name__}): the log says where") from error
