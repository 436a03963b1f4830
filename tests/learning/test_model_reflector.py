"""Lessons by a language model: asked over a real socket, checked against the steps, optional in every way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from llm.provider import Raw, Reply, Status, serving
from samples import TinyModel, settings_of

from tracebank.engine import Engine, Session
from tracebank.learning.model_reflector import made_up

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tables", "tiny")]

STEPS = [
    {"action": "run_tests()", "observation": "ModuleNotFoundError: No module named 'tomlkit' in server/app.py", "ok": False},
    {"action": "pip install tomlkit", "observation": "installed 0.13.2", "ok": True},
    {"action": "run_tests()", "observation": "12 passed", "ok": True},
]
LESSON = {"title": "Missing module", "description": "when run_tests fails", "content": "Install tomlkit, then run_tests passes all 12."}
MADE_UP = {"title": "Redis", "description": "when it fails", "content": "Restart the Redis server on port 6379."}


def said(*lessons: dict[str, str]) -> Reply:
    """Return an answer with these lessons."""
    return Reply(json.dumps({"lessons": lessons}))


def opened(tmp_path: Path, base_url: str) -> Any:
    """Open an engine that may ask the provider."""
    llm = {"providers": [{"model": "m", "base_url": base_url}], "attempts": 1}
    return Engine.open(settings_of(tmp_path, llm=llm))


async def completed(session: Session) -> Any:
    """Log an episode and complete it."""
    logged = await session.engine.log_steps({"task": "Make the tests pass", "steps": STEPS}, session)
    return await session.engine.complete_episode({"episode_id": logged.episode_id, "outcome": "success"}, session)


async def test_a_models_lessons_come_first_and_what_it_made_up_is_dropped(tmp_path: Path, tiny: TinyModel) -> None:
    """The steps go to it as data; its lessons are stored in their three parts."""
    async with serving() as provider:
        provider.meets(said(LESSON, MADE_UP))
        async with opened(tmp_path, provider.base_url) as engine:
            done = await completed(engine.session())
            stored = await engine.trace(done.trace_id, engine.session())
        assert not done.problems
        assert stored is not None
        assert stored.trace.as_json()["lessons"][0] == LESSON
        assert not any("Redis" in lesson.text for lesson in stored.trace.lessons)
        assert len(stored.trace.lessons) > 1  # what the steps show themselves
        assert len(provider.calls) == 1
        assert "No module named 'tomlkit'" in str(provider.calls[0])


@pytest.mark.parametrize("fault", [Status(500), Raw(b"{"), Reply("no JSON"), Reply('{"lessons": "none"}')], ids=str)
async def test_where_the_model_fails_the_steps_teach_alone(tmp_path: Path, tiny: TinyModel, fault: Any) -> None:
    """It is told in the result, and the trace is stored."""
    async with serving(answer=lambda call: fault) as provider, opened(tmp_path, provider.base_url) as engine:
        session = engine.session()
        done = await completed(session)
        assert set(done.problems) == {"reflection_model"}
        stored = await engine.trace(done.trace_id, session)
        assert stored is not None
        assert "pip install tomlkit" in stored.trace.lessons[0].text


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
    ],
)
def test_names_paths_and_numbers_must_be_in_the_source(text: str, found: list[str]) -> None:
    """Other words are the model's own."""
    assert made_up(text, json.dumps(STEPS)) == found
