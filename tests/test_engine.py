"""The engine as tools use it: the real store, indexes and locks, and the real model where meaning matters."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread
from samples import WAIT_S, TinyModel, everything, settings_of, settled, spoil, warm

from tracebank import compressor
from tracebank.answering import Retrieved
from tracebank.chunking import chunks_of, word_spans
from tracebank.embedding import EmbeddingModel, ModelTokens
from tracebank.embedding.sentence import SentenceTransformerModel
from tracebank.engine import STORE_NAME, Engine, Session, prepare_data_dir
from tracebank.errors import DataDirError, DataDirLockedError, IndexFaultError, InputError, ModelLoadError, StoreCorruptError
from tracebank.forgetting import forget
from tracebank.locking import LOCK_NAME
from tracebank.records import Limits, parse_trace
from tracebank.reporting import report
from tracebank.retrieval import dense, duplicates, scoring
from tracebank.settings import load_settings
from tracebank.store import Store, outbox, traces, vectors

pytestmark = pytest.mark.anyio


LoadWith = Callable[[Callable[[], EmbeddingModel]], None]


def ids(found: Retrieved) -> list[str]:
    """Return the ids of the results."""
    return [result.trace_id for result in found.page.results]


class Calls(Counter[str]):
    """How often the model and the indexes of an engine were asked."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        assert engine.retriever.dense is not None
        self._monkeypatch = monkeypatch
        self._count("words", engine.words, "query")
        self._count("vectors", engine.retriever.dense, "nearest")
        self._count("model", engine.embedding, "read_questions")

    def _count(self, name: str, owner: Any, method: str) -> None:
        original = getattr(owner, method)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self[name] += 1
            return original(*args, **kwargs)

        self._monkeypatch.setattr(owner, method, counted)


async def test_a_memory_is_found_by_its_meaning_and_by_its_words(
    tmp_path: Path, load_with: LoadWith, model: SentenceTransformerModel
) -> None:
    """With the real model: a question without a word in common finds it, and so does a word that means nothing."""
    load_with(lambda: model)
    async with Engine.open(settings_of(tmp_path)) as engine:
        session = engine.session()
        for trace_id, task in [("build", "Compilation of the kernel fails"), ("cake", "Bake a chocolate cake"), ("code", "Error QZX-7781")]:
            await engine.add({"task": task, "trace_id": trace_id}, session)
        await warm(engine)
        for question, best in [("The build is broken", "build"), ("dessert recipe", "cake"), ("QZX-7781", "code")]:
            found = await engine.retrieve({"query": question}, session)
            assert (ids(found)[0], found.dense, found.note) == (best, True, "")
            assert 0 < found.page.results[0].score <= 1
        both = await engine.retrieve({"query": ["dessert recipe", "The build is broken"], "k": 2}, session)
        assert set(ids(both)) == {"build", "cake"}


async def test_an_agent_finds_what_it_has_just_written(tmp_path: Path, tiny: TinyModel) -> None:
    """At once, every time, by both indexes; created, updated or many at a time."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        await warm(engine)
        session = engine.session()
        for i in range(12):
            added = await engine.add({"task": f"unique{i} task", "trace_id": f"{i}"}, session)
            assert (added.status, added.indexed) == ("created", False)
            found = await engine.retrieve({"query": f"unique{i}"}, session)
            assert ids(found)[0] == f"{i}"
            assert found.page.results[0].parts["dense"] > 0
        await engine.add({"task": "renamed task", "trace_id": "3"}, session)
        assert ids(await engine.retrieve({"query": "renamed"}, session))[0] == "3"
        sessions = [engine.session() for _ in range(20)]
        await asyncio.gather(*(engine.add({"task": f"parallel{i}", "trace_id": f"p{i}"}, s) for i, s in enumerate(sessions)))
        answers = await asyncio.gather(*(engine.retrieve({"query": f"parallel{i}"}, s) for i, s in enumerate(sessions)))
        assert [ids(answer)[0] for answer in answers] == [f"p{i}" for i in range(20)]


async def test_words_answer_while_the_model_is_loading_and_the_note_says_so(tmp_path: Path, arrived: threading.Event) -> None:
    """From the first moment; when the model is there the same question has meaning."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        session = engine.session()
        await engine.add({"task": "mend the upload", "trace_id": "mine"}, session)
        for _ in range(2):
            found = await engine.retrieve({"query": "upload"}, session)
            assert (ids(found), found.dense) == (["mine"], False)
            assert found.note == "the embedding model is still loading"
            assert "(the embedding model is still loading)" in found.page.text
        arrived.set()
        await warm(engine)
        found = await engine.retrieve({"query": "upload"}, session)
        assert (ids(found), found.dense, found.note) == (["mine"], True, "")


async def test_without_chroma_everything_works_by_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: TinyModel) -> None:
    """Although the model is there; the note says what is wrong."""

    async def broken(*_: object) -> object:
        raise IndexFaultError("Chroma cannot be imported")

    monkeypatch.setattr("tracebank.semantics.open_vectors", broken)
    async with Engine.open(settings_of(tmp_path)) as engine:
        await warm(engine)
        session = engine.session()
        await engine.add({"task": "mend the upload", "trace_id": "mine"}, session)
        found = await engine.retrieve({"query": "upload"}, session)
        assert (ids(found), found.dense, found.note) == (["mine"], False, "meaning is off: Chroma cannot be imported")
        assert engine.problems == {"meaning": "Chroma cannot be imported"}


async def test_without_a_model_everything_works_by_words(tmp_path: Path, load_with: LoadWith) -> None:
    """The note says what is wrong with it."""

    def load() -> EmbeddingModel:
        raise ModelLoadError("the embedding model xyz could not be loaded")

    load_with(load)
    async with Engine.open(settings_of(tmp_path)) as engine:
        await warm(engine)
        session = engine.session()
        await engine.add({"task": "mend the upload", "trace_id": "mine"}, session)
        found = await engine.retrieve({"query": "upload"}, session)
        assert (ids(found), found.dense) == (["mine"], False)
        assert found.note == "meaning is off: the embedding model xyz could not be loaded"


async def test_what_has_no_vector_yet_is_not_put_behind_what_has_one(tmp_path: Path, tiny: TinyModel) -> None:
    """Another client's memory that fits best by its words is the first, though its meaning is still to come."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        session = engine.session()
        for i in range(30):
            await engine.add({"task": f"ticket number {1000 + i}", "trace_id": f"{i}"}, session)
        await settled(engine)
        tiny.failing = "unreadable"
        await engine.add({"task": "unreadable ticket number 1077", "trace_id": "late"}, session)
        await settled(engine)
        found = await engine.retrieve({"query": "ticket number 1077 about zebras and quartz", "detail": "full"}, engine.session())
        assert ids(found)[0] == "late"
        assert found.page.results[0].parts["dense"] == 0


async def test_an_answer_from_the_cache_asks_neither_the_model_nor_an_index(
    tmp_path: Path, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only for the very same question and arguments; another page size is read from the same ranking."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        session = engine.session()
        for i in range(6):
            await engine.add({"task": f"upload {i}", "trace_id": f"{i}"}, session)
        await settled(engine)
        await engine.retrieve({"query": "upload"}, session)
        calls = Calls(engine, monkeypatch)
        first = await engine.retrieve({"query": "upload"}, session)
        assert await engine.retrieve({"query": "upload"}, engine.session()) is first
        assert calls == {}
        await engine.retrieve({"query": "upload", "k": 2, "max_tokens": 300, "detail": "full"}, session)
        assert calls == {}
        await engine.retrieve({"query": "upload", "since": "2026-01-01"}, session)
        assert calls == {"words": 1, "vectors": 1, "model": 1}
        await engine.retrieve({"query": "uploads"}, session)
        assert calls == {"words": 2, "vectors": 2, "model": 2}
        assert engine.asking.answers.report()["results"]["hits"] == 2


async def test_a_write_invalidates_exactly_its_namespace(tmp_path: Path, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is searched across it."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        one, two = engine.session("one"), engine.session("two")
        for session in (one, two):
            await engine.add({"task": "upload", "trace_id": "first"}, session)
        await settled(engine)
        every, pair = {"query": "upload", "namespace": "*"}, {"query": "upload", "namespace": ["one", "two"]}

        async def searches() -> list[int]:
            counts = []
            for arguments, session in (({"query": "upload"}, one), ({"query": "upload"}, two), (every, one), (pair, one)):
                before = calls["words"]
                await engine.retrieve(arguments, session)
                counts.append(calls["words"] - before)
            return counts

        calls = Calls(engine, monkeypatch)
        assert await searches() == [1, 1, 2, 2]
        assert await searches() == [0, 0, 0, 0]
        await engine.add({"task": "upload again", "trace_id": "second"}, one)
        await settled(engine)
        assert await searches() == [1, 0, 2, 2]
        assert set(ids(await engine.retrieve(every, two))) == {"first", "second"}
        assert ids(await engine.retrieve({"query": "upload"}, two)) == ["first"]
        await engine.add({"task": "upload again", "trace_id": "second"}, one)  # unchanged
        assert (await searches())[1] == 0


async def test_an_unknown_namespace_is_empty_and_the_known_ones_are_named(tmp_path: Path, tiny: TinyModel) -> None:
    """Searching makes none; and it is found as soon as there is something in it."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        session = engine.session()
        found = await engine.retrieve({"query": "upload"}, session)
        assert ids(found) == []
        assert "no traces in namespace default; namespaces that have some: none yet" in found.note
        await engine.add({"task": "upload", "namespace": "real"}, session)
        await settled(engine)
        found = await engine.retrieve({"query": "upload", "namespace": ["imagined", "real"]}, session)
        assert (len(ids(found)), found.namespaces) == (1, ("real",))
        assert found.note == "no traces in namespace imagined; namespaces that have some: real"
        await engine.add({"task": "upload", "namespace": "imagined"}, session)
        found = await engine.retrieve({"query": "upload", "namespace": ["imagined", "real"]}, session)
        assert (len(ids(found)), found.note) == (2, "")


async def test_namespaces_are_isolated(tmp_path: Path, tiny: TinyModel) -> None:
    """A client's own is the default; equal ids live side by side."""
    async with Engine.open(settings_of(tmp_path, namespace="house")) as engine:
        guest, house = engine.session("guest"), engine.session()
        await engine.add({"task": "upload for guests", "trace_id": "t"}, guest)
        await engine.add({"task": "upload for the house", "trace_id": "t"}, house)
        (found,) = (await engine.retrieve({"query": "upload"}, guest)).page.results
        assert (found.namespace, found.task) == ("guest", "upload for guests")
        (found,) = (await engine.retrieve({"query": "upload"}, house)).page.results
        assert (found.namespace, found.task) == ("house", "upload for the house")
        everywhere = await engine.retrieve({"query": "upload", "namespace": "*"}, guest)
        assert {result.namespace for result in everywhere.page.results} == {"guest", "house"}
        assert everywhere.page.text.count('namespace="') == 2
        stored = await engine.trace("t", guest)
        assert stored is not None
        assert stored.trace.namespace == "guest"
        with pytest.raises(InputError, match=r"^trace_id: 't' is in the namespaces 'guest', 'house': call retrieve with the one that"):
            await engine.trace("t", engine.session("third"))
        assert await engine.trace("absent", guest) is None


async def test_a_page_goes_on_where_the_last_one_ended_whatever_was_written_since(tmp_path: Path, tiny: TinyModel) -> None:
    """Nothing that was there all the time is told twice or never."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        session = engine.session()
        for i in range(20):
            # Days apart: neighbours lend, and those who are left behind by the forgotten stand elsewhere.
            await engine.add({"task": f"upload number {i}", "trace_id": f"{i}", "occurred_at": f"2026-01-{i + 1:02}"}, session)
        await settled(engine)
        everything = ids(await engine.retrieve({"query": "upload number", "k": 50}, session))
        page = await engine.retrieve({"query": "upload number", "k": 4}, session)
        await forget(engine, trace_ids=ids(page)[:2], dry_run=False)
        await engine.add({"task": "upload number", "trace_id": "best"}, session)
        await settled(engine)
        seen = ids(page)
        while page.next_cursor is not None:
            page = await engine.retrieve({"query": "upload number", "k": 4, "cursor": page.next_cursor}, session)
            seen += ids(page)
        assert sorted(seen) == sorted(everything)


async def test_where_nothing_is_found_nobody_is_told_that_it_is_the_best(
    tmp_path: Path, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though an index without a vector cannot say that this is all."""
    monkeypatch.setattr(dense, "RESIDENT_CHUNKS", 0)
    tiny.failing = "upload"
    async with Engine.open(settings_of(tmp_path)) as engine:
        session = engine.session()
        await engine.add({"task": "upload"}, session)
        await settled(engine)
        found = await engine.retrieve({"query": "zebra"}, session)
        assert (found.page.text, found.note) == ("No memory matches.", "")


async def test_where_more_match_than_are_told_the_last_page_says_so(
    tmp_path: Path, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever wants all with a tag must not take it for everything."""
    monkeypatch.setattr(scoring, "FOUND_TRACES", 20)
    monkeypatch.setattr(scoring, "EXACT_TRACES", 10)
    async with Engine.open(settings_of(tmp_path)) as engine:
        session = engine.session()
        for i in range(60):
            few = {"tags": ["few"], "content": "upload number one and another line\n" * 100} if i < 3 else {}
            await engine.add({"task": f"upload number {i}", "trace_id": f"{i}", **few}, session)
        await settled(engine)
        first = await engine.retrieve({"query": "upload", "k": 15}, session)
        assert (len(ids(first)), first.note) == (15, "")
        last = await engine.retrieve({"query": "upload", "k": 50, "cursor": first.next_cursor}, session)
        told = 15 + len(ids(last))
        assert 20 <= told < 60
        assert (last.next_cursor, last.note) == (None, f"only the best {told} are told: narrow the question for others")
        assert f"({last.note})" in last.page.text
        few = await engine.retrieve({"query": "upload", "k": 50, "tags": ["few"]}, session)
        assert (len(ids(few)), few.note) == (3, "")
        # Of long ones an index proposes a part.
        monkeypatch.setattr(engine.retriever._scorer, "_candidates", 5)
        monkeypatch.setattr(scoring, "EVERY_CHUNK", 0)
        few = await engine.retrieve({"query": "upload number", "k": 50, "tags": ["few"]}, session)
        assert (len(ids(few)), few.note) == (3, "")


async def test_pages_follow_each_other_without_overlap_to_the_end(tmp_path: Path, tiny: TinyModel) -> None:
    """Every trace that matches is on exactly one of them, and the last page has no cursor."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        session = engine.session()
        await asyncio.gather(*(engine.add({"task": f"upload number {i}", "trace_id": f"{i}"}, session) for i in range(23)))
        await settled(engine)
        seen: list[str] = []
        arguments: dict[str, Any] = {"query": "upload", "k": 5}
        while True:
            page = await engine.retrieve(arguments, session)
            seen += ids(page)
            if page.next_cursor is None:
                break
            arguments["cursor"] = page.next_cursor
        assert sorted(seen, key=int) == [f"{i}" for i in range(23)]
        whole = await engine.retrieve({"query": "upload", "k": 50}, session)
        assert (ids(whole), whole.next_cursor) == (seen, None)
        with pytest.raises(InputError, match=r"^cursor: belongs to another query"):
            await engine.retrieve({"query": "other", "cursor": arguments["cursor"]}, session)
        beyond = await engine.retrieve({**arguments, "k": 50}, session)
        assert ids(beyond) == seen[20:]


async def test_the_text_keeps_to_its_budget(tmp_path: Path, tiny: TinyModel) -> None:
    """As counted by the engine's own tokenizer."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        session = engine.session()
        for i in range(8):
            await engine.add(
                {"task": f"upload {i}", "content": f"The upload {i} failed. It was mended. " * 100, "lessons": ["Look twice."]}, session
            )
        tokenizer = engine.tokenizer
        for max_tokens in (50, 120, 500, 3_000):
            found = await engine.retrieve({"query": "upload", "k": 8, "max_tokens": max_tokens}, session)
            assert tokenizer.count(found.page.text) == found.page.tokens <= max_tokens
            assert len(found.page.results) == 8


@pytest.mark.parametrize(
    "raw", [{}, {"task": ""}, {"task": "t", "outcome": "won"}, {"task": "t", "colour": "red"}, {"task": "t", "tags": [1]}]
)
async def test_bad_input_stores_nothing(tmp_path: Path, tiny: TinyModel, raw: dict[str, Any]) -> None:
    """Not even a namespace."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        with pytest.raises(InputError):
            await engine.add({**raw, "namespace": "new"}, engine.session())
        assert await everything(engine.store) == []
        assert engine.spaces == {}


async def test_adding_says_what_it_did(tmp_path: Path, tiny: TinyModel) -> None:
    """Created, unchanged and by then indexed, updated; without an id it gets one that sorts by time."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        session = engine.session()
        first = await engine.add({"task": "upload", "content": "word " * 150, "trace_id": "mine"}, session)
        assert (first.trace_id, first.status, first.chunks, first.indexed) == ("mine", "created", 3, False)
        assert first.tokens == engine.tokenizer.count("upload\n" + "word " * 150)
        await settled(engine)
        again = await engine.add({"task": "upload", "content": "word " * 150, "trace_id": "mine"}, session)
        assert (again.status, again.chunks, again.tokens, again.indexed) == ("unchanged", 3, first.tokens, True)
        updated = await engine.add({"task": "upload", "trace_id": "mine"}, session)
        assert (updated.status, updated.chunks, updated.indexed) == ("updated", 1, False)
        given = [(await engine.add({"task": "upload"}, session)).trace_id for _ in range(20)]
        assert given == sorted(set(given))


async def test_traces_written_together_share_commits(tmp_path: Path, tiny: TinyModel) -> None:
    """Many clients cost fewer flushes than writes."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        await settled(engine)
        before = (await engine.store.read(engine.store.figures))["commits"]
        await asyncio.gather(*(engine.add({"task": f"{i}"}, engine.session()) for i in range(200)))
        after = (await engine.store.read(engine.store.figures))["commits"]
        assert after - before < 100  # type: ignore[operator]


async def test_everything_is_there_after_a_restart(tmp_path: Path, tiny: TinyModel) -> None:
    """Found by both indexes, without embedding anything again, and without what the cache has on disk."""
    async with Engine.open(settings_of(tmp_path, cache={"disk_bytes": 0})) as engine:
        for i in range(5):
            await engine.add({"task": f"upload {i}", "trace_id": f"{i}"}, engine.session())
        await settled(engine)
        before = await engine.retrieve({"query": "upload 3"}, engine.session())
    tiny.batches.clear()
    async with Engine.open(settings_of(tmp_path, cache={"disk_bytes": 0})) as engine:
        await settled(engine)
        after = await engine.retrieve({"query": "upload 3"}, engine.session())
        assert after.page == before.page
        assert tiny.texts == ["upload 3"]


async def test_an_import_of_an_export_is_unchanged(tmp_path: Path, tiny: TinyModel) -> None:
    """In the same place; elsewhere it is the same set of traces."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        await engine.add({"task": "upload", "lessons": ["L", {"title": "T", "content": "C"}], "metadata": {"n": 1.5}}, engine.session())
        exported = [json.loads(json.dumps(stored.trace.as_json())) for stored in await everything(engine.store)]
        again = [parse_trace(row, limits=engine.limits, namespace="n", trace_id="t") for row in exported]
        assert [added.status for added in await engine.add_many(again)] == ["unchanged"]


async def test_texts_that_are_stored_again_elsewhere_are_not_cut_again(
    tmp_path: Path, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restart, too, and whoever stored them first; but they are where the settings cut them at other places."""
    texts: list[str] = []
    spans_of = ModelTokens.__call__
    monkeypatch.setattr(ModelTokens, "__call__", lambda self, text: texts.append(text) or spans_of(self, text))
    content = "One of sixty sentences. " * 60

    async def chunks_in(namespace: str, **settings: Any) -> list[Any]:
        async with Engine.open(settings_of(tmp_path, **settings)) as engine:
            one = parse_trace({"task": "upload", "content": content}, limits=engine.limits, namespace=namespace, trace_id="one")
            assert [added.status for added in await engine.add_many([one])] == ["created"]
            (row,) = await engine.store.read(lambda db: traces.rows_of(db, ["one"], [namespace]))
            return (await engine.store.read(lambda db: vectors.spans(db, [row])))[row]

    async with Engine.open(settings_of(tmp_path)) as engine:
        await engine.add({"task": "upload", "content": content, "trace_id": "given by an agent"}, engine.session())
    assert texts == ["upload", content]
    first = await chunks_in("first")
    assert (texts, len(first) > 2) == (["upload", content], True)
    shorter = {"index": {"chunk_tokens": 40, "chunk_overlap_tokens": 0}}
    assert len(await chunks_in("shorter", **shorter)) > len(first)
    assert texts == ["upload", content] * 2
    assert await chunks_in("again") == first
    assert texts == ["upload", content] * 2


async def test_what_is_forgotten_is_found_by_nobody(tmp_path: Path, tiny: TinyModel) -> None:
    """Neither by words nor by meaning nor from a cache, and it is not in the store's file."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        session = engine.session()
        await engine.add({"task": "the secret xyzzy4711", "trace_id": "secret"}, session)
        await engine.add({"task": "the rest", "trace_id": "rest"}, session)
        await settled(engine)
        assert ids(await engine.retrieve({"query": "xyzzy4711"}, session))[0] == "secret"
        rows = [stored.row for stored in await everything(engine.store) if stored.trace.trace_id == "secret"]
        assert await engine.forget(lambda db: rows) == 1
        assert ids(await engine.retrieve({"query": "xyzzy4711"}, session)) == ["rest"]
        for file in engine.settings.data_dir.glob(f"{STORE_NAME}*"):
            assert b"xyzzy4711" not in file.read_bytes()
        assert await engine.forget(lambda db: rows) == 0


@pytest.mark.parametrize("deep", [True, False], ids=["meaning", "words"])
async def test_of_metadata_numbers_are_equal_as_numbers_and_true_is_none(tmp_path: Path, load_with: LoadWith, deep: bool) -> None:
    """By both indexes, as in JSON."""

    def load() -> EmbeddingModel:
        if deep:
            return TinyModel()
        raise ModelLoadError("there is none")

    load_with(load)
    async with Engine.open(settings_of(tmp_path)) as engine:
        session = engine.session()
        for name, value in {"yes": True, "one": 1, "no": False, "zero": 0.0, "text": "1"}.items():
            await engine.add({"task": "upload", "trace_id": name, "content": name, "metadata": {"n": value}}, session)
        await engine.warm.wait()
        assert await engine.indexer.wait(engine.retriever.sinks, up_to=None, timeout_s=WAIT_S)
        asked: list[tuple[object, list[str]]] = [
            (True, ["yes"]), (1, ["one"]), (1.0, ["one"]), (False, ["no"]), (0, ["zero"]), ("1", ["text"]), ("true", []),
        ]  # fmt: skip
        for value, expected in asked:
            assert ids(await engine.retrieve({"query": "upload", "metadata": {"n": value}}, session)) == expected


async def test_metadata_narrows_what_is_found_and_forgotten(tmp_path: Path, tiny: TinyModel) -> None:
    """All keys must be equal; a number equals the same number however it is written."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        session = engine.session()
        for i in range(6):
            metadata = {"repo": "ab"[i % 2], "pr": i}
            await engine.add({"task": f"upload {i}", "trace_id": f"{i}", "metadata": metadata}, session)
        await settled(engine)
        found = {}
        for wanted in ({"repo": "a"}, {"repo": "b", "pr": 3.0}, {"pr": "3"}, {"repo": "b", "pr": 2}):
            found[str(wanted)] = set(ids(await engine.retrieve({"query": "upload", "metadata": wanted, "k": 9}, session)))
        assert list(found.values()) == [{"0", "2", "4"}, {"3"}, set(), set()]
        assert (await forget(engine, metadata={"repo": "a"}, dry_run=False)).deleted == 3
        assert set(ids(await engine.retrieve({"query": "upload", "k": 9}, session))) == {"1", "3", "5"}


async def test_a_broken_index_is_repaired_behind_the_answers(tmp_path: Path, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words answer meanwhile, with a note; afterwards meaning is back, and nothing was lost."""
    # So few would be searched in memory.
    monkeypatch.setattr("tracebank.retrieval.dense.RESIDENT_CHUNKS", 0)
    async with Engine.open(settings_of(tmp_path)) as engine:
        session = engine.session()
        for i in range(5):
            await engine.add({"task": f"upload {i}", "trace_id": f"{i}"}, session)
        await settled(engine)
        for path in (engine.settings.data_dir / "index" / "vectors-1").rglob("*"):
            if path.is_file():
                spoil(path)
        found = await engine.retrieve({"query": "upload"}, session)
        assert (len(ids(found)), found.dense, found.note) == (5, False, "the index of vectors is being rebuilt")
        await asyncio.gather(*[task for task in engine.background.tasks if task.get_name() == "repair of vectors"])
        await settled(engine)
        found = await engine.retrieve({"query": "upload"}, session)
        assert (len(ids(found)), found.dense, found.note) == (5, True, "")
        assert engine.indexer.rebuilds == {"words": 0, "vectors": 1, "vectors_next": 0}


async def test_an_index_that_was_deleted_is_filled_from_the_store(tmp_path: Path, tiny: TinyModel) -> None:
    """They hold nothing that the store does not."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        await engine.add({"task": "upload", "trace_id": "mine"}, engine.session())
        await settled(engine)
    shutil.rmtree(tmp_path / "data" / "index")
    tiny.batches.clear()
    async with Engine.open(settings_of(tmp_path)) as engine:
        await settled(engine)
        assert tiny.batches == []
        found = await engine.retrieve({"query": "upload"}, engine.session())
        assert (ids(found), found.dense) == (["mine"], True)


async def test_a_search_that_cannot_wait_longer_says_so_and_is_not_kept(tmp_path: Path, tiny: TinyModel) -> None:
    """The wait for the caller's own writes is bounded; the next answer is complete."""
    async with Engine.open(settings_of(tmp_path, retrieval={"wait_ms": 0})) as engine:
        await warm(engine)
        session = engine.session()
        await engine.retrieve({"query": "upload"}, session)
        tiny.gate.clear()
        await engine.add({"task": "upload", "trace_id": "mine"}, session)
        found = await engine.retrieve({"query": "upload"}, session)
        assert "your latest traces are still being indexed" in found.note
        tiny.gate.set()
        await settled(engine)
        found = await engine.retrieve({"query": "upload"}, session)
        assert (ids(found), found.note) == (["mine"], "")


async def test_a_second_engine_on_a_directory_is_refused_by_the_process_of_the_first(tmp_path: Path, tiny: TinyModel) -> None:
    """And the first goes on undisturbed; when it has closed, the next may open."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        with pytest.raises(DataDirLockedError, match=f"is in use by process {os.getpid()}: end it with `tracebank stop`"):
            async with Engine.open(settings_of(tmp_path)):
                pass
        assert (await engine.add({"task": "upload"}, engine.session())).status == "created"
    async with Engine.open(settings_of(tmp_path)) as engine:
        assert len(await everything(engine.store)) == 1


HOLDER = """
import asyncio, sys
from pathlib import Path
from tracebank.engine import Engine
from tracebank.settings import load_settings

async def main():
    async with Engine.open(load_settings(Path(sys.argv[1]))) as engine:
        added = await engine.add({"task": "written before the kill", "trace_id": "mine"}, engine.session())
        print(added.trace_id, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def hold_and_kill(data_dir: Path, meanwhile: Callable[[int], None]) -> None:
    """Let another process open the engine and store a trace; kill it after `meanwhile`."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(data_dir)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mine\n"
        meanwhile(process.pid)
        process.kill()


async def test_a_killed_engine_leaves_no_lock_and_every_trace(tmp_path: Path, tiny: TinyModel) -> None:
    """The next one opens at once, and finds what the first had acknowledged."""

    async def refused(pid: int) -> None:
        with pytest.raises(DataDirLockedError, match=f"is in use by process {pid}: "):
            async with Engine.open(settings_of(tmp_path)):
                pass

    await asyncio.to_thread(hold_and_kill, tmp_path / "data", lambda pid: asyncio.run(refused(pid)))
    async with Engine.open(settings_of(tmp_path)) as engine:
        await settled(engine)
        found = await engine.retrieve({"query": "written before the kill"}, engine.session())
        assert (ids(found), found.dense) == (["mine"], True)


async def test_the_first_search_finds_what_a_killed_engine_had_not_indexed_yet(tmp_path: Path, tiny: TinyModel) -> None:
    """It was acknowledged: whoever asks the next engine at once need not know that there was another."""
    settings = settings_of(tmp_path, index={"linger_ms": 10_000})
    prepare_data_dir(settings.data_dir)
    with contextlib.closing(Store.open(settings.data_dir / STORE_NAME)) as store:
        trace = parse_trace({"task": "written before the kill"}, limits=Limits(), namespace="default", trace_id="mine")
        chunks = chunks_of(trace, word_spans, tokens=100, overlap_tokens=0)
        await store.write(lambda db: traces.upsert(db, trace, chunks, now_ms=1, priority=outbox.INTERACTIVE))
    # By itself it waits for company.
    async with Engine.open(settings) as engine:
        assert ids(await engine.retrieve({"query": "written before the kill"}, engine.session())) == ["mine"]


async def test_how_long_it_has_been_there_does_not_depend_on_the_systems_clock(tmp_path: Path, tiny: TinyModel) -> None:
    """Which somebody may set meanwhile."""
    async with Engine.open(settings_of(tmp_path), clock=lambda: time.time() + 1e6) as engine:
        assert 0 <= (await report(engine, "engine"))["engine"]["uptime_s"] < 1e5


async def test_the_data_directory_is_its_owners_alone(tmp_path: Path, tiny: TinyModel) -> None:
    """With all that is in it."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        await engine.add({"task": "upload"}, engine.session())
        await settled(engine)
        data_dir = engine.settings.data_dir
        assert data_dir.stat().st_mode & 0o077 == 0
        assert (data_dir / LOCK_NAME).stat().st_mode & 0o077 == 0


async def test_what_cannot_be_opened_is_told_and_leaves_no_lock(tmp_path: Path, tiny: TinyModel) -> None:
    """A store that is none, and a directory that cannot be made."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / STORE_NAME).write_bytes(b"garbage" * 100)
    for _ in range(2):
        with pytest.raises(StoreCorruptError):
            async with Engine.open(settings_of(tmp_path)):
                pass
    (tmp_path / "file").write_text("")
    with pytest.raises(DataDirError, match=r"cannot be created: .*; set TRACEBANK_DATA_DIR"):
        async with Engine.open(load_settings(tmp_path / "file" / "data")):
            pass


async def test_a_cut_waits_for_the_model_a_lossless_fit_does_not(tmp_path: Path, arrived: threading.Event) -> None:
    """Nor does one that only cuts the middle; and nobody waits for longer than is set."""
    text = "The valve leaks. The pump hums. " * 40
    options: dict[str, Any] = {"budget_tokens": 40, "ratio": None, "query": "what leaks?"}
    async with Engine.open(settings_of(tmp_path, compression={"model_wait_s": WAIT_S})) as engine:
        await engine.compress("short", **options)
        await engine.compress(text, **options, strategy="head_tail")
        cut = asyncio.create_task(engine.compress(text, **options))
        async with asyncio.timeout(WAIT_S):
            while len(engine.embedding._settled._waiters) < 2:  # noqa: ASYNC110 - the other is the engine itself
                await asyncio.sleep(0)
        assert not cut.done()
        # Nor does anybody wait because others do.
        others = [asyncio.create_task(engine.compress(text, **options)) for _ in range(compressor.PARALLEL_SHORT)]
        async with asyncio.timeout(WAIT_S):
            while len(engine.embedding._settled._waiters) < 2 + len(others):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0)
            await engine.compress(text, **options, strategy="head_tail")
        arrived.set()
        await asyncio.gather(*others)
        compressed, _ = await cut
        assert "leaks" in compressed.text
    arrived.clear()
    async with Engine.open(settings_of(tmp_path / "impatient", compression={"model_wait_s": 0})) as engine:
        assert "leaks" in (await engine.compress(text, **options))[0].text
        arrived.set()


class ReadBy:
    """Finds words as a pattern does, and tells which thread has read how often."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._pattern = pattern
        self.threads: list[threading.Thread] = []

    def findall(self, text: str) -> list[str]:
        """Return the words of a text."""
        self.threads.append(threading.current_thread())
        return self._pattern.findall(text)


async def test_each_of_many_near_equal_traces_is_read_once(tmp_path: Path, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the page is full more and more of them are looked at, and never where everybody else is served."""
    reading = ReadBy(duplicates._WORD)
    monkeypatch.setattr(duplicates, "_WORD", reading)
    async with Engine.open(settings_of(tmp_path)) as engine:
        session = engine.session()
        for number in range(12):
            await engine.add({"task": "Repair the roof", "content": "The roof leaks. " * 10, "trace_id": f"t{number}"}, session)
        await settled(engine)
        found = await engine.retrieve({"query": "Repair the roof", "k": 3}, session)
        assert [len(result.near_equal) for result in found.page.results] == [11]
    assert len(reading.threads) == 12
    assert threading.main_thread() not in reading.threads


async def test_texts_that_are_shortened_leave_the_threads_to_everybody_else(
    tmp_path: Path, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many and long they are; and a short one waits behind no long one."""
    sentences = [f"Valve {number} leaks at joint {number * 7}." for number in range(4_000)]
    long_text, short_text = " ".join(sentences), " ".join(sentences[:80])
    assert len(long_text) > compressor.LONG_CHARS > len(short_text)
    options: dict[str, Any] = {"budget_tokens": 400, "ratio": None}
    async with Engine.open(settings_of(tmp_path)) as engine:
        await warm(engine)
        monkeypatch.setattr(to_thread.current_default_thread_limiter(), "total_tokens", 2)
        tiny.gate.clear()
        before = len(tiny.batches)
        cuts = [asyncio.create_task(engine.compress(long_text, **options, query="which valve leaks?")) for _ in range(5)]
        async with asyncio.timeout(WAIT_S):
            # The first one holds its thread until the model has read, and the others theirs, had they one each.
            while not tiny.batches[before:]:  # noqa: ASYNC110 - the model runs in a thread and tells nobody
                await asyncio.sleep(0)
            await to_thread.run_sync(lambda: None)
            assert (await engine.compress(short_text, **options))[0].tokens <= 400
        assert not any(cut.done() for cut in cuts)
        cuts[-1].cancel()
        tiny.gate.set()
        *done, gone = await asyncio.gather(*cuts, return_exceptions=True)
        assert len({cut[0].text for cut in done if not isinstance(cut, BaseException)}) == 1
        assert isinstance(gone, asyncio.CancelledError)


async def test_closing_while_the_model_is_loading_waits_for_nothing(tmp_path: Path, arrived: threading.Event) -> None:
    """Who is served meanwhile hears of it; what was stored is there at the next start."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        await engine.add({"task": "upload"}, engine.session())
    assert not arrived.is_set()
    arrived.set()
    async with Engine.open(settings_of(tmp_path)) as engine:
        assert len(await everything(engine.store)) == 1


async def test_sessions_are_of_the_engine_that_made_them(tmp_path: Path, tiny: TinyModel) -> None:
    """With the namespace of their client, else of the settings."""
    async with Engine.open(settings_of(tmp_path, namespace="house")) as engine:
        await warm(engine)
        assert engine.session() == Session(engine, "house")
        assert engine.session("guest").namespace == "guest"


async def test_what_is_stored_for_a_caller_who_gave_up_is_found_all_the_same(tmp_path: Path, tiny: TinyModel) -> None:
    """In a namespace that is new with it: it is known, and nothing waits for the next write."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        await warm(engine)
        going = threading.Event()
        held = asyncio.create_task(engine.store.write(lambda db: going.wait(WAIT_S)))
        call = asyncio.create_task(engine.add({"task": "deploy", "trace_id": "t", "namespace": "new"}, engine.session()))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert call.cancelled()
        going.set()
        await held
        await engine.intake.close()
        await settled(engine)
        assert ids(await engine.retrieve({"query": "deploy", "namespace": "new"}, engine.session())) == ["t"]


async def test_an_episode_that_had_ended_before_owes_nothing_to_what_was_shown_since(tmp_path: Path, tiny: TinyModel) -> None:
    """A call that is repeated must not take the credit from the next episode."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        session = engine.session()
        await engine.add({"task": "deploy", "trace_id": "t"}, session)
        episode = await engine.log_steps({"task": "deploy again", "steps": [{"action": "run"}]}, session)
        done = {"episode_id": episode.episode_id, "outcome": "success"}
        await engine.complete_episode(done, session)
        await engine.retrieve({"query": "deploy", "k": 1}, session)
        shown = list(session.recalled)
        assert len(shown) == 1
        await engine.complete_episode(done, session)
        assert list(session.recalled) == shown
        other = await engine.log_steps({"task": "deploy once more", "steps": [{"action": "run"}]}, session)
        await engine.complete_episode({"episode_id": other.episode_id, "outcome": "success"}, session)
        assert not session.recalled


async def test_of_several_questions_nothing_is_left_out_between_pages_whatever_is_stored(tmp_path: Path, tiny: TinyModel) -> None:
    """Though the best of each were shown before their turn; what was shown is not told again in its turn."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        session = engine.session()
        for i in range(6):
            await engine.add({"task": "Count herons " + "again " * i, "trace_id": f"heron-{i}"}, session)
        await engine.add({"task": "printer", "trace_id": "printer"}, session)
        await settled(engine)
        asked: dict[str, Any] = {"query": ["count herons again", "printer paper jam tray two"], "k": 2}
        page = await engine.retrieve(asked, session)
        told = [result.trace_id for result in page.page.results]
        assert "printer" in told
        await engine.add({"task": "Printer paper jam in tray two", "trace_id": "new"}, session)
        await settled(engine)
        while page.next_cursor is not None:
            page = await engine.retrieve({**asked, "cursor": page.next_cursor}, session)
            told += [result.trace_id for result in page.page.results]
        assert {f"heron-{i}" for i in range(6)} <= set(told)
        assert len(told) == len(set(told))


async def test_the_best_of_each_question_is_so_by_feedback_too(tmp_path: Path, tiny: TinyModel) -> None:
    """One that misled leads no page."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        session = engine.session()
        for colour in ("blue", "green"):
            await engine.add({"task": f"upload the report in {colour}", "trace_id": colour}, session)
        await engine.add({"task": "paint the fence", "trace_id": "fence"}, session)
        await settled(engine)
        asked: dict[str, Any] = {"query": ["upload the report in color", "paint the fence"], "k": 2}
        first = {result.trace_id for result in (await engine.retrieve(asked, session)).page.results}
        (misleading,) = first - {"fence"}
        for _ in range(12):
            await engine.feedback({"trace_ids": [misleading], "helpful": False}, engine.session())
        now = {result.trace_id for result in (await engine.retrieve(asked, session)).page.results}
        assert now == {"fence", "blue", "green"} - {misleading}
