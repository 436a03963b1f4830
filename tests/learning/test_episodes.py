"""Episodes in the engine: the real store, journal and indexes, and a tiny model where meaning would be."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from samples import WAIT_S, TinyModel, settings_of, settled

from tracebank.engine import Engine, Session
from tracebank.errors import InputError, StoreError, StoreFullError
from tracebank.learning import Attempt, Episode, Episodes, Reflection
from tracebank.operations import import_lines
from tracebank.records import Lesson, parse_trace
from tracebank.store import episodes, patterns, traces

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("tiny")]

BAD = {"action": "run_tests()", "observation": "ModuleNotFoundError: No module named 'x'", "ok": False}
FIX = {"action": "pip install x", "observation": "installed", "ok": True, "duration_ms": 20}
GOOD = {"action": "run_tests()", "observation": "12 passed", "ok": True, "thought": "That was it."}
LATE: dict[str, Any] = {"flush_s": 3_000.0, "flush_steps": 10_000}


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    """An engine that stores steps only when it is asked to."""
    async with Engine.open(settings_of(tmp_path, learning=LATE)) as opened:
        yield opened


@pytest.fixture
def session(engine: Engine) -> Session:
    """A client of it."""
    return engine.session()


async def episode_of(session: Session, *steps: dict[str, Any], task: str = "Make the tests pass") -> str:
    """Log an episode and return its id."""
    episode_id = (await session.engine.log_steps({"task": task}, session)).episode_id
    for step in steps:
        await session.engine.log_steps({"episode_id": episode_id, "steps": [step]}, session)
    return episode_id


async def complete(session: Session, episode_id: str, outcome: str = "success", **said: Any) -> Any:
    """Complete an episode."""
    return await session.engine.complete_episode({"episode_id": episode_id, "outcome": outcome, **said}, session)


async def commits(engine: Engine) -> int:
    """Return how many commits there have been."""
    return int((await engine.store.read(engine.store.figures))["commits"])  # type: ignore[call-overload]


async def test_steps_are_buffered_until_they_are_stored(engine: Engine, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while they are on their way: who waits until none is buffered finds them in the store."""
    await episode_of(session, BAD, FIX)
    entered, gate = asyncio.Event(), asyncio.Event()
    write = engine.store.write

    async def slowly(action: Any) -> Any:
        entered.set()
        await gate.wait()
        return await write(action)

    monkeypatch.setattr(engine.store, "write", slowly)
    log = engine.learner.episodes.step_log
    flushing = asyncio.create_task(log.flush())
    async with asyncio.timeout(WAIT_S):
        await entered.wait()
    assert log.buffered_steps == 2
    gate.set()
    await flushing
    assert log.buffered_steps == 0


async def test_steps_that_cannot_be_stored_stay_buffered(engine: Engine, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever on the way it fails, the next time takes them all."""
    episode_id = await episode_of(session, BAD, FIX)
    log = engine.learner.episodes.step_log

    def fail() -> Any:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(log._journal, "rotate", fail)
        with pytest.raises(OSError, match="no space left"):
            await log.flush()
    assert log.buffered_steps == 2
    await log.flush()
    assert len(await engine.store.read(lambda db: episodes.steps_of(db, episode_id))) == 2


async def test_steps_logged_one_by_one_share_a_commit(engine: Engine, session: Session) -> None:
    """Those of all sessions; and none is made before one is due."""
    await settled(engine)
    before = await commits(engine)
    other = engine.session("other")
    for one in (session, other):
        await episode_of(one, BAD, FIX, GOOD)
    assert (await commits(engine), engine.learner.episodes.step_log.buffered_steps) == (before, 6)
    await engine.learner.episodes.step_log.flush()
    assert (await commits(engine), engine.learner.episodes.step_log.buffered_steps) == (before + 1, 0)


@pytest.mark.parametrize("learning", [{**LATE, "flush_steps": 3}, {**LATE, "flush_s": 0.05}], ids=["steps", "timer"])
async def test_steps_are_stored_by_themselves_when_they_are_many_or_old(tmp_path: Path, learning: dict[str, Any]) -> None:
    """Nobody has to ask; the journal is empty afterwards."""
    async with Engine.open(settings_of(tmp_path, learning=learning)) as engine:
        episode_id = await episode_of(engine.session(), BAD, FIX, GOOD)
        async with asyncio.timeout(WAIT_S):
            await engine.learner.episodes.step_log.stored.wait()
        assert len(await engine.store.read(lambda db: episodes.steps_of(db, episode_id))) == 3
        assert not list((tmp_path / "data" / "journal").iterdir())


async def test_steps_that_cannot_be_stored_wait_and_are_stored_later(
    engine: Engine, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in the journal all the time, in their order."""

    def full(*_: object) -> None:
        raise StoreFullError("no space left")

    with monkeypatch.context() as broken:
        broken.setattr("tracebank.store.episodes.put", full)
        episode_id = await episode_of(session, BAD)
        with pytest.raises(StoreFullError):
            await engine.learner.episodes.step_log.flush()
        await engine.log_steps({"episode_id": episode_id, "steps": [FIX]}, session)
        assert engine.learner.episodes.step_log.buffered_steps == 2
    await engine.learner.episodes.step_log.flush()
    stored = await engine.store.read(lambda db: episodes.steps_of(db, episode_id))
    assert [step.action for step in stored] == [BAD["action"], FIX["action"]]
    assert not list((engine.settings.data_dir / "journal").iterdir())


# The index is being opened meanwhile, so its files come and go; it is built from the store.
LEFT_OUT = shutil.ignore_patterns("*.lock", "*.sock", "index")


async def test_steps_that_only_the_journal_has_are_there_after_a_kill(tmp_path: Path) -> None:
    """A copy of the directory, as it is at that moment, is what a kill leaves behind."""
    async with Engine.open(settings_of(tmp_path, learning=LATE)) as engine:
        episode_id = await episode_of(engine.session("mine"), BAD, FIX)
        shutil.copytree(tmp_path / "data", tmp_path / "killed" / "data", ignore=LEFT_OUT)
    async with Engine.open(settings_of(tmp_path / "killed", learning=LATE)) as engine:
        assert engine.learner.episodes.step_log.open[episode_id].steps == 2
        session = engine.session("another")
        await engine.log_steps({"episode_id": episode_id, "steps": [GOOD]}, session)
        completed = await complete(session, episode_id)
        stored = await engine.trace(completed.trace_id, session)
        assert stored is not None
        assert stored.trace.namespace == "mine"
        assert [part in stored.trace.content for part in ("Step 1 (failed): run_tests()", "Step 2", "Step 3 (ok)")] == [True] * 3


async def test_a_record_of_another_shape_in_the_journal_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A newer version may have written it; the others are taken, and the engine starts."""
    async with Engine.open(settings_of(tmp_path, learning=LATE)) as engine:
        episode_id = await episode_of(engine.session(), BAD, FIX)
        shutil.copytree(tmp_path / "data", tmp_path / "killed" / "data", ignore=LEFT_OUT)
    (segment,) = (tmp_path / "killed" / "data" / "journal").iterdir()
    first, *others = segment.read_text().splitlines(keepends=True)
    newer = json.loads(others[-1])
    newer["steps"][0]["mood"] = "good"
    odd = [{"namespace": [1]}, {"task": 5}, {"task": "\ud800"}, {"first": 2**64}, {"at_ms": "1"}, {"steps": [{"action": {}}]}]
    odd += [{"steps": [{"action": "a", "ok": "yes"}]}, {"steps": [{"action": "a", "duration_ms": []}]}]
    lines = [newer, ["steps"], {}, *(json.loads(first) | fields for fields in odd)]
    segment.write_text("".join([first, *others[:-1], *(json.dumps(line) + "\n" for line in lines)]))
    async with Engine.open(settings_of(tmp_path / "killed", learning=LATE)) as engine:
        assert engine.learner.episodes.step_log.open[episode_id].steps == 1
    assert [record.message.count("of another shape: it is left out") for record in caplog.records if "shape" in record.message] == [1] * 11


async def test_an_episode_that_is_open_when_its_engine_leaves_is_open_in_the_next(tmp_path: Path) -> None:
    """With the same limits as before."""
    async with Engine.open(settings_of(tmp_path, learning=LATE)) as engine:
        episode_id = await episode_of(engine.session(), BAD)
        before = engine.learner.episodes.step_log.open[episode_id]
    async with Engine.open(settings_of(tmp_path, learning=LATE)) as engine:
        after = engine.learner.episodes.step_log.open[episode_id]
        assert (after.steps, after.bytes, after.task) == (before.steps, before.bytes, before.task)


async def test_a_completed_episode_is_a_trace_like_any_other(engine: Engine, session: Session) -> None:
    """With lessons, reward and every word of its steps; it is found, exported and imported."""
    completed = await complete(session, await episode_of(session, BAD, FIX, GOOD), lessons=["Mine."])
    stored = await engine.trace(completed.trace_id, session)
    assert stored is not None
    trace = stored.trace
    assert trace.lessons[0].content == "Mine."
    assert "do `pip install x` and repeat it" in trace.lessons[1].content
    assert all(step[part] in trace.content for step in (BAD, FIX, GOOD) for part in ("action", "observation"))
    assert (trace.tags, trace.metadata["reward"], trace.metadata["errors"]) == (("episode",), completed.reward, 1)
    assert set(completed.reward_parts) == {"outcome", "efficiency", "errors", "recovery", "novelty"}
    found = await engine.retrieve({"query": "tests that do not pass"}, session)
    assert [result.trace_id for result in found.page.results] == [completed.trace_id]
    row = json.loads(json.dumps(trace.as_json()))
    assert parse_trace(row, limits=engine.limits, namespace="x", trace_id="x") == trace


async def test_the_id_of_an_open_episode_is_kept_for_its_own_memory(engine: Engine, session: Session) -> None:
    """What is stored under it would be replaced without a word; in another namespace it is another memory's."""
    episode_id = await episode_of(session, GOOD)
    own = {"trace_id": episode_id, "task": "Mine"}
    problem = f"trace_id: '{episode_id}' is an open episode: end it with complete_episode, or leave trace_id out"
    with pytest.raises(InputError, match=f"^{problem}$"):
        await engine.add(own, session)
    assert [event async for event in import_lines(session, [(7, json.dumps(own))])] == [{"stored": 0, "new": 0, "errors": [[7, problem]]}]
    assert (await engine.add({**own, "namespace": "other"}, session)).status == "created"
    await complete(session, episode_id)
    assert (await engine.add(own, session)).status == "updated"


async def test_what_the_caller_says_wins(engine: Engine, session: Session) -> None:
    """Reward and summary; the parts of the reward are still told."""
    completed = await complete(session, await episode_of(session, GOOD), reward=0.125, summary="All went well.")
    stored = await engine.trace(completed.trace_id, session)
    assert stored is not None
    assert completed.reward == stored.trace.metadata["reward"] == 0.125
    assert completed.reward_parts["outcome"] == 1
    assert stored.trace.content.startswith("All went well.\n\nStep 1")


async def test_completing_twice_is_completing_once(engine: Engine, session: Session) -> None:
    """One after the other or at the same time; the second answer is the first one's. What would be lost is refused."""
    episode_id = await episode_of(session, BAD, FIX, GOOD)
    first, second = await asyncio.gather(*(complete(session, episode_id, lessons=["Mine."]) for _ in range(2)))
    third = await complete(session, episode_id)
    assert (first.trace_id, first.reward, first.lessons) == (second.trace_id, second.reward, second.lessons)
    assert third == second
    new: list[tuple[str, dict[str, Any]]] = [
        ("failure", {}), ("success", {"lessons": ["Mine.", "Another one."]}),
        ("success", {"summary": "It was DNS."}), ("success", {"reward": 0.0}),
    ]  # fmt: skip
    for outcome, said in new:
        advice = rf"is complete already, as success: nothing of this call was kept\. Add .* with add_trace and parent_id {episode_id}"
        with pytest.raises(InputError, match=advice):
            await complete(session, episode_id, outcome, **said)
    assert await engine.store.read(lambda db: traces.count(db, engine.spaces["default"])) == 1


async def test_who_repeats_a_summary_and_a_reward_of_their_own_gets_the_answer_again(session: Session) -> None:
    """They are not new."""
    episode_id, said = await episode_of(session, GOOD), {"summary": "It was DNS.", "reward": 0.1}
    assert await complete(session, episode_id, **said) == replace(await complete(session, episode_id, **said), seq=ANY)


async def test_a_call_that_is_repeated_gets_its_answer_also_when_the_memory_was_updated(session: Session) -> None:
    """It is compared with what was said the first time."""
    first = await complete(session, episode_id := await episode_of(session, GOOD), "partial")
    await session.engine.add({"trace_id": episode_id, "task": "Better known", "outcome": "success"}, session)
    again = await complete(session, episode_id, "partial")
    assert (again.trace_id, again.reward, again.lessons) == (first.trace_id, first.reward, first.lessons)


async def test_an_abandoned_episode_whose_steps_are_gone_keeps_its_memory(tmp_path: Path) -> None:
    """What an agent says of it later does not take the place of what was done in it."""
    now = [1_000_000.0]
    async with Engine.open(settings_of(tmp_path, learning=LATE), clock=lambda: now[0]) as engine:
        episode_id = await given_up(engine, now, BAD, FIX)
        await engine.store.write(lambda db: db.execute("DELETE FROM steps"))
        before = await engine.trace(episode_id, engine.session())
        with pytest.raises(InputError, match="is complete already, as unknown"):
            await complete(engine.session(), episode_id)
        assert await engine.trace(episode_id, engine.session()) == before


async def test_an_empty_or_bad_episode_is_kept_with_a_low_reward(session: Session) -> None:
    """Never refused."""
    empty = await complete(session, await episode_of(session), "failure")
    bad = await complete(session, await episode_of(session, *[BAD] * 5, task="Something else"), "failure")
    good = await complete(session, await episode_of(session, GOOD, task="A third thing"))
    assert max(empty.reward, bad.reward) < good.reward


class Broken:
    """A reflector that fails, or never comes back."""

    def __init__(self, name: str, *, hangs: bool = False) -> None:
        self.name, self._hangs = name, hangs

    async def reflect(self, attempt: Attempt) -> Reflection:
        """Fail."""
        if self._hangs:
            await asyncio.Event().wait()
        raise RuntimeError("the provider is down")


class Deeper:
    """A reflector that knows more than the steps show."""

    name = "deeper"

    async def reflect(self, attempt: Attempt) -> Reflection:
        """Return one lesson."""
        return Reflection(lessons=(Lesson(content=f"Deep: {attempt.task}."),))


async def test_a_part_that_fails_is_told_and_the_others_stand(tmp_path: Path) -> None:
    """Whoever reflects beside the one who reads the steps: his failure costs his own lessons only."""
    settings = settings_of(tmp_path, learning={**LATE, "reflection_timeout_s": 0.2})
    async with Engine.open(settings) as engine:
        engine.reflectors[:0] = [Broken("model"), Broken("slow", hangs=True), Deeper()]
        session = engine.session()
        completed = await complete(session, await episode_of(session, BAD, FIX, GOOD))
        assert dict(completed.problems) == {
            "reflection_model": "RuntimeError: the provider is down",
            "reflection_slow": "took longer than 0.2 s",
        }
        assert completed.lessons[0] == "Deep: Make the tests pass."
        assert "pip install x" in completed.lessons[1]
        assert {"episode_reward", "episode_summary", "episode_reflection_steps"} <= engine.metrics.latencies().keys()


async def test_a_completion_that_cannot_be_stored_leaves_the_episode_open(
    engine: Engine, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be completed later, with every step."""
    episode_id = await episode_of(session, BAD, FIX)

    def full(*_: object) -> None:
        raise StoreFullError("no space left")

    with monkeypatch.context() as broken:
        broken.setattr("tracebank.store.episodes.close", full)
        with pytest.raises(StoreFullError):
            await complete(session, episode_id)
    assert await engine.trace(episode_id, session) is None
    await engine.log_steps({"episode_id": episode_id, "steps": [GOOD]}, session)
    assert (await complete(session, episode_id)).trace_id == episode_id


async def test_a_caller_that_gives_up_does_not_undo_a_completion(engine: Engine, session: Session) -> None:
    """The episode is complete, or open; never both."""
    episode_id = await episode_of(session, BAD, FIX, GOOD)
    call = asyncio.ensure_future(complete(session, episode_id))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await engine.learner.episodes._endings.settled()
    assert (episode_id in engine.learner.episodes.step_log.open) is (await engine.trace(episode_id, session) is None)


async def test_steps_for_an_episode_that_is_not_open_are_refused_with_the_way_on(session: Session) -> None:
    """Unknown, complete, or with another task."""
    engine = session.engine
    episode_id = await episode_of(session, GOOD)
    with pytest.raises(InputError, match=r"^task: is not that of this episode"):
        await engine.log_steps({"episode_id": episode_id, "task": "Other", "steps": [GOOD]}, session)
    await complete(session, episode_id)
    with pytest.raises(InputError, match=rf"^episode_id: '{episode_id}' is complete, and its memory is trace://{episode_id}"):
        await engine.log_steps({"episode_id": episode_id, "steps": [GOOD]}, session)
    with pytest.raises(InputError, match=r"^episode_id: 'e9' is not known: leave it out, and give a task"):
        await engine.log_steps({"episode_id": "e9", "steps": [GOOD]}, session)
    with pytest.raises(InputError, match=r"^episode_id: 'e9' is not known: take it from the answer of log_steps"):
        await complete(session, "e9")


async def test_an_episode_has_room_for_what_a_trace_can_hold(engine: Engine, session: Session) -> None:
    """What is beyond is refused whole, and what is within can be completed."""
    episode_id = await episode_of(session)
    chunk = [{"action": "read()", "observation": "\N{SNOWMAN}" * 20_000}] * 16
    await engine.log_steps({"episode_id": episode_id, "steps": chunk}, session)
    with pytest.raises(InputError, match=r"^steps: an episode has at most 1,008,576 bytes, and this one has 961,376: complete it"):
        await engine.log_steps({"episode_id": episode_id, "steps": chunk[:1]}, session)
    completed = await complete(session, episode_id, summary="\N{SNOWMAN}" * 8_000)
    stored = await engine.trace(completed.trace_id, session)
    assert stored is not None
    assert parse_trace(stored.trace.as_json(), limits=engine.limits, namespace="x", trace_id="x") == stored.trace


@pytest.fixture
def abandoned(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """An event that is set when an episode has been given up."""
    done, abandon = asyncio.Event(), Episodes._abandon

    async def tell(self: Episodes, episode: Episode) -> None:
        await abandon(self, episode)
        done.set()

    monkeypatch.setattr(Episodes, "_abandon", tell)
    return done


async def test_an_abandoned_episode_is_closed_as_unknown(tmp_path: Path, abandoned: asyncio.Event) -> None:
    """At the next start, if its time has come meanwhile; with what its steps teach."""
    now = [1_000_000.0]
    async with Engine.open(settings_of(tmp_path, learning=LATE), clock=lambda: now[0]) as engine:
        episode_id = await episode_of(engine.session(), BAD, FIX, GOOD)
    now[0] += 86_400.0
    async with Engine.open(settings_of(tmp_path, learning=LATE), clock=lambda: now[0]) as engine:
        async with asyncio.timeout(WAIT_S):
            await abandoned.wait()
        assert not engine.learner.episodes.step_log.open
        stored = await engine.trace(episode_id, engine.session())
        assert stored is not None
        assert (str(stored.trace.outcome), stored.trace.tags) == ("unknown", ("episode", "abandoned"))
        with pytest.raises(InputError, match=rf"'{episode_id}' had no step for too long .* complete_episode with it still ends it"):
            await engine.log_steps({"episode_id": episode_id, "steps": [GOOD]}, engine.session())
        assert "pip install x" in stored.trace.lessons[0].content


async def test_an_episode_is_abandoned_by_the_clock_while_the_engine_runs(tmp_path: Path, abandoned: asyncio.Event) -> None:
    """Nobody has to call."""
    async with Engine.open(settings_of(tmp_path, learning={**LATE, "abandon_after_s": 0.05})) as engine:
        episode_id = await episode_of(engine.session())
        async with asyncio.timeout(WAIT_S):
            await abandoned.wait()
        assert await engine.trace(episode_id, engine.session()) is not None


class Gate:
    """A reflector that waits until it is opened."""

    name = "gate"

    def __init__(self) -> None:
        self.entered, self.open = asyncio.Event(), asyncio.Event()

    async def reflect(self, attempt: Attempt) -> Reflection:
        """Wait."""
        self.entered.set()
        await self.open.wait()
        return Reflection()


async def test_an_episode_that_is_resumed_while_another_is_given_up_stays_open(tmp_path: Path) -> None:
    """Both were due when it was looked; a step that was acknowledged since then counts."""
    now = [1_000_000.0]
    async with Engine.open(settings_of(tmp_path, learning=LATE), clock=lambda: now[0]) as engine:
        session, gate = engine.session(), Gate()
        first, second = await episode_of(session, BAD), await episode_of(session, BAD)
        engine.reflectors.append(gate)
        now[0] += 86_400.0
        closing = asyncio.create_task(engine.learner.episodes.close_abandoned())
        async with asyncio.timeout(WAIT_S):
            await gate.entered.wait()
        await engine.log_steps({"episode_id": second, "steps": [GOOD]}, session)
        gate.open.set()
        await closing
        assert set(engine.learner.episodes.step_log.open) == {second}
        assert await engine.trace(first, session) is not None
        await complete(session, second, lessons=["Mine."])
        stored = await engine.trace(second, session)
        assert stored is not None
        assert (stored.trace.outcome, stored.trace.lessons[0].content, stored.trace.metadata["steps"]) == ("success", "Mine.", 2)


async def given_up(engine: Engine, now: list[float], *steps: dict[str, Any]) -> str:
    """Return the id of an episode that was closed as abandoned."""
    episode_id = await episode_of(engine.session(), *steps)
    now[0] += 86_400.0
    await engine.learner.episodes.close_abandoned()
    return episode_id


@pytest.mark.parametrize("steps", [(BAD, FIX, GOOD), ()], ids=["steps", "none"])
async def test_an_agent_that_comes_back_to_an_abandoned_episode_ends_it_after_all(
    tmp_path: Path, steps: tuple[dict[str, Any], ...]
) -> None:
    """As if it had ended it in time: judged by all its steps, with its own words, and once however often it says so."""
    now = [1_000_000.0]
    async with Engine.open(settings_of(tmp_path, learning=LATE), clock=lambda: now[0]) as engine:
        session = engine.session()
        in_time = await complete(session, await episode_of(session, *steps, task="Something else altogether"), lessons=["Mine."])
        episode_id = await given_up(engine, now, *steps)
        before = await engine.store.read(lambda db: patterns.of_traces(db, traces.rows_of(db, [episode_id]), min_seen=1))
        late, again = await asyncio.gather(*(complete(session, episode_id, lessons=["Mine."], summary="Back.") for _ in range(2)))
        assert again.seq is None or late.seq is None
        assert (late.lessons, late.reward_parts, late.reward) == (again.lessons, again.reward_parts, again.reward)
        assert late.lessons[0] == "Mine."
        assert {**late.reward_parts, "novelty": 0} == {**in_time.reward_parts, "novelty": 0}
        stored = await engine.trace(episode_id, session)
        assert stored is not None
        assert (stored.trace.outcome, stored.trace.tags, stored.trace.metadata["steps"]) == ("success", ("episode",), len(steps))
        assert stored.trace.content.startswith("Back.")
        assert all(step["action"] in stored.trace.content for step in steps)
        after = await engine.store.read(lambda db: patterns.of_traces(db, traces.rows_of(db, [episode_id]), min_seen=1))
        assert [(p.key, p.seen, p.judged) for p in after] == [(p.key, p.seen, p.judged + 1) for p in before]
        assert await engine.store.read(lambda db: db.execute("SELECT count(*) FROM steps").fetchone()[0]) == 0
        assert (await complete(session, episode_id)).reward == late.reward
        with pytest.raises(InputError, match="is complete already, as success"):
            await complete(session, episode_id, "failure")


async def test_an_abandoned_episode_is_not_compared_with_itself(tmp_path: Path) -> None:
    """It is as new as it was."""
    now = [1_000_000.0]
    async with Engine.open(settings_of(tmp_path, learning=LATE), clock=lambda: now[0]) as engine:
        episode_id = await given_up(engine, now, GOOD)
        await settled(engine)
        assert (await complete(engine.session(), episode_id)).reward_parts["novelty"] == 1


async def test_an_abandoned_episode_that_is_forgotten_leaves_no_step_and_does_not_come_back(tmp_path: Path) -> None:
    """Also while its agent ends it."""
    now = [1_000_000.0]
    async with Engine.open(settings_of(tmp_path, learning=LATE), clock=lambda: now[0]) as engine:
        session, gate = engine.session(), Gate()
        episode_id = await given_up(engine, now, BAD, FIX)
        engine.reflectors.append(gate)
        ending = asyncio.create_task(complete(session, episode_id))
        async with asyncio.timeout(WAIT_S):
            await gate.entered.wait()
        await engine.forget(lambda db: traces.rows_of(db, [episode_id]))
        gate.open.set()
        with pytest.raises(InputError, match="is not known: take it from the answer of log_steps"):
            await ending
        assert await engine.trace(episode_id, session) is None
        assert await engine.store.read(lambda db: db.execute("SELECT count(*) FROM steps").fetchone()[0]) == 0


async def test_what_is_learned_from_a_trace_is_forgotten_with_it(engine: Engine, session: Session) -> None:
    """Its episode, its feedback, its part of every pattern."""
    first, second = [await complete(session, await episode_of(session, BAD, FIX, GOOD)) for _ in range(2)]
    assert (
        "when run_tests fails (ModuleNotFoundError: No module named *): pip install → run_tests (2 of 2 episodes succeeded)"
        in second.patterns
    )
    await engine.feedback({"trace_ids": [first.trace_id], "helpful": False, "note": "secret"}, session)
    rows = await engine.store.read(lambda db: traces.rows_of(db, [first.trace_id]))
    await engine.forget(lambda db: rows)
    counted = await engine.store.read(lambda db: {p.seen for p in patterns.of_traces(db, [rows[0] + 1], min_seen=1)})
    assert counted == {1}
    await engine.forget(lambda db: [rows[0] + 1])

    def left(db: Any) -> list[int]:
        tables = ("episodes", "steps", "patterns", "pattern_evidence", "feedback", "grouped_lessons")
        return [db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]

    assert await engine.store.read(left) == [0] * 6


async def test_a_trace_that_is_updated_is_evidence_of_its_new_outcome(engine: Engine, session: Session) -> None:
    """In every pattern that it shows; one that nobody knows the end of is no evidence at all."""
    first, second = [await complete(session, await episode_of(session, BAD, FIX, GOOD)) for _ in range(2)]

    async def rates() -> set[tuple[int, int, float]]:
        rows = await engine.store.read(lambda db: traces.rows_of(db, [first.trace_id]))
        found = await engine.store.read(lambda db: patterns.of_traces(db, rows, min_seen=1))
        return {(pattern.seen, pattern.judged, pattern.credit) for pattern in found}

    assert await rates() == {(2, 2, 2.0)}
    for outcome, expected in (("failure", (2, 2, 1.0)), ("unknown", (2, 1, 1.0)), ("partial", (2, 2, 1.5)), ("success", (2, 2, 2.0))):
        await engine.add({"trace_id": second.trace_id, "task": "Make the tests pass", "outcome": outcome}, session)
        assert await rates() == {expected}


async def test_an_episode_without_steps_says_nothing_of_how_many_are_usual(session: Session) -> None:
    """A flawless one of two steps is not twice as long as it."""
    await complete(session, (await session.engine.log_steps({"task": "Make the tests pass", "steps": []}, session)).episode_id)
    await settled(session.engine)
    after = await complete(session, await episode_of(session, FIX, GOOD))
    assert after.reward_parts["efficiency"] == 1.0


async def test_steps_that_were_forgotten_are_in_no_file_though_one_could_not_be_deleted_at_first(
    engine: Engine, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever forgets hears of it, and when they do it again it is gone; nobody else is kept from anything meanwhile."""
    episode_id = await episode_of(session, {"action": "use password hunter2", "ok": True})
    unlink = Path.unlink

    def refused(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    def segments() -> list[Path]:
        return list((tmp_path / "data" / "journal").iterdir())

    other = await episode_of(session, GOOD)
    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(StoreError, match=r"cannot be deleted: Permission denied; .*repeat the call"):
        await engine.forget_open([episode_id])
    assert (await complete(session, other)).trace_id == other
    assert segments()
    monkeypatch.setattr(Path, "unlink", unlink)
    assert await engine.forget_open([episode_id]) == 1
    assert not segments()


async def test_patterns_are_told_in_a_search_within_its_budget(engine: Engine, session: Session) -> None:
    """Where the memories on the page are evidence of them; the namespace of others does not count."""
    for outcome in ("success", "success", "failure"):
        await complete(session, await episode_of(session, BAD, FIX, GOOD), outcome)
    found = await engine.retrieve({"query": "tests"}, session)
    line = "when run_tests fails (ModuleNotFoundError: No module named *): pip install → run_tests (2 of 3 episodes succeeded)"
    assert line in found.page.patterns
    assert line in found.page.text
    small = await engine.retrieve({"query": "tests", "max_tokens": 60}, session)
    assert not small.page.patterns
    assert small.page.tokens <= 60
    await complete(engine.session("other"), await episode_of(engine.session("other"), BAD, FIX, GOOD))
    assert not (await engine.retrieve({"query": "tests"}, engine.session("other"))).page.patterns


async def test_feedback_moves_a_memory_among_its_equals(engine: Engine, session: Session) -> None:
    """At once, also where the answer was cached; nothing is deleted by it."""
    for number in (1, 2, 3):
        await engine.add({"task": f"Restart worker {number}"}, session)

    async def order() -> list[str]:
        return [r.trace_id for r in (await engine.retrieve({"query": "restart the worker"}, session)).page.results]

    first, second, third = await order()
    assert await engine.feedback({"trace_ids": [third], "helpful": True}, session) == 1
    assert await engine.feedback({"trace_ids": [first], "helpful": False}, session) == 1
    assert await order() == [third, second, first]


async def test_feedback_on_an_unknown_memory_records_nothing(engine: Engine, session: Session) -> None:
    """Not even for the others of the call."""
    await engine.add({"task": "t", "trace_id": "known"}, session)
    with pytest.raises(InputError, match=r"^trace_ids\[1\]: 'x' is not known; take the id from a result of retrieve; nothing was recorded"):
        await engine.feedback({"trace_ids": ["known", "x"], "helpful": True}, session)
    assert (await engine.learner.figures())["feedback"] == {"helpful": 0, "unhelpful": 0}


async def test_memories_that_a_successful_episode_had_read_rise_a_little(engine: Engine, session: Session) -> None:
    """A failure says nothing of them, and the next episode begins anew."""
    for name in ("a", "b"):
        await engine.add({"task": "Restart the worker", "trace_id": name}, session)
    for outcome, expected in (("failure", 0), ("success", 2), ("success", 2)):
        if expected != 2 or not (await engine.learner.figures())["feedback"]["helpful"]:
            await engine.retrieve({"query": "restart the worker", "k": 2}, session)
        await complete(session, await episode_of(session, GOOD, task=f"Another {outcome}"), outcome)
        assert (await engine.learner.figures())["feedback"] == {"helpful": expected, "unhelpful": 0}


async def test_the_handoff_is_a_checkpoint(engine: Engine, session: Session, tiny: TinyModel) -> None:
    """Everything that was logged is stored when it is read."""
    episode_id = await episode_of(session, BAD, FIX)
    text = await engine.learner.episodes.handoff(episode_id)
    assert text is not None
    assert "Goal: Make the tests pass" in text
    assert engine.learner.episodes.step_log.buffered_steps == 0
    open_trace = await engine.learner.episodes.open_trace(episode_id)
    assert open_trace is not None
    assert open_trace.metadata == {"open": True, "steps": 2}
    await complete(session, episode_id)
    assert await engine.learner.episodes.handoff(episode_id) is None
