"""Lessons that belong together: found, told where one is shown, and taken back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import WAIT_S, TinyModel, settings_of, settled, tiny_vector

from tracebank.engine import Engine, Session
from tracebank.learning.consolidation import cluster, consolidate, evidence_of, told
from tracebank.records import Lesson, Outcome
from tracebank.store import lesson_groups, traces
from tracebank.store.lesson_groups import Group, KnownLesson

SAME = "Wait for the event before you read the file"


def known(row: int, content: str, outcome: Outcome = Outcome.SUCCESS, *, task: str = "read a file", ordinal: int = 0) -> KnownLesson:
    """Return a lesson as the store knows it, with the vectors of the tiny model."""
    return KnownLesson(
        key=(row, ordinal), trace_id=f"t{row}", outcome=outcome, lesson=Lesson(content=content),
        vector=tiny_vector(content), task_vector=tiny_vector(task),
    )  # fmt: skip


def test_within_a_cluster_any_two_are_as_near_as_asked() -> None:
    """Complete linkage: a chain of neighbours is no cluster."""
    angles = [0.0, 0.3, 0.6, 0.9]
    vectors = [np.array([np.cos(a), np.sin(a)], np.float32) for a in angles]
    labels = cluster(vectors, min_cosine=float(np.cos(0.35)))
    for i, a in enumerate(vectors):
        for j, b in enumerate(vectors):
            assert labels[i] != labels[j] or float(a @ b) >= np.cos(0.35)
    assert len(set(labels)) == 2
    assert cluster([], min_cosine=0.5) == []
    assert cluster(vectors[:1], min_cosine=0.5) == [0]


def test_lessons_of_the_same_words_in_several_traces_are_equal() -> None:
    """In whatever case and spacing, and without vectors, too; one trace alone is no evidence."""
    lessons = [known(1, SAME), known(2, SAME.upper()), known(3, "Something else"), known(4, "Own"), known(4, "Own", ordinal=1)]
    assert consolidate(lessons) == [("equal", ((1, 0), (2, 0)))]
    assert consolidate([replace(lesson, vector=None, task_vector=None) for lesson in lessons]) == [("equal", ((1, 0), (2, 0)))]


def test_lessons_that_differ_in_a_name_a_number_or_a_not_are_never_equal() -> None:
    """However alike their vectors are."""
    for other in (f"{SAME} not", f"{SAME} 2", f"{SAME} `x`"):
        twin = replace(known(2, other), vector=known(1, SAME).vector)
        assert consolidate([known(1, SAME), twin]) == []


def test_lessons_of_like_tasks_that_ended_in_opposite_ways_are_contrary() -> None:
    """Each failure's beside the nearest success's; other situations, and outcomes that nobody knows, do not count."""
    good, bad = known(1, "Read the file with the lock held"), known(2, "Read the file with the lock free", Outcome.FAILURE)
    assert consolidate([good, bad]) == [("contrary", ((1, 0), (2, 0)))]
    assert consolidate([good, replace(bad, task_vector=tiny_vector("bake bread"))]) == []
    assert consolidate([good, replace(bad, outcome=Outcome.UNKNOWN)]) == []


def test_a_lesson_that_successes_and_failures_share_is_evidence_and_contrary_to_nothing() -> None:
    """Least of all to itself."""
    lessons = [known(1, SAME), known(2, SAME, Outcome.FAILURE), known(3, SAME)]
    assert consolidate(lessons) == [("equal", ((1, 0), (2, 0), (3, 0)))]


def test_a_page_tells_a_lesson_once_with_its_evidence() -> None:
    """With the first memory that has it; whoever is contrary stands beside it."""
    group = Group(number=1, kind="equal", members=(known(1, SAME), known(2, SAME, Outcome.FAILURE), known(3, SAME)))
    assert evidence_of(group) == "(learned in 3 traces: 2 success, 1 failure)"
    assert told([group], [3, 9, 1]) == {(3, 0): evidence_of(group), (1, 0): None}
    contrary = Group(number=2, kind="contrary", members=(known(1, SAME), known(2, "Never wait", Outcome.FAILURE)))
    assert told([contrary], [1]) == {(1, 0): "(but in a like task that ended in failure, trace t2: Never wait)"}
    assert told([], [1]) == {}


@pytest.fixture
async def engine(tmp_path: Path, tiny: object) -> AsyncIterator[Engine]:
    """An engine with a tiny model, that consolidates only when it is asked to."""
    async with Engine.open(settings_of(tmp_path)) as opened:
        yield opened


@pytest.fixture
def session(engine: Engine) -> Session:
    """A client of it."""
    return engine.session()


async def three_equal(engine: Engine, session: Session) -> None:
    """Store the same lesson three times and bring it together."""
    for number in range(3):
        await engine.add({"task": f"read file {number}", "lessons": [SAME], "outcome": "success", "trace_id": f"t{number}"}, session)
    await settled(engine)
    await engine.learner.consolidator.consolidate()


async def shown(engine: Engine, session: Session) -> list[str]:
    """Return the lessons that a search shows."""
    found = await engine.retrieve({"query": "read file"}, session)
    assert all(lesson in found.page.text for result in found.page.results for lesson in result.lessons)
    return [lesson for result in found.page.results for lesson in result.lessons]


@pytest.mark.anyio
async def test_equal_lessons_are_shown_once_and_their_traces_stay_as_they_are(engine: Engine, session: Session) -> None:
    """Nothing that was stored changes; the report tells what was done."""
    await three_equal(engine, session)
    assert engine.learner.consolidator.last["groups"] == {"equal": 1}
    assert await shown(engine, session) == [f"{SAME} (learned in 3 traces: 3 success)"]
    for number in range(3):
        stored = await engine.trace(f"t{number}", session)
        assert stored is not None
        assert [lesson.content for lesson in stored.trace.lessons] == [SAME]


@pytest.mark.anyio
async def test_consolidation_can_be_taken_back_for_good(engine: Engine, session: Session) -> None:
    """It is not done again, until there is new evidence."""
    await three_equal(engine, session)
    assert await engine.learner.consolidator.undo() == 1
    assert await shown(engine, session) == [SAME] * 3
    await engine.learner.consolidator.consolidate()
    assert await shown(engine, session) == [SAME] * 3
    await engine.add({"task": "read file 4", "lessons": [SAME], "trace_id": "t4"}, session)
    await engine.learner.consolidator.consolidate()
    assert await shown(engine, session) == [f"{SAME} (learned in 4 traces: 3 success, 1 unknown)"]


@pytest.mark.anyio
async def test_a_lesson_that_is_changed_or_forgotten_leaves_its_group(engine: Engine, session: Session) -> None:
    """The others are still told."""
    await three_equal(engine, session)
    await engine.add({"task": "read file 0", "lessons": ["Changed"], "trace_id": "t0"}, session)
    assert sorted(await shown(engine, session)) == ["Changed", f"{SAME} (learned in 2 traces: 2 success)"]
    await engine.forget(lambda db: [g.members[0].key[0] for g in lesson_groups.every(db)])
    assert sorted(await shown(engine, session)) == ["Changed", SAME]


@pytest.mark.anyio
async def test_what_was_taken_back_stays_so_when_a_trace_is_updated_beside_its_lessons(engine: Engine, session: Session) -> None:
    """A tag is no new evidence; and a group that is in force is told all the time."""
    await three_equal(engine, session)
    tagged = {"task": "read file 0", "lessons": [SAME], "outcome": "success", "trace_id": "t0", "tags": ["new"]}
    await engine.add(tagged, session)
    assert await shown(engine, session) == [f"{SAME} (learned in 3 traces: 3 success)"]
    await engine.learner.consolidator.undo()
    await engine.add({**tagged, "tags": ["newer"]}, session)
    await settled(engine)
    await engine.learner.consolidator.consolidate()
    assert await shown(engine, session) == [SAME] * 3


@pytest.mark.anyio
async def test_lessons_too_old_to_be_looked_at_stay_in_their_group_and_new_ones_join_it(
    engine: Engine, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many are looked at is a matter of time, not of what is known."""
    monkeypatch.setattr("tracebank.learning.consolidator.MAX_LESSONS", 2)
    await engine.add({"task": "read file 0", "lessons": [SAME], "trace_id": "t0"}, session)
    await engine.add({"task": "read file 1", "lessons": [SAME], "trace_id": "t1"}, session)
    await engine.learner.consolidator.consolidate()
    (group,) = await engine.store.read(lesson_groups.every)
    await engine.add({"task": "bake bread", "lessons": ["Let the dough rest", "Heat the oven"], "trace_id": "t2"}, session)
    await engine.learner.consolidator.consolidate()
    assert [one.number for one in await engine.store.read(lesson_groups.every)] == [group.number]
    await engine.add({"task": "read file 1", "lessons": [SAME], "trace_id": "t1", "tags": ["again"]}, session)
    await engine.add({"task": "read file 3", "lessons": [SAME], "trace_id": "t3"}, session)
    monkeypatch.setattr("tracebank.learning.consolidator.MAX_LESSONS", 4)
    await engine.learner.consolidator.consolidate()
    (group,) = await engine.store.read(lesson_groups.every)
    assert [member.trace_id for member in group.members] == ["t0", "t1", "t3"]


@pytest.mark.anyio
async def test_groups_whose_lessons_are_gone_are_counted_no_more(engine: Engine, session: Session) -> None:
    """A namespace that was emptied has none."""
    await three_equal(engine, session)
    await engine.forget(lambda db: [member.key[0] for group in lesson_groups.every(db) for member in group.members])
    report = await engine.learner.consolidator.consolidate()
    assert (report["lessons"], report["groups"]) == (0, {})


@pytest.mark.anyio
async def test_what_was_stored_right_before_an_engine_ended_is_looked_at_by_the_next(tmp_path: Path, tiny: object) -> None:
    """Without anything new."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        for number in range(2):
            await engine.add({"task": f"t{number}", "lessons": [SAME]}, engine.session())
    async with Engine.open(settings_of(tmp_path, learning={"consolidate_after_s": 0.01})) as engine:
        await grouped(engine, {"equal": 1})


@pytest.mark.anyio
async def test_lessons_are_looked_at_when_they_have_their_vectors(tmp_path: Path, tiny: TinyModel) -> None:
    """However short the quiet time is: contrary lessons are known by their vectors alone."""
    async with Engine.open(settings_of(tmp_path, learning={"consolidate_after_s": 0.01})) as engine:
        await settled(engine)
        tiny.gate.clear()
        for number, (outcome, lesson) in enumerate((("success", "Read it with the lock held"), ("failure", "Read it with the lock free"))):
            await engine.add({"task": "read a file", "lessons": [lesson], "outcome": outcome, "trace_id": f"t{number}"}, engine.session())
        tiny.gate.set()
        await grouped(engine, {"contrary": 1})


@pytest.mark.anyio
async def test_an_engine_without_meaning_takes_no_group_apart(tmp_path: Path, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sees lessons of the same words alone, and knows nothing anew of the others."""
    lessons = {"success": "Read it with the lock held", "failure": "Read it with the lock free"}
    async with Engine.open(settings_of(tmp_path)) as engine:
        for outcome, lesson in lessons.items():
            await engine.add({"task": "read a file", "lessons": [lesson], "outcome": outcome, "trace_id": outcome}, engine.session())
        await settled(engine)
        await engine.learner.consolidator.consolidate()
        consolidator = engine.learner.consolidator
        model, consolidator.model_id = consolidator.model_id, None
        await engine.add({"task": "write", "lessons": [lessons["failure"]], "trace_id": "again"}, engine.session())
        assert (await consolidator.consolidate())["groups"] == {"contrary": 1, "equal": 1}
        assert model is not None
        assert not consolidator._news.is_set()
        consolidator.attach(model)
        assert consolidator._news.is_set()


@pytest.mark.anyio
@pytest.mark.parametrize("changed", [{"outcome": "success"}, {"task": "bake bread"}])
async def test_a_lesson_whose_trace_ended_otherwise_after_all_is_contrary_to_nothing(
    engine: Engine, session: Session, changed: dict[str, str]
) -> None:
    """At once: whether it still is, is found again."""
    for outcome, lesson in (("success", "Read it with the lock held"), ("failure", "Read it with the lock free")):
        await engine.add({"task": "read a file", "lessons": [lesson], "outcome": outcome, "trace_id": outcome}, session)
    await settled(engine)
    assert (await engine.learner.consolidator.consolidate())["groups"] == {"contrary": 1}
    updated = {"task": "read a file", "lessons": ["Read it with the lock free"], "outcome": "failure", "trace_id": "failure"}
    await engine.add({**updated, "tags": ["new"]}, session)
    assert await engine.store.read(lesson_groups.counts) == {"contrary": 1}
    await engine.add({**updated, **changed}, session)
    assert await engine.store.read(lesson_groups.counts) == {}


@pytest.mark.anyio
async def test_a_lesson_that_was_not_looked_at_joins_those_that_most_of_its_like_are_among(engine: Engine, session: Session) -> None:
    """And no second group: its evidence would count twice."""
    for number in range(6):
        await engine.add({"task": f"t{number}", "lessons": [f"Lesson {number}"], "trace_id": f"t{number}"}, session)
    rows = await engine.store.read(lambda db: traces.rows_of(db, [f"t{number}" for number in range(6)]))
    keys = [(row, 0) for row in rows]

    async def replaced(groups: list[Any], among: list[Any]) -> list[list[str]]:
        await engine.store.write(lambda db: lesson_groups.replace(db, 1, groups, among=among, now_ms=1))
        return [[member.trace_id for member in group.members] for group in await engine.store.read(lesson_groups.every)]

    assert await replaced([("equal", keys[:4])], keys) == [["t0", "t1", "t2", "t3"]]
    apart = [("equal", [keys[1], keys[2], keys[4]]), ("equal", [keys[3], keys[5]])]
    assert await replaced(apart, keys[1:]) == [["t0", "t1", "t2", "t4"], ["t3", "t5"]]


async def grouped(engine: Engine, expected: dict[str, int]) -> None:
    """Wait until there are such groups."""
    changed = asyncio.Event()
    loop = asyncio.get_running_loop()
    engine.store.versions.on_change = lambda: loop.call_soon_threadsafe(changed.set)
    async with asyncio.timeout(WAIT_S):
        while await engine.store.read(lesson_groups.counts) != expected:
            await changed.wait()
            changed.clear()


@pytest.mark.anyio
async def test_it_is_done_by_itself_when_nobody_calls(tmp_path: Path, tiny: object) -> None:
    """After something was stored; a search in between puts it off."""
    settings: dict[str, Any] = {"consolidate_after_s": 0.05}
    async with Engine.open(settings_of(tmp_path, learning=settings)) as engine:
        done = asyncio.Event()
        consolidator = engine.learner.consolidator
        consolidate = consolidator.consolidate

        async def tell() -> dict[str, Any]:
            report = await consolidate()
            if report["groups"]:
                done.set()
            return report

        consolidator.consolidate = tell  # type: ignore[method-assign]
        for number in range(2):
            await engine.add({"task": f"t{number}", "lessons": [SAME]}, engine.session())
        async with asyncio.timeout(WAIT_S):
            await done.wait()
        assert await engine.store.read(lesson_groups.counts) == {"equal": 1}


@pytest.mark.anyio
async def test_what_is_grouped_already_makes_no_answer_unusable(engine: Engine, session: Session) -> None:
    """Groups that are found again stay as they are; of others only those change that are not the same any more."""
    for number in range(2):
        await engine.add({"task": f"t{number}", "lessons": [SAME], "trace_id": f"{number}"}, session)
    # An index that catches up makes a version, too.
    await settled(engine)
    await engine.learner.consolidator.consolidate()
    (before,) = await engine.store.read(lesson_groups.every)
    versions = engine.store.versions.latest
    await engine.learner.consolidator.consolidate()
    assert engine.store.versions.latest == versions
    await engine.add({"task": "t2", "lessons": [SAME], "trace_id": "2"}, session)
    await engine.learner.consolidator.consolidate()
    (after,) = await engine.store.read(lesson_groups.every)
    assert (len(before.members), len(after.members)) == (2, 3)
    assert after.number != before.number
