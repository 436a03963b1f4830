"""Kinds of episodes: found in idle time, joined by what comes later, told with how often they went well."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import TinyModel, settings_of, settled, tiny_vector

from tracebank.engine import Engine, Session
from tracebank.learning.kinds import figures, joining, line, new_kinds, told
from tracebank.records import Outcome
from tracebank.store import kinds
from tracebank.store.kinds import Example, Kind

SUCCESS, FAILURE, PARTIAL, UNKNOWN = Outcome.SUCCESS, Outcome.FAILURE, Outcome.PARTIAL, Outcome.UNKNOWN


def example(row: int, task: str) -> Example:
    """Return a row with the vector of a task."""
    return Example(row=row, vector=tiny_vector(task))


def kind(*outcomes: Outcome, efforts: tuple[int, ...] = ()) -> Kind:
    """Return a kind whose episodes ended so."""
    return Kind(number=1, task="Renew the certificate", outcomes=outcomes, efforts=efforts)


def test_episodes_join_the_kind_they_are_most_like_and_none_where_they_are_like_none() -> None:
    """By cosine with the example alone."""
    known = [example(10, "renew the old certificate of the shop"), example(20, "pay the customer back the double charge now")]
    news = [
        example(1, "renew the old certificate of the desk"),
        example(2, "label birds"),
        example(3, "pay the customer back the double charge today"),
    ]
    assert joining(news, known) == {1: 10, 3: 20}
    assert joining(news, []) == joining([], known) == {}


def test_those_that_are_like_each_other_begin_a_kind_and_the_one_in_the_middle_is_its_example() -> None:
    """One alone is no kind."""
    news = [
        example(1, "a b c d e f g h i x"),
        example(2, "a b c d e f g h i j"),
        example(3, "a b c d e f g h i j"),
        example(4, "q r s t u v w y z k"),
    ]
    assert new_kinds(news) == [(2, [1, 2, 3])]
    assert new_kinds([]) == new_kinds(news[3:]) == []


def test_within_a_kind_any_two_are_alike() -> None:
    """A chain of small differences does not make one kind of two."""
    angles = np.arange(0, 1.6, 0.2)
    chain = [Example(row=i, vector=np.array([np.cos(a), np.sin(a)], np.float32)) for i, a in enumerate(angles)]
    for _, members in new_kinds(chain):
        vectors = np.stack([chain[row].vector for row in members])
        assert (vectors @ vectors.T).min() >= 0.85 - 1e-6


def test_a_kind_is_told_with_how_often_it_went_well_and_in_how_many_steps() -> None:
    """A partial success is half of one; how an unknown one ended nobody knows."""
    assert line(kind(SUCCESS, SUCCESS, PARTIAL, FAILURE, UNKNOWN, efforts=(4, 9, 6))) == (
        "tasks like “Renew the certificate” (2.5 of 4 episodes succeeded, usually in 6 steps)"
    )
    assert line(kind(SUCCESS, SUCCESS, SUCCESS, efforts=(1,))).endswith("usually in 1 step)")
    assert figures(kind(SUCCESS, FAILURE, UNKNOWN)) == {"task": "Renew the certificate", "episodes": 3, "success_rate": 0.5}
    assert figures(kind(UNKNOWN, UNKNOWN))["success_rate"] is None


def test_only_the_first_kind_on_a_page_is_told_and_only_with_evidence() -> None:
    """It is what the question is about; two cases are no rate."""
    often, seldom = kind(SUCCESS, SUCCESS, FAILURE), kind(SUCCESS, FAILURE, UNKNOWN)
    assert told({5: often, 7: seldom}, [4, 5, 7]) == [line(often)]
    assert told({5: often, 7: seldom}, [7, 5]) == []
    assert told({}, [1]) == []


# -- in the engine ----------------------------------------------------------------------------------------------------


@pytest.fixture
async def session(tmp_path: Path, tiny: TinyModel) -> AsyncIterator[Session]:
    """A client of an engine with a tiny model."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        yield engine.session()


async def episode(session: Session, task: str, outcome: str = "success", steps: int = 2) -> str:
    """Log and complete an episode; returns the id of its trace."""
    logged = [{"action": f"act_{number}()", "observation": "done", "ok": True} for number in range(steps)]
    opened = await session.engine.log_steps({"task": task, "steps": logged}, session)
    return str((await session.engine.complete_episode({"episode_id": opened.episode_id, "outcome": outcome}, session)).trace_id)


async def sorted_in(session: Session) -> int:
    """Consolidate, and return how many episodes have found their kind."""
    await settled(session.engine)
    return int((await session.engine.learner.consolidator.consolidate())["episodes_sorted_in"])


async def patterns(session: Session, query: str) -> list[str]:
    """Return what a search tells of the memories together, of tasks like the one asked for."""
    page = (await session.engine.retrieve({"query": query}, session)).page
    assert all(f"Seen in these: {pattern}" in page.text for pattern in page.patterns)
    return [pattern for pattern in page.patterns if pattern.startswith("tasks like")]


async def known(session: Session) -> dict[str, Any]:
    """Return what `stats` tells."""
    figures_: dict[str, Any] = (await session.engine.learner.figures())["kinds_of_episodes"]
    return figures_


TASK = "renew the long lived certificate of the shop in the east for desk"


@pytest.mark.anyio
async def test_near_equal_episodes_are_told_as_a_kind_and_later_ones_join(session: Session) -> None:
    """What was sorted in stays so; a second run looks at what is new only."""
    for number, outcome in enumerate(("success", "success", "failure")):
        await episode(session, f"{TASK} {number}", outcome)
    await episode(session, "label photographs with species names")
    assert await patterns(session, f"{TASK} 7") == []
    assert await sorted_in(session) == 3
    (told_of,) = await patterns(session, f"{TASK} 7")
    assert told_of.endswith("(2 of 3 episodes succeeded, usually in 2 steps)")
    assert await sorted_in(session) == 0
    await episode(session, f"{TASK} 8", "partial", steps=3)
    assert await sorted_in(session) == 1
    (told_of,) = await patterns(session, f"{TASK} 9")
    assert told_of.endswith("(2.5 of 4 episodes succeeded, usually in 2 steps)")
    figures_ = await known(session)
    assert (figures_["kinds"], figures_["episodes"]) == (1, 4)
    assert [(one["episodes"], one["success_rate"]) for one in figures_["largest"]] == [(4, 0.625)]


@pytest.mark.anyio
async def test_an_episode_whose_trace_is_about_another_task_now_is_of_no_kind(session: Session) -> None:
    """A kind that it was the example of is sorted anew."""
    ids = [await episode(session, f"{TASK} {number}") for number in range(4)]
    assert await sorted_in(session) == 4
    for number, trace_id in enumerate(ids):
        await session.engine.add({"trace_id": trace_id, "task": f"{TASK} {number}", "outcome": "failure"}, session)
    assert await sorted_in(session) == 0
    await session.engine.add({"trace_id": ids[0], "task": "bake a plum cake", "outcome": "success"}, session)
    assert await patterns(session, "bake a plum cake") == []
    await sorted_in(session)
    assert (await known(session))["episodes"] == 3


@pytest.mark.anyio
async def test_a_trace_that_is_no_episode_is_of_no_kind(session: Session) -> None:
    """Nobody knows what was done for it."""
    for number in range(3):
        await session.engine.add({"task": f"{TASK} {number}", "outcome": "success"}, session)
    assert await sorted_in(session) == 0


@pytest.mark.anyio
async def test_what_is_forgotten_counts_no_more_and_without_its_example_a_kind_is_sorted_anew(session: Session) -> None:
    """No word of it is told any longer."""
    for number in range(5):
        await episode(session, f"{TASK} {number}", "success" if number else "failure")
    assert await sorted_in(session) == 5
    engine = session.engine
    (example_row,) = [row for (row,) in await engine.store.read(lambda db: db.execute("SELECT example FROM kinds").fetchall())]
    assert await engine.forget(lambda db: [example_row]) == 1
    assert await patterns(session, TASK) == []
    assert await engine.store.read(kinds.counts) == {"kinds": 0, "episodes": 0}
    assert await sorted_in(session) == 4
    (told_of,) = await patterns(session, TASK)
    assert "of 4 episodes succeeded" in told_of


@pytest.mark.anyio
async def test_namespaces_have_kinds_of_their_own(session: Session) -> None:
    """One tenant's successes are nobody else's."""
    other = session.engine.session("other")
    for number in range(2):
        await episode(session, f"{TASK} {number}")
        await episode(other, f"{TASK} {number}")
    assert await sorted_in(session) == 4
    assert (await known(session))["kinds"] == 2
