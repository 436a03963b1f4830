"""Lessons and a summary by a language model: asked over a real socket, checked against the steps, optional in every way."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from llm.provider import Call, Held, Meeting, Raw, Refusal, Reply, Reset, Slow, Status, Truncated, serving
from samples import TinyModel, settings_of

from tracebank.engine import Engine, Session
from tracebank.learning.model_lessons import made_up
from tracebank.learning.model_summary import supported
from tracebank.records import parse_trace

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("tiny")]

STEPS = [
    {"action": "run_tests()", "observation": "ModuleNotFoundError: No module named 'tomlkit' in server/app.py", "ok": False},
    {"action": "pip install tomlkit", "observation": "installed 0.13.2", "ok": True},
    {"action": "run_tests()", "observation": "12 passed", "ok": True},
]
LESSON = {"title": "Missing module", "description": "when run_tests fails", "content": "Install tomlkit, then run_tests passes all 12."}
MADE_UP = {"title": "Redis", "description": "when it fails", "content": "Restart the Redis server on port 6379."}


SUMMARY = "The tests failed for a missing module, tomlkit. It was installed by Alice on port 6379. Then 12 passed."


def said(*lessons: dict[str, str], summary: Meeting | str = SUMMARY) -> Callable[[Call], Meeting]:
    """Return what answers: lessons where JSON is wanted, else the summary."""
    words = Reply(summary) if isinstance(summary, str) else summary
    return lambda call: Reply(json.dumps({"lessons": lessons})) if "response_format" in call.body else words


def opened(tmp_path: Path, base_url: str, **changed: Any) -> Any:
    """Open an engine that may ask the provider."""
    llm = {"providers": [{"model": "m", "base_url": base_url}], "attempts": 1, **changed}
    return Engine.open(settings_of(tmp_path, llm=llm))


async def completed(session: Session) -> Any:
    """Log an episode and complete it."""
    logged = await session.engine.log_steps({"task": "Make the tests pass", "steps": STEPS}, session)
    return await session.engine.complete_episode({"episode_id": logged.episode_id, "outcome": "success"}, session)


async def test_a_models_lessons_come_first_and_what_it_made_up_is_dropped(tmp_path: Path, tiny: TinyModel) -> None:
    """The steps go to it as data; its lessons are stored in their three parts."""
    async with serving(answer=said(LESSON, MADE_UP)) as provider:
        async with opened(tmp_path, provider.base_url) as engine:
            done = await completed(engine.session())
            stored = await engine.trace(done.trace_id, engine.session())
        assert not done.problems
        assert stored is not None
        assert stored.trace.as_json()["lessons"][0] == LESSON
        assert not any("Redis" in lesson.text for lesson in stored.trace.lessons)
        assert len(stored.trace.lessons) > 1  # what the steps show themselves
        assert len(provider.calls) == 2
        assert "No module named 'tomlkit'" in str(provider.calls[0])


FAULTS: dict[str, Meeting] = {
    "429": Status(429, {"retry-after": "3600"}), "500": Status(500), "503": Status(503), "reset": Reset(), "slow bytes": Slow(),
    "invalid JSON": Raw(b"{"), "truncated JSON": Truncated(), "no JSON": Reply("no JSON"), "wrong schema": Reply('{"lessons": "none"}'),
    "refusal": Refusal(), "empty content": Reply(""),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
async def test_where_the_model_fails_the_steps_teach_alone(tmp_path: Path, tiny: TinyModel, fault: str) -> None:
    """It is told in the result, and the trace is stored, once: completing again returns the same and asks nobody."""
    # Only bytes that drip are waited for: no connection on a busy machine is to run into it.
    timeout_s = 1.0 if fault == "slow bytes" else 30.0
    async with (
        serving(answer=lambda call: FAULTS[fault]) as provider,
        opened(tmp_path, provider.base_url, attempt_timeout_s=timeout_s) as engine,
    ):
        session = engine.session()
        done = await completed(session)
        assert "language model m: " in done.problems["reflection_model"]
        stored = await engine.trace(done.trace_id, session)
        assert stored is not None
        assert "pip install tomlkit" in stored.trace.lessons[0].text
        calls = len(provider.calls)
        assert await engine.complete_episode({"episode_id": done.trace_id, "outcome": "success"}, session) == replace(done, seq=None)
        assert len(provider.calls) == calls
        assert (await engine.store.read(engine.store.figures))["traces"] == 1


async def test_a_provider_that_hangs_is_left_alone_and_the_next_one_teaches(tmp_path: Path, tiny: TinyModel) -> None:
    """The part waits for a few seconds only; that it waited in vain must be counted, or it would do so for ever."""
    async with serving(answer=lambda call: Held(asyncio.Event())) as hanging, serving(answer=said(LESSON)) as well:
        providers = [{"name": name, "model": "m", "base_url": one.base_url} for name, one in (("hanging", hanging), ("well", well))]
        llm = {"providers": providers, "breaker_failures": 1}
        async with Engine.open(settings_of(tmp_path, llm=llm, learning={"reflection_timeout_s": 1.0})) as engine:
            first = await completed(engine.session())
            assert "hanging: no answer after" in first.problems["reflection_model"]
            asked = len(hanging.calls)
            second = await completed(engine.session())
            assert not second.problems
            assert "Install tomlkit" in second.lessons[0]
            assert len(hanging.calls) == asked


async def test_a_models_summary_stands_behind_what_the_steps_show_without_what_it_made_up(tmp_path: Path, tiny: TinyModel) -> None:
    """Sentence by sentence; the words of the steps follow it, whole."""
    async with serving(answer=said(LESSON)) as provider, opened(tmp_path, provider.base_url) as engine:
        session = engine.session()
        done = await completed(session)
        stored = await engine.trace(done.trace_id, session)
        assert stored is not None
        summary, words = stored.trace.content.split("\n\n", 1)
        shown, told = summary.split("\n", 1)[0], summary.rsplit("\n", 1)[-1]
        assert shown.startswith("Outcome: success after 3 steps")
        assert told == "The tests failed for a missing module, tomlkit. Then 12 passed."
        assert words.startswith("Step 1 (failed): run_tests()")


async def test_lessons_and_summary_are_asked_for_side_by_side_and_each_fails_alone(tmp_path: Path, tiny: TinyModel) -> None:
    """Neither waits for the other, and what fails is told by its name."""
    gate = asyncio.Event()
    async with serving(answer=lambda call: Held(gate)) as provider, opened(tmp_path, provider.base_url) as engine:
        running = asyncio.create_task(completed(engine.session()))
        await provider.until(2)
        assert provider.now_open == 2
        gate.set()
        assert set((await running).problems) == {"reflection_model"}
    async with serving(answer=said(LESSON, summary=Status(500))) as provider, opened(tmp_path / "b", provider.base_url) as engine:
        done = await completed(engine.session())
        assert set(done.problems) == {"summary_model"}
        assert done.lessons[0].endswith(LESSON["content"])


async def test_what_a_model_says_is_checked_off_the_event_loop(tmp_path: Path, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had read can be a megabyte, and other clients wait for the loop."""
    checking: list[threading.Thread] = []

    def noted(text: str, source: str) -> list[str]:
        checking.append(threading.current_thread())
        return made_up(text, source)

    for module in ("model_lessons", "model_summary"):
        monkeypatch.setattr(f"tracebank.learning.{module}.made_up", noted)
    async with serving(answer=said(LESSON)) as provider, opened(tmp_path, provider.base_url) as engine:
        await completed(engine.session())
    assert len(checking) >= 2
    assert threading.main_thread() not in checking


async def test_a_models_lesson_that_could_not_be_imported_is_dropped(tmp_path: Path, tiny: TinyModel) -> None:
    """What is exported must come in again."""
    long = {**LESSON, "content": "so " * 4_000}
    async with serving(answer=said(long, {**LESSON, "content": " "}, LESSON)) as provider, opened(tmp_path, provider.base_url) as engine:
        done = await completed(engine.session())
        stored = await engine.trace(done.trace_id, engine.session())
        assert stored is not None
        assert stored.trace.as_json()["lessons"][0] == LESSON
        assert parse_trace(stored.trace.as_json(), limits=engine.limits, namespace="x", trace_id="x") == stored.trace


async def test_an_agents_own_summary_is_taken_and_none_is_asked_for(tmp_path: Path, tiny: TinyModel) -> None:
    """It was there, and a call costs money."""
    async with serving(answer=said(LESSON)) as provider, opened(tmp_path, provider.base_url) as engine:
        session = engine.session()
        logged = await engine.log_steps({"task": "Make the tests pass", "steps": STEPS}, session)
        done = await engine.complete_episode({"episode_id": logged.episode_id, "outcome": "success", "summary": "My own."}, session)
        stored = await engine.trace(done.trace_id, session)
        assert stored is not None
        assert stored.trace.content.startswith("My own.\n\nStep 1")
        assert len(provider.calls) == 1


def test_a_summary_is_a_few_sentences_whatever_is_said() -> None:
    """An endless one would bury the steps."""
    many = " ".join(f"It went {word}." for word in ("well", "on", "far", "up", "down", "away"))
    assert supported(many, "") == "It went well. It went on. It went far. It went up."
    assert supported("so " * 2_000, "") == ""
    assert supported("", "") == ""


async def test_without_a_provider_nobody_is_asked(tmp_path: Path, tiny: TinyModel) -> None:
    """The default."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        assert [reflector.name for reflector in engine.reflectors] == ["steps"]
        assert not (await completed(engine.session())).problems


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Install tomlkit before run_tests.", []),
        ("The file server/app.py needs it; 12 passed.", []),
        ("Look into server/other.py.", ["server/other.py"]),
        ("It takes 13 tests and version 0.13.3.", ["13", "0.13.3"]),
        ("Ask Alice, or call runTests.", ["Alice", "runTests"]),
        ("It is 0.13.2, not 0.13 or 2 or 1.", ["0.13", "2", "1"]),
    ],
)
def test_names_paths_and_numbers_must_be_in_the_source(text: str, found: list[str]) -> None:
    """Other words are the model's own."""
    assert made_up(text, json.dumps(STEPS)) == found
