"""What is forgotten is gone from every file of the data directory."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from samples import WAIT_S, TinyModel, settings_of, settled

from tracebank import erasing
from tracebank.embedding import EmbeddingModel
from tracebank.engine import Engine
from tracebank.errors import IndexFaultError, InputError, ModelLoadError, StoreError
from tracebank.forgetting import forget
from tracebank.index.analysis import stemmed_words
from tracebank.records import Filters, parse_trace
from tracebank.store import filtering, traces

pytestmark = pytest.mark.anyio

SECRET = "xyzzy-plugh-4711"


def known_words(engine: Engine, secret: str = SECRET, namespace: str = "default") -> dict[str, int]:
    """Return which of the secret's words the index of words still knows, deleted or not, and how often."""
    fields = engine.words._open(engine.spaces[namespace])
    counted = {
        f"{name}: {stem}": field.searcher.doc_freq("text", stem)
        for name, field in (("chunks", fields.chunks), ("traces", fields.traces))
        for stem in stemmed_words(secret)
    }
    return {word: count for word, count in counted.items() if count}


def holding(directory: Path, secret: str = SECRET) -> set[str]:
    """Return the names of the files that hold the secret, in UTF-8."""
    return {path.name for path in directory.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()}


async def erased(engine: Engine) -> None:
    """Wait until the background has erased what was due."""
    await asyncio.gather(*[task for task in engine.background.tasks if task.get_name() == "erasing"])


class Failing:
    """An index that cannot be written, and tells when that was tried."""

    def __init__(self) -> None:
        self.called = threading.Event()

    def __call__(self, *_: object) -> None:
        """Fail."""
        self.called.set()
        raise IndexFaultError("no space left")


async def test_no_file_holds_what_was_forgotten(tmp_path: Path, tiny: TinyModel) -> None:
    """Not the store, its log, the indexes with their queues and freed pages, nor kept answers; all else is found as before."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        session = engine.session()
        for i in range(40):
            await engine.add({"task": f"upload {i}", "content": f"note {i} " * 30, "trace_id": f"{i}"}, session)
        secrets: list[dict[str, Any]] = [
            {"task": f"the key is {SECRET}"}, {"task": "a", "content": f"before {SECRET} after " * 300}, {"task": "b", "lessons": [SECRET]},
            {"task": "c", "tags": [SECRET]}, {"task": "d", "metadata": {"key": SECRET}}, {"task": "e", "trace_id": SECRET},
        ]  # fmt: skip
        ids = [(await engine.add(raw, session)).trace_id for raw in secrets]
        # What an update takes back has to go as well.
        await engine.add({"task": f"upload 7, {SECRET}", "trace_id": "7"}, session)
        await settled(engine)
        await engine.add({"task": "upload 7", "trace_id": "7"}, session)
        await settled(engine)
        assert (await engine.retrieve({"query": f"the key {SECRET}"}, session)).page.results[0].trace_id == ids[0]
        assert "chroma.sqlite3" in holding(tmp_path)
        assert known_words(engine)
        assert (await forget(engine, trace_ids=ids, dry_run=False)).deleted == len(ids)
        assert holding(tmp_path) == set()
        assert not known_words(engine)
        found = await engine.retrieve({"query": "upload 7", "k": 50}, session)
        assert found.dense
        assert {result.trace_id for result in found.page.results} <= {f"{i}" for i in range(40)}
        assert found.page.results[0].trace_id == "7"
    async with Engine.open(settings_of(tmp_path)) as engine:
        await settled(engine)
        assert holding(tmp_path) == set()
        assert not known_words(engine)
        assert engine.vectors is not None
        assert engine.vectors.count(engine.spaces["default"]) == 40 + 39
        assert engine.indexer.rebuilds["vectors"] == 0


async def test_forgetting_by_a_filter_of_everything_leaves_nothing(tmp_path: Path, tiny: TinyModel) -> None:
    """Also of a namespace as a whole; another one keeps what both had."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        for namespace in ("one", "two"):
            await engine.add({"task": "the same text", "namespace": namespace}, engine.session())
        await engine.add({"task": f"alone {SECRET}", "namespace": "one"}, engine.session())
        await settled(engine)
        assert (await forget(engine, namespace="one")).matched == 2
        assert (await forget(engine, namespace="one", dry_run=False)).deleted == 2
        assert holding(tmp_path) == set()
        assert "tracebank.sqlite3" in holding(tmp_path, "the same text")
        found = await engine.retrieve({"query": "the same text", "namespace": "*"}, engine.session())
        assert [result.namespace for result in found.page.results] == ["two"]


async def test_nothing_in_memory_holds_what_was_forgotten(tmp_path: Path, tiny: TinyModel) -> None:
    """The vectors of a namespace that are held for searches; of another one they stay."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        for namespace in ("default", "other"):
            await engine.add({"task": SECRET, "namespace": namespace}, engine.session())
        await settled(engine)
        dense = engine.retriever.dense
        assert dense is not None
        await engine.retrieve({"query": SECRET, "namespace": "*"}, engine.session())
        assert {space for space, _, _ in dense._residents} == {engine.spaces["default"], engine.spaces["other"]}
        await engine.forget(lambda db: filtering.matching(db, Filters(), namespaces=["default"]))
        assert {space for space, _, _ in dense._residents} == {engine.spaces["other"]}


async def test_what_is_forgotten_while_the_model_loads_is_scrubbed_once_it_is_there(tmp_path: Path, arrived: threading.Event) -> None:
    """A kill in between changes nothing: a file says that it is due. An index that was set aside goes at once."""
    arrived.set()
    async with Engine.open(settings_of(tmp_path)) as engine:
        await engine.add({"task": f"the key is {SECRET}", "trace_id": "secret"}, engine.session())
        await settled(engine)
        index = engine.settings.data_dir / "index"
    arrived.clear()
    (index / "vectors-1.set-aside").mkdir()
    (index / "vectors-1.set-aside" / "chroma.sqlite3").write_text(SECRET)
    async with Engine.open(settings_of(tmp_path)) as engine:
        rows = await engine.store.read(lambda db: [row for (row,) in db.execute("SELECT id FROM traces")])
        assert await engine.forget(lambda db: rows) == 1
        assert not (index / "vectors-1.set-aside").exists()
        assert (index / "scrub-due").exists()
        arrived.set()
        await erased(engine)
        assert not (index / "scrub-due").exists()
        assert not holding(engine.settings.data_dir)


async def test_where_the_model_cannot_be_loaded_its_index_is_emptied(
    tmp_path: Path, tiny: TinyModel, load_with: Callable[[Callable[[], EmbeddingModel]], None]
) -> None:
    """Nobody else would delete from it; when the model is back it is filled from the store."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        await engine.add({"task": f"the key is {SECRET}", "trace_id": "secret"}, engine.session())
        await engine.add({"task": "upload", "trace_id": "other"}, engine.session())
        await settled(engine)

    def fail() -> TinyModel:
        raise ModelLoadError("there is none")

    load_with(fail)
    async with Engine.open(settings_of(tmp_path)) as engine:
        await engine.warm.wait()
        assert (await forget(engine, trace_ids=["secret"], dry_run=False)).deleted == 1
        assert not (engine.settings.data_dir / "index" / "scrub-due").exists()
        assert not holding(engine.settings.data_dir)
    load_with(lambda: tiny)
    async with Engine.open(settings_of(tmp_path)) as engine:
        await settled(engine)
        found = await engine.retrieve({"query": "upload"}, engine.session())
        assert (found.dense, [result.trace_id for result in found.page.results]) == (True, ["other"])


async def test_a_call_that_is_given_up_forgets_to_the_end(tmp_path: Path, tiny: TinyModel) -> None:
    """Clients stop waiting; what is deleted from the store must not stay everywhere else."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        await engine.add({"task": f"the key is {SECRET}", "trace_id": "secret"}, engine.session())
        await settled(engine)
        going = threading.Event()
        held = asyncio.create_task(engine.store.write(lambda db: going.wait(WAIT_S)))
        chosen = asyncio.Event()
        loop = asyncio.get_running_loop()

        def choose(db: sqlite3.Connection) -> list[int]:
            loop.call_soon_threadsafe(chosen.set)
            return [row for (row,) in db.execute("SELECT id FROM traces")]

        call = asyncio.create_task(engine.forget(choose))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert call.cancelled()
        going.set()
        await held
        await chosen.wait()
    assert not holding(tmp_path)
    assert not (tmp_path / "data" / "index" / "scrub-due").exists()


async def test_one_deletion_does_not_say_that_nothing_is_due_while_another_is_under_way(
    tmp_path: Path, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill in that moment would leave what the other one forgets."""
    monkeypatch.setattr(erasing, "AGAIN_S", 0.01)
    async with Engine.open(settings_of(tmp_path)) as engine:
        for name in ("first", "second"):
            await engine.add({"task": f"the key is {SECRET}", "trace_id": name}, engine.session(name))
        await settled(engine)
        due = engine.settings.data_dir / "index" / "scrub-due"
        deleted, goes_on = asyncio.Event(), asyncio.Event()
        forget_answers = engine.asking.forget

        async def slowly(matches: Any) -> int:
            if not deleted.is_set():
                deleted.set()
                await goes_on.wait()
            return await forget_answers(matches)

        monkeypatch.setattr(engine.asking, "forget", slowly)
        second = asyncio.create_task(engine.forget(lambda db: traces.rows_of(db, ["second"])))
        await deleted.wait()
        assert await engine.forget(lambda db: traces.rows_of(db, ["first"])) == 1
        assert due.exists()
        goes_on.set()
        assert await second == 1
        await erased(engine)
        assert not due.exists()
    assert not holding(tmp_path)


@pytest.mark.parametrize("said", [{"trace_ids": ["this"]}, {"namespace": "mine"}, {"namespace": "mine", "tags": ["episode"]}])
async def test_an_open_episode_is_forgotten_with_all_its_steps(tmp_path: Path, tiny: TinyModel, said: dict[str, Any]) -> None:
    """Stored ones and those that are only in the journal; others, of another namespace or outcome, stay."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        session, other = engine.session("mine"), engine.session("theirs")
        steps = {"steps": [{"action": f"type {SECRET}"}]}
        mine = await engine.log_steps({"task": f"open {SECRET}", **steps}, session)
        await engine.learner.episodes.step_log.flush()
        await engine.log_steps({"episode_id": mine.episode_id, **steps}, session)
        theirs = await engine.log_steps({"task": "theirs", "steps": [{"action": "wait"}]}, other)
        said = {name: [mine.episode_id] if value == ["this"] else value for name, value in said.items()}
        assert (await forget(engine, **{**said, "outcome": "failure"}, dry_run=True)).matched == 0 if "namespace" in said else True
        shown = await forget(engine, **said, dry_run=True)
        assert (shown.matched, shown.deleted, shown.sample[0]["trace_id"]) == (1, 0, mine.episode_id)
        assert (await forget(engine, **said, dry_run=False)).deleted == 1
        assert not holding(tmp_path)
        assert list(engine.learner.episodes.step_log.open) == [theirs.episode_id]
        with pytest.raises(InputError, match="is not known"):
            await engine.log_steps({"episode_id": mine.episode_id, **steps}, session)
    async with Engine.open(settings_of(tmp_path)) as engine:
        assert list(engine.learner.episodes.step_log.open) == [theirs.episode_id]


async def test_what_was_changed_just_before_is_not_meant_any_more(tmp_path: Path, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The filter is read in the transaction that deletes: an update that was acknowledged before is not lost."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        await engine.add({"task": "deploy", "trace_id": "t", "outcome": "failure"}, engine.session())
        going = threading.Event()
        held = asyncio.create_task(engine.store.write(lambda db: going.wait(WAIT_S)))
        submitted, write = asyncio.Event(), engine.store.write

        async def submitting(action: Callable[[sqlite3.Connection], Any]) -> Any:
            submitted.set()
            return await write(action)

        monkeypatch.setattr(engine.store, "write", submitting)
        updating = asyncio.create_task(engine.add({"task": "deploy", "trace_id": "t", "outcome": "success"}, engine.session()))
        await submitted.wait()
        forgetting = asyncio.create_task(forget(engine, outcome="failure", dry_run=False))
        going.set()
        await held
        assert (await updating).status == "updated"
        assert (await forgetting).deleted == 0
        assert await engine.trace("t", engine.session()) is not None


async def test_the_words_of_a_large_namespace_are_erased_behind_its_caller(
    tmp_path: Path, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is due until then, also for the next engine; what is stored meanwhile is kept."""
    monkeypatch.setattr(erasing, "AT_ONCE_CHUNKS", 0)
    async with Engine.open(settings_of(tmp_path)) as engine:
        for namespace in ("default", "other"):
            # In one commit: of what was written alone nothing would be left.
            together = [{"task": f"the key is {SECRET}", "trace_id": "secret"}, {"task": "upload", "trace_id": "other"}]
            await engine.add_many([parse_trace(raw, limits=engine.limits, namespace=namespace, trace_id="") for raw in together])
        await settled(engine)
        monkeypatch.setattr(engine.words, "begin_copy", fails := Failing())
        assert (await forget(engine, trace_ids=["secret"], namespace="default", dry_run=False)).deleted == 1
        await asyncio.to_thread(fails.called.wait, WAIT_S)
        assert (engine.settings.data_dir / "index" / "scrub-due").exists()
        assert known_words(engine)
    async with Engine.open(settings_of(tmp_path)) as engine:
        await engine.add({"task": "later", "trace_id": "later"}, engine.session())
        await settled(engine)
        await erased(engine)
        assert not (engine.settings.data_dir / "index" / "scrub-due").exists()
        assert not known_words(engine)
        # Nobody has asked for that one.
        assert known_words(engine, namespace="other")
        for query in ("upload", "later"):
            found = await engine.retrieve({"query": query}, engine.session())
            assert {"other": "upload", "later": "later"}[found.page.results[0].trace_id] == query


@pytest.mark.parametrize("damaged", [b"\xc2\xb2\n", b"\xff\xfe", b"9" * 5_000, b"12345\n"])
async def test_a_mark_that_is_damaged_keeps_no_engine_from_starting_and_nothing_from_being_erased(
    tmp_path: Path, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch, damaged: bytes
) -> None:
    """Where nobody knows any more what is due, everything is; a mark behind one that was cut short is whole."""
    due = tmp_path / "data" / "index" / "scrub-due"
    for spoilt, before in ((b"", b"9"), (damaged, b"")):
        with monkeypatch.context() as patched:
            async with Engine.open(settings_of(tmp_path)) as engine:
                together = [{"task": f"the key is {SECRET}", "trace_id": "secret"}, {"task": f"upload {damaged!r} {before!r}"}]
                await engine.add_many([parse_trace(raw, limits=engine.limits, namespace="default", trace_id="other") for raw in together])
                await settled(engine)
                due.write_bytes(before)
                patched.setattr(engine.words, "begin_copy", Failing())
                assert (await forget(engine, trace_ids=["secret"], dry_run=False)).deleted == 1
                assert known_words(engine)
        due.write_bytes(spoilt or due.read_bytes())
        async with Engine.open(settings_of(tmp_path)) as engine:
            await settled(engine)
            await erased(engine)
            assert not known_words(engine)
            assert not due.exists()


async def test_what_cannot_be_marked_as_due_is_not_deleted(tmp_path: Path, tiny: TinyModel) -> None:
    """A kill behind the deletion would leave it in the indexes for good."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        await engine.add({"task": f"the key is {SECRET}", "trace_id": "secret"}, engine.session())
        await settled(engine)
        due = engine.settings.data_dir / "index" / "scrub-due"
        due.mkdir()
        with pytest.raises(StoreError, match=r"scrub-due cannot be written: .*; nothing was deleted"):
            await forget(engine, trace_ids=["secret"], dry_run=False)
        assert await engine.trace("secret", engine.session()) is not None
        due.rmdir()
        assert (await forget(engine, trace_ids=["secret"], dry_run=False)).deleted == 1
        assert not holding(tmp_path)
