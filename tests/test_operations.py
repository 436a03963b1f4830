"""What the command line asks of an engine."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from samples import WAIT_S, TinyModel, everything, settings_of, settled, warm

from tracebank.chunking import text_hash
from tracebank.embedding import EmbeddingModel, Vectors
from tracebank.engine import Engine, Session
from tracebank.errors import DataDirError, IndexFaultError, InputError, ModelLoadError, StoreError, StoreLockedError, TracebankError
from tracebank.index import ChromaVectorIndex
from tracebank.operations import OPERATIONS, Events
from tracebank.reporting import examine
from tracebank.settings import load_settings
from tracebank.store import outbox
from tracebank.work import load_work

pytestmark = pytest.mark.anyio


async def events(stream: Events) -> list[dict[str, Any]]:
    """Return all that an operation tells."""
    return [event async for event in stream]


async def result(stream: Events) -> dict[str, Any]:
    """Return the last of what an operation tells."""
    return (await events(stream))[-1]


@pytest.fixture
async def session(tmp_path: Path, tiny: TinyModel) -> AsyncIterator[Session]:
    """A session of an engine with a tiny model."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        await settled(engine)
        yield engine.session()


def call(session: Session, name: str, **arguments: Any) -> Events:
    """Begin an operation."""
    return OPERATIONS[name](session, **arguments)


async def test_an_import_takes_the_good_lines_and_numbers_the_bad(session: Session) -> None:
    """Each with its error; nothing of a bad one is stored."""
    lines = [
        (1, '{"task": "one", "trace_id": "a"}'), (2, "{"), (3, "[1]"), (5, '{"task": ""}'), (6, '{"task": "two", "trace_id": "b"}'),
        (7, '{"task": "x", "content": "\ud800"}'), (8, "[" * 100_000),
    ]  # fmt: skip
    told = await result(call(session, "import", lines=lines))
    assert (told["stored"], told["new"]) == (2, 2)
    assert [number for number, _ in told["errors"]] == [2, 3, 5, 7, 8]
    errors = dict(map(tuple, told["errors"]))
    assert errors[2].startswith("line: is not valid JSON: ")
    assert errors[3] == "line: must be a JSON object, not [1]"
    assert errors[5] == "task: must not be empty"
    assert {stored.trace.trace_id for stored in await everything(session.engine.store)} == {"a", "b"}
    again = await result(call(session, "import", lines=lines[:1]))
    assert (again["stored"], again["new"], again["errors"]) == (1, 0, [])


async def test_an_export_is_what_an_import_takes(session: Session) -> None:
    """Every trace once, in the order they were stored; of one namespace or all; imported again it changes nothing."""
    raws = [{"task": f"task {i}", "trace_id": f"{i}", "namespace": "a" if i in (0, 2) else "b"} for i in range(450)]
    await result(call(session, "import", lines=[(i, json.dumps(raw)) for i, raw in enumerate(raws)]))
    exported = [trace for event in await events(call(session, "export")) for trace in event["traces"]]
    assert [trace["trace_id"] for trace in exported] == [f"{i}" for i in range(450)]
    of_a = [trace for event in await events(call(session, "export", namespace="a")) for trace in event["traces"]]
    assert [trace["trace_id"] for trace in of_a] == ["0", "2"]
    told = await result(call(session, "import", lines=[(i, json.dumps(trace)) for i, trace in enumerate(exported)]))
    assert (told["stored"], told["new"]) == (450, 0)


async def test_a_page_of_an_export_ends_where_it_becomes_large(session: Session) -> None:
    """It is one message: nobody else is answered while it is made. Lessons count, and a trace is never divided."""
    long = [{"task": f"t{i}", "trace_id": f"{i}", "content": f"begin{' ' * 500_000}end"} for i in range(7)]
    taught = {"task": "t7", "trace_id": "7", "lessons": [f"{i}{' ' * 7_990}end" for i in range(100)]}
    lines = [(i, json.dumps(raw)) for i, raw in enumerate([*long, taught, *({**taught, "trace_id": f"{i}"} for i in (8, 9))])]
    assert (await result(call(session, "import", lines=lines)))["stored"] == 10
    pages = [[trace["trace_id"] for trace in event["traces"]] for event in await events(call(session, "export"))]
    assert pages == [["0", "1", "2"], ["3", "4", "5"], ["6", "7"], ["8", "9"]]


async def test_a_namespace_given_to_an_import_wins(session: Session) -> None:
    """Over that of the line."""
    await result(call(session, "import", lines=[(1, '{"task": "t", "namespace": "theirs"}')], namespace="ours"))
    assert [stored.trace.namespace for stored in await everything(session.engine.store)] == ["ours"]


async def test_waiting_ends_when_all_can_be_found(session: Session) -> None:
    """By meaning, too."""
    await result(call(session, "import", lines=[(i, f'{{"task": "task {i}"}}') for i in range(30)]))
    told = await result(call(session, "wait_indexed"))
    assert told == {"pending": 0, "meaning": True, "note": ""}
    assert await session.engine.store.read(lambda db: outbox.waiting(db, "vectors")) == 0


async def test_a_full_disk_ends_the_waiting_with_the_reason_and_room_lets_the_index_go_on(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chroma is not even asked: without space it would never come back. Nothing is set aside or rebuilt for it."""
    usage = shutil.disk_usage(session.engine.settings.data_dir)
    with monkeypatch.context() as patched:
        patched.setattr("tracebank.indexer.RETRY_S", 0.01)
        patched.setattr("tracebank.indexer.shutil.disk_usage", lambda path: usage._replace(free=1_000_000))
        await add(session, "no room")
        told = await result(call(session, "wait_indexed"))
        assert told["pending"] > 0
        assert told["stalled"].startswith("no space left beside ")
        assert told["stalled"].endswith("(0 MiB, 32 are wanted: free some)")
        findings = (await result(call(session, "doctor")))["findings"]
        assert ("index of vectors", False) in [(finding["what"], finding["well"]) for finding in findings]
        patched.undo()
        patched.setattr("tracebank.indexer.RETRY_S", 0.01)
        assert await session.engine.indexer.wait(outbox.SINKS, up_to=None, timeout_s=WAIT_S)
    assert (await result(call(session, "wait_indexed")))["pending"] == 0
    assert (session.engine.indexer.stalled, session.engine.indexer.rebuilds["vectors"]) == ({}, 0)


async def test_a_fault_that_passes_does_not_end_the_waiting(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what stays does."""
    monkeypatch.setattr("tracebank.indexer.RETRY_S", 0.01)
    faults = [StoreLockedError("database is locked")] * 2

    def failing(*arguments: Any, **named: Any) -> Any:
        if faults:
            raise faults.pop()
        return load_work(*arguments, **named)

    monkeypatch.setattr("tracebank.indexer.load_work", failing)
    await add(session, "one")
    assert (await result(call(session, "wait_indexed")))["pending"] == 0
    assert (faults, session.engine.indexer.stalled) == ([], {})


async def test_a_disk_that_fails_ends_the_waiting_with_the_reason(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may fail for ever; when it works again, the index goes on."""
    monkeypatch.setattr("tracebank.indexer.RETRY_S", 0.01)

    def failing(*_: Any, **__: Any) -> Any:
        raise StoreError("disk I/O error")

    with monkeypatch.context() as patched:
        patched.setattr("tracebank.indexer.load_work", failing)
        await add(session, "one")
        async with asyncio.timeout(WAIT_S):
            told = await result(call(session, "wait_indexed"))
        assert (told["pending"] > 0, told["stalled"]) == (True, "disk I/O error")
    assert await session.engine.indexer.wait(outbox.SINKS, up_to=None, timeout_s=WAIT_S)
    assert (await result(call(session, "wait_indexed")))["pending"] == 0
    assert session.engine.indexer.stalled == {}


async def test_what_others_store_meanwhile_is_not_waited_for(session: Session, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here it does not get through the model, while all that was stored before does."""
    held, encode = threading.Event(), tiny.encode

    def hold_what_is_late(texts: Sequence[str]) -> Vectors:
        assert not any("late" in text for text in texts) or held.wait(WAIT_S)
        return encode(texts)

    monkeypatch.setattr(tiny, "encode", hold_what_is_late)
    tiny.gate.clear()
    await add(session, "early")
    assert await asyncio.to_thread(tiny.entered.acquire, True, WAIT_S)
    waiting = call(session, "wait_indexed")
    assert (await anext(waiting))["pending"] > 0
    await add(session, "late")
    tiny.gate.set()
    assert (await result(waiting))["pending"] == 0
    assert await session.engine.store.read(lambda db: outbox.waiting(db, "vectors")) == 1
    held.set()


LoadWith = Callable[[Callable[[], EmbeddingModel]], None]


@pytest.mark.parametrize("broken", ["model", "index"])
async def test_waiting_ends_where_there_will_be_no_meaning(
    tmp_path: Path, load_with: LoadWith, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Because the model cannot be loaded or the index of vectors not be opened; the note says which."""

    def load() -> EmbeddingModel:
        if broken == "model":
            raise ModelLoadError("the model is broken")
        return TinyModel()

    def no_index(*_: object, **__: object) -> None:
        raise IndexFaultError("the index is broken")

    load_with(load)
    if broken == "index":
        monkeypatch.setattr("tracebank.model_change.ChromaVectorIndex", no_index)
    async with Engine.open(settings_of(tmp_path)) as engine:
        session = engine.session()
        await engine.add({"task": "t"}, session)
        told = await result(call(session, "wait_indexed"))
        assert told == {"pending": 0, "meaning": False, "note": f"the {broken} is broken"}
        assert len((await result(call(session, "search", arguments={"query": "t"})))["results"]) == 1
        findings = (await result(call(session, "doctor")))["findings"]
        assert {"what": "index of vectors, default", "well": False, "found": "0 of 1 texts"} in findings


@pytest.mark.parametrize("error", [IndexFaultError, DataDirError, StoreError])
@pytest.mark.parametrize("step", ["opened", "filled"])
async def test_an_index_of_vectors_that_finds_no_room_comes_up_when_there_is_some(
    tmp_path: Path, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch, step: str, error: type[TracebankError]
) -> None:
    """Until then the doctor and the advice tell what is in its way."""
    for pause in ("RETRY_S", "LONGEST_RETRY_S"):
        monkeypatch.setattr(f"tracebank.semantics.{pause}", 0.01)
    room = threading.Event()

    class Cramped(ChromaVectorIndex):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            self.look_for_room("opened")
            super().__init__(*arguments, **named)

        def mark_filled(self) -> None:
            self.look_for_room("filled")
            super().mark_filled()

        def look_for_room(self, present: str) -> None:
            if present == step and not room.is_set():
                raise error("no space left")

    monkeypatch.setattr("tracebank.model_change.ChromaVectorIndex", Cramped)
    async with Engine.open(settings_of(tmp_path)) as engine:
        session = engine.session()
        await warm(engine)
        found = {f["what"]: (f["well"], f["found"]) for f in (await result(call(session, "doctor")))["findings"]}
        assert found["meaning"] == (False, "no space left")
        assert "None" not in found["model"][1]
        advice = (await result(call(session, "stats", section="advice")))["advice"]
        assert advice[0] == "Meaning waits or has failed: no space left"
        room.set()
        await add(session, "t")
        await settled(engine)
        assert ((await result(call(session, "search", arguments={"query": "t"})))["meaning"], engine.problems) == (True, {})


async def test_the_doctor_says_that_a_model_is_still_loading(
    tmp_path: Path, arrived: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody waits for it: the index cannot be opened."""

    def no_index(*_: object, **__: object) -> None:
        raise IndexFaultError("the index is broken")

    monkeypatch.setattr("tracebank.model_change.ChromaVectorIndex", no_index)
    async with Engine.open(settings_of(tmp_path)) as engine:
        await warm(engine)
        assert [(well, found) for what, well, found in await examine(engine) if what == "model"] == [(False, "still loading")]


async def add(session: Session, *ids: str, **fields: Any) -> None:
    """Store traces."""
    for trace_id in ids:
        await result(call(session, "add", trace={"task": f"task {trace_id}", "trace_id": trace_id, **fields}))


async def left(session: Session) -> list[str]:
    """Return the ids that are still stored."""
    return [stored.trace.trace_id for stored in await everything(session.engine.store)]


async def test_forgetting_first_says_what_it_would_do(session: Session) -> None:
    """And does it when it is told so."""
    await add(session, "a", "b")
    told = await result(call(session, "forget", trace_ids=["a", "absent"]))
    sample = [{"trace_id": "a", "namespace": "default", "task": "task a"}]
    assert told == {"matched": 1, "deleted": 0, "sample": sample, "note": "not there: absent"}
    assert await left(session) == ["a", "b"]
    assert (await result(call(session, "forget", trace_ids=["a"], dry_run=False)))["deleted"] == 1
    assert await left(session) == ["b"]


@pytest.mark.parametrize(
    ("criteria", "gone"),
    [
        ({"namespace": "n"}, "c"),
        ({"tags": ["x"]}, "b"),
        ({"outcome": "failure"}, "d"),
        ({"before": "2026-01-02"}, "e"),
        ({"before": "2026-01-01"}, ""),
        ({"tags": ["x"], "outcome": "failure"}, ""),
        ({"trace_ids": ["a", "c"], "namespace": "n"}, "c"),
    ],
)
async def test_forgetting_takes_what_the_filter_says_and_nothing_else(session: Session, criteria: dict[str, Any], gone: str) -> None:
    """A time is excluded itself."""
    await add(session, "a")
    await add(session, "b", tags=["x", "y"])
    await add(session, "c", namespace="n")
    await add(session, "d", outcome="failure")
    await add(session, "e", occurred_at="2026-01-01")
    told = await result(call(session, "forget", **criteria, dry_run=False))
    assert told["deleted"] == told["matched"] == len(gone)
    assert await left(session) == [name for name in "abcde" if name not in gone]


@pytest.mark.parametrize(
    ("criteria", "error"),
    [
        ({}, "trace_ids: say what to forget: ids, or a namespace, tags, an outcome, a time or metadata"),
        ({"trace_ids": ["a"], "tags": ["x"]}, "trace_ids: give ids or a filter, not both"),
        ({"outcome": "won"}, "outcome: must be one of success, failure, partial, unknown, not 'won'"),
        ({"before": "soon"}, "before: must be an RFC 3339 time such as 2026-03-01T09:30:00Z, not 'soon'"),
        ({"trace_ids": "a"}, "trace_ids: must be a list, not a string"),
    ],
)
async def test_forgetting_without_saying_clearly_what_is_refused(session: Session, criteria: dict[str, Any], error: str) -> None:
    """Nothing is deleted."""
    await add(session, "a")
    with pytest.raises(InputError) as caught:
        await result(call(session, "forget", **criteria, dry_run=False))
    assert str(caught.value) == error
    assert await left(session) == ["a"]


async def test_a_misspelt_criterion_forgets_nothing(session: Session) -> None:
    """It must not widen what is deleted."""
    await add(session, "a")
    with pytest.raises(TypeError, match="tag"):
        await result(call(session, "forget", namespace="default", tag=["x"], dry_run=False))
    assert await left(session) == ["a"]


async def test_stats_tell_every_section_or_one(session: Session) -> None:
    """In JSON; an unknown one is refused with those there are."""
    await add(session, "a")
    await settled(session.engine)
    figures = await result(call(session, "stats"))
    json.dumps(figures)
    assert (figures["store"]["traces"], figures["index"]["pending"]) == (1, {"words": 0, "vectors": 0})
    assert (figures["embedding"]["state"], figures["embedding"]["dim"]) == ("ready", TinyModel.dim)
    assert figures["latencies"]["add_trace"]["count"] == 1
    assert figures["tokens"] == {"tokenizer": "o200k_base"}
    for section in figures:
        assert set(await result(call(session, "stats", section=section))) == {section}
    with pytest.raises(InputError, match=r"^section: must be all or one of engine, store, .*, not 'x'"):
        await result(call(session, "stats", section="x"))


async def test_the_doctor_finds_what_is_missing_in_an_index_and_repairs_it(session: Session, tiny: TinyModel) -> None:
    """From the store; what was set aside is tried again, too."""
    engine = session.engine
    await add(session, "a", "b")
    tiny.failing = "poison"
    await add(session, "poison")
    await settled(engine)
    assert engine.vectors is not None
    space = engine.spaces["default"]
    engine.vectors._opened(engine.vectors.pair(space).serving).collection.delete(ids=[text_hash("a").hex()])
    found = {f["what"]: f for f in (await result(call(session, "doctor")))["findings"]}
    assert not found["index of vectors, default"]["well"]
    assert found["index of words, default"]["well"]
    assert found["set aside"]["found"].startswith("1 traces; poison: cannot embed")
    tiny.failing = ""
    found = {f["what"]: f for f in (await result(call(session, "doctor", repair=True)))["findings"]}
    assert all(finding["well"] for finding in found.values() if finding["what"] not in ("disk", "settings")), found
    assert found["index of vectors, default"]["found"] == "3 of 3 texts"


@pytest.mark.parametrize(("writes", "found"), [(2, "3 of 3"), (1_000, "and busy: ask again when less is written")])
@pytest.mark.parametrize("sink", outbox.SINKS)
async def test_the_doctor_takes_nothing_for_missing_that_is_written_while_it_counts(
    session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, sink: str, writes: int, found: str
) -> None:
    """Store and index are counted at two moments: they are compared again, and where an agent never pauses nothing is rebuilt."""
    engine, loop, late = session.engine, asyncio.get_running_loop(), iter(range(writes))
    await add(session, "early")
    index = engine.words if sink == "words" else engine.vectors
    assert index is not None
    counted = index.count

    async def write(number: int) -> None:
        await add(session, f"late {number}")
        await settled(engine)

    def write_one() -> None:
        for number in islice(late, 1):
            asyncio.run_coroutine_threadsafe(write(number), loop).result(WAIT_S)

    def count(space: int) -> int:
        write_one()
        number = counted(space)
        write_one()
        return number

    monkeypatch.setattr(index, "count", count)
    findings = (await result(call(session, "doctor", repair=True)))["findings"]
    (finding,) = [finding for finding in findings if finding["what"] == f"index of {sink}, default"]
    assert finding["well"]
    assert found in finding["found"]
    assert "rebuilding" not in caplog.text


async def test_the_doctor_tells_settings_that_are_wrong_or_have_no_effect(
    tmp_path: Path, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the file as it is now, by name: what is not valid, what the engine has not read yet, and a key that is not there."""
    file = tmp_path / "data" / "tracebank.toml"
    file.parent.mkdir()
    text = '[index]\nlinger_ms = 0\n[[llm.providers]]\nmodel = "m"\nkey_variable = "THE_KEY"\n'
    file.write_text(text)
    monkeypatch.delenv("THE_KEY", raising=False)
    async with Engine.open(load_settings(file.parent)) as engine:

        async def found() -> tuple[bool, str]:
            findings = (await result(call(engine.session(), "doctor")))["findings"]
            return next((finding["well"], finding["found"]) for finding in findings if finding["what"] == "settings")

        well, says = await found()
        assert not well
        assert says.startswith("Language model m has no key: set THE_KEY")
        monkeypatch.setenv("THE_KEY", "secret")
        assert await found() == (True, "valid and in use")
        file.write_text('data_dir = "/elsewhere"\n' + text)
        well, says = await found()
        assert not well
        assert says.startswith(f"data_dir in {file} has no effect")
        file.write_text('namespace = "other"\n' + text.replace("= 0", "= 1"))
        well, says = await found()
        assert not well
        assert says.startswith("namespace, index.linger_ms changed since the engine started: `tracebank stop`")
        file.write_text(text.replace("= 0", "= -1"))
        well, says = await found()
        assert not well
        assert says.startswith("setting index.linger_ms: Input should be greater than or equal to 0, not -1")


async def test_questions_are_told_and_forgotten_with_their_answers(session: Session) -> None:
    """By a pattern, by a namespace, or all; what is not meant stays, and its answer is a hit."""
    engine = session.engine
    other = engine.session("other")
    for name, asking in (("upload one", session), ("upload one", session), ("download", session), ("upload two", other)):
        await engine.add({"task": name, "trace_id": name}, asking)
        await settled(engine)
        await engine.retrieve({"query": name}, asking)
    known = (await result(call(session, "questions")))["questions"]
    assert known[0] == {"query": ["upload one"], "namespaces": ["default"], "times": 2}
    assert await result(call(session, "questions", matching="up*", namespace="other")) == {"questions": [known[1]]}
    assert await result(call(session, "questions", forget=True, matching="UPLOAD*", namespace="default")) == {"forgotten": 1}
    left = (await result(call(session, "questions")))["questions"]
    assert [question["query"] for question in left] == [["upload two"], ["download"]]
    before = engine.asking.answers.report()["results"]
    for name, asking in (("upload one", session), ("download", session), ("upload two", other)):
        await engine.retrieve({"query": name}, asking)
    after = engine.asking.answers.report()["results"]
    assert (after["hits"] - before["hits"], after["misses"] - before["misses"]) == (2, 1)
    assert await result(call(session, "questions", forget=True)) == {"forgotten": 3}
    assert await result(call(session, "questions")) == {"questions": []}
