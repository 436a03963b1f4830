"""Searching by meaning and by words, against an exact search of everything."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from anyio import from_thread, to_thread
from samples import TinyModel, by_chunk, by_row, cut, model_of, put, text_of, tiny_vector, trace

from tracebank.chunking import text_hash, word_spans
from tracebank.embedding import EmbeddingService
from tracebank.errors import IndexFaultError, ModelLoadError
from tracebank.gate import Gate
from tracebank.index import ChromaVectorIndex, IndexedTrace, TantivyWordIndex, WordHits
from tracebank.index import words as words_module
from tracebank.meaning import Meaning
from tracebank.metrics import Metrics
from tracebank.records import Filters, Outcome, Trace
from tracebank.retrieval import Ranked, Retriever
from tracebank.retrieval import dense as dense_module
from tracebank.retrieval import scoring as scoring_module
from tracebank.retrieval.context import REACH, SHORT_CHUNKS, lifted
from tracebank.retrieval.dense import cosines
from tracebank.retrieval.fusion import by_score, fuse, merge
from tracebank.retrieval.questions import parts_of
from tracebank.retrieval.scoring import EXACT_TRACES
from tracebank.scores import NO_SCORES, Scores, numbers_of, row_of
from tracebank.store import Store, filtering, traces, vectors

pytestmark = pytest.mark.anyio

WORDS = [f"{a}{b}" for a in "kiwi plum fig pear lime nut oat rye".split() for b in ("", "berry", "wood", "field", "stone", "light")]
EVERYTHING = 100_000


@dataclass
class Library:
    """Indexed traces, and how to search them exactly."""

    store: Store
    words: TantivyWordIndex
    vectors: ChromaVectorIndex
    embedding: EmbeddingService
    model: TinyModel
    model_id: int
    spaces: dict[int, dict[int, Trace]]

    def retriever(self, candidates: int, *, deep: bool = True) -> Retriever:
        """Return a retriever that takes so many candidates from each index."""
        made = Retriever(
            store=self.store, words=self.words, embedding=self.embedding, candidates=candidates, metrics=Metrics(), searching=Gate()
        )
        if deep:
            made.attach(Meaning(self.vectors, self.embedding, self.model_id))
        return made

    def exact(self, texts: Sequence[str], spaces: Sequence[int], filters: Filters = Filters(), *, deep: bool = True) -> list[Ranked]:  # noqa: B008
        """Return the ranking of all that passes the filters, every chunk scored."""
        return merge([self._exact(text, spaces, filters, deep) for text in texts])

    def _exact(self, text: str, spaces: Sequence[int], filters: Filters, deep: bool) -> list[Ranked]:
        """Return the ranking with what neighbours lend: of all namespaces the best do."""
        own = [found for space in spaces for found in self._of_space(text, space, filters, deep)]
        # `self.spaces` holds the traces in the order of time.
        orders = [list(self.spaces[space]) for space in spaces]
        near = {row: (o[max(0, i - REACH) : i][::-1], o[i + 1 : i + 1 + REACH]) for o in orders for i, row in enumerate(o)}
        short = {row for space in spaces for row, value in self.spaces[space].items() if len(cut(value)) <= SHORT_CHUNKS}
        return lifted(by_score(own), near, short)

    def _of_space(self, text: str, space: int, filters: Filters, deep: bool) -> list[Ranked]:
        rows = [row for row, value in self.spaces[space].items() if passes(value, filters)]
        found = self.store.read_now(lambda db: vectors.of_traces(db, self.model_id, rows))
        hits = self.words.score(space, text, found.numbers, numbers_of(rows)) if rows else WordHits()
        return fuse(cosines(found, tiny_vector(text)) if deep else None, hits)


def passes(value: Trace, filters: Filters) -> bool:
    """Return whether a trace is what the filters ask for."""
    moment = value.occurred_at_ms or 0
    return (
        (not filters.outcomes or value.outcome in filters.outcomes)
        and set(filters.tags) <= set(value.tags)
        and (filters.since_ms is None or moment >= filters.since_ms)
        and (filters.until_ms is None or moment <= filters.until_ms)
    )


def random_trace(rng: random.Random, number: int, namespace: str) -> Trace:
    """Return a trace of random words; one in forty is rare."""
    return trace(
        f"{number}", namespace=namespace, task=" ".join(rng.choices(WORDS, k=6)),
        content=" ".join(rng.choices(WORDS, k=rng.randint(0, 200))), lessons=(),
        outcome=rng.choice(list(Outcome)), tags=("common", "rare") if number % 40 == 0 else ("common",), occurred_at_ms=number,
    )  # fmt: skip


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The library is opened once for the module."""
    return "asyncio"


@pytest.fixture(scope="module")
async def library(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Library]:
    """Three hundred random traces in two namespaces, in the store and both indexes."""
    directory: Path = tmp_path_factory.mktemp("library")
    store = Store.open(directory / "store.sqlite3")
    words, index = TantivyWordIndex(directory / "words"), ChromaVectorIndex(directory / "vectors", model="tiny")
    model, rng = TinyModel(), random.Random(11)
    embedding = EmbeddingService(
        lambda: model, name="tiny", batch_tokens=2_048, cache_bytes=100_000, metrics=Metrics(), clock=time.monotonic
    )
    embedding.start()
    await embedding.loaded()
    model_id = await model_of(store, "tiny")
    spaces: dict[int, dict[int, Trace]] = {}
    for space, (namespace, count) in enumerate([("one", 240), ("two", 60)], 1):
        values = [random_trace(rng, number, namespace) for number in range(count)]
        added = await put(store, *values)
        spaces[space] = {a.row: value for a, value in zip(added, values, strict=True)}
        batch = [
            IndexedTrace(
                row=row, text=value.text, chunks=tuple(c.text for c in cut(value)), outcome=str(value.outcome),
                tags=value.tags, occurred_at_ms=value.occurred_at_ms or 0,
            )
            for row, value in spaces[space].items()
        ]  # fmt: skip
        words.apply(space, batch, [])
        index.apply(space, [text_of(text) for text in {text: None for one in batch for text in one.chunks}], [])
        kept = {text_hash(c.text): tiny_vector(c.text) for value in values for c in cut(value)}
        await store.write(lambda db, kept=kept: vectors.put(db, model_id, kept))
    yield Library(store, words, index, embedding, model, model_id, spaces)
    await embedding.close()
    for opened in (words, index, store):
        opened.close()


def same(found: Sequence[Ranked], exact: Sequence[Ranked], first: int) -> None:
    """Assert that the first of a ranking are those of the exact one, with their scores (vectors are kept as float16).

    What neighbours lend depends on the last of those that lend, which few candidates know only nearly.
    """
    by_row = {ranked.row: ranked for ranked in exact}
    assert len(found) >= min(first, len(exact))
    for ranked, best in zip(found[:first], exact, strict=False):
        own = by_row[ranked.row]
        assert ranked.score == pytest.approx(best.score, abs=2e-2)
        assert ranked.context == pytest.approx(own.context, abs=2e-2)
        assert ranked.score - ranked.context == pytest.approx(own.score - own.context, abs=2e-3)
        assert ranked.passages[0][1] == pytest.approx(by_row[ranked.row].passages[0][1], abs=2e-3)


# Those of whom all is known exactly, less what neighbours may change at their end.
SCORED = EXACT_TRACES // 2
FILTERS = {
    "none": Filters(),
    "few": Filters(tags=("rare",)),
    "one": Filters(since_ms=17, until_ms=17),
    "nobody": Filters(tags=("absent",)),
    "many": Filters(outcomes=(Outcome.SUCCESS, Outcome.FAILURE)),
    "nearly all": Filters(tags=("common",), since_ms=3),
    "combined": Filters(outcomes=(Outcome.PARTIAL,), tags=("common",), since_ms=20, until_ms=200),
}
# Which are equal to Python.
APPROVED: list[tuple[str, Any]] = [("true", True), ("one", 1)]
QUESTIONS = ["kiwiberry plum", "figstone figwood oatfield rye", " ".join(WORDS[::5]), "absentword", "pearlight of the nutstone"]


@pytest.fixture(autouse=True)
def searched_by_chroma(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small as they are, the namespaces are not held in memory, and not all of them is proposed."""
    monkeypatch.setattr(dense_module, "RESIDENT_CHUNKS", 0)
    monkeypatch.setattr(scoring_module, "EVERY_CHUNK", 0)


@pytest.mark.parametrize("name", FILTERS)
async def test_a_namespace_that_is_held_in_memory_is_searched_exactly(library: Library, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """To the last of the ranking, with and without a filter."""
    monkeypatch.setattr(dense_module, "RESIDENT_CHUNKS", 4_096)
    retriever = library.retriever(EVERYTHING)
    for question in QUESTIONS:
        searched = await retriever.search([question], [1], FILTERS[name])
        same(searched.ranking, library.exact([question], [1], FILTERS[name]), SCORED)


@pytest.mark.parametrize("name", FILTERS)
async def test_of_a_small_namespace_all_is_proposed(library: Library, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """However few candidates there are elsewhere: so nothing has to be scored apart, and the ranking is exact to its last."""
    monkeypatch.setattr(dense_module, "RESIDENT_CHUNKS", 4_096)
    monkeypatch.setattr(scoring_module, "EVERY_CHUNK", 4_096)
    retriever = library.retriever(10)
    for question in QUESTIONS:
        with monkeypatch.context() as proposing:
            proposing.setattr(library.words, "score", lambda *_: pytest.fail("something was scored apart"))
            searched = await retriever.search([question], [1], FILTERS[name])
        same(searched.ranking, library.exact([question], [1], FILTERS[name]), SCORED)


@pytest.mark.parametrize("content", ["", "kiwi"], ids=["all of it", "its task"])
async def test_what_has_no_vector_yet_is_taken_for_an_average_one_in_a_small_namespace_too(
    library: Library, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    """What was just stored is not put behind all others, of which there are more than are scored exactly."""
    monkeypatch.setattr(dense_module, "RESIDENT_CHUNKS", 4_096)
    monkeypatch.setattr(scoring_module, "EVERY_CHUNK", 4_096)
    texts = [(f"kiwi {word} {number}", "") for number, word in enumerate(2 * WORDS)] + [("lime kiwi" if not content else "lime", content)]
    added = await put(library.store, *(trace(f"{i}", namespace="new", task=t, content=c, lessons=()) for i, (t, c) in enumerate(texts)))
    (space,) = library.store.read_now(lambda db: traces.spaces_of(db, [added[0].row]))
    rows = [one.row for one in added]
    indexed = [
        IndexedTrace(row=row, text=" ".join(parts), chunks=tuple(filter(None, parts)), outcome="success", tags=(), occurred_at_ms=0)
        for row, parts in zip(rows, texts, strict=True)
    ]
    library.words.apply(space, indexed, [])
    kept = {text_hash(text): tiny_vector(text) for text in [*(task for task, _ in texts[:-1]), *filter(None, [content])]}
    await library.store.write(lambda db: vectors.put(db, library.model_id, kept))
    try:
        ranking = (await library.retriever(10).search(["kiwi"], [space], Filters())).ranking
        monkeypatch.setattr(scoring_module.Proposed, "exact", False)
        scored_apart = (await library.retriever(10).search(["kiwi"], [space], Filters())).ranking
    finally:
        library.words.apply(space, [], rows)
        await library.store.write(lambda db: traces.delete(db, rows))
    assert rows[-1] in [ranked.row for ranked in ranking[:EXACT_TRACES]]
    assert ranking == scored_apart


async def test_what_is_searched_side_by_side_is_found_as_one_after_the_other(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks, whole traces and meaning, where there is much of them; also where one of them fails."""
    for question in QUESTIONS:
        for filters in FILTERS.values():
            alone = await library.retriever(60).search([question], [1, 2], filters)
            with monkeypatch.context() as large:
                large.setattr(scoring_module, "BESIDE_CHUNKS", 0)
                large.setattr(words_module, "BESIDE_TRACES", 0)
                beside = await library.retriever(60).search([question], [1, 2], filters)
            assert beside == alone


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The namespaces whose vectors were read, in order; they are small enough to be held."""
    monkeypatch.setattr(dense_module, "RESIDENT_CHUNKS", 4_096)
    read: list[int] = []
    of_namespace = vectors.of_namespace
    monkeypatch.setattr(vectors, "of_namespace", lambda *args, **kwargs: read.append(args[2]) or of_namespace(*args, **kwargs))  # type: ignore[func-returns-value]
    return read


@pytest.mark.parametrize("passed_over", [False, True], ids=["small", "larger"])
async def test_what_is_held_of_a_namespace_is_read_anew_when_it_was_written(
    library: Library, monkeypatch: pytest.MonkeyPatch, read: list[int], passed_over: bool
) -> None:
    """Until then it is not read again; and where reading takes long, the index answers the first question after it."""
    monkeypatch.setattr(dense_module, "CHEAP_CHUNKS", 0 if passed_over else 4_096)
    dense = library.retriever(EVERYTHING).dense
    assert dense is not None
    before = dense.nearest(1, tiny_vector("kiwi"), Filters(), 60).cosines
    assert dense.nearest(1, tiny_vector("kiwi"), Filters(), 60).cosines == before
    assert read == [1]
    (added,) = await put(library.store, trace("new", namespace="one", task="kiwi", content="", lessons=()))
    try:
        await library.store.write(lambda db: vectors.put(db, library.model_id, {text_hash("kiwi"): tiny_vector("kiwi")}))
        if passed_over:
            assert dense.nearest(1, tiny_vector("kiwi"), Filters(), 60).cosines
            assert read == [1]
        assert next(iter(by_chunk(dense.nearest(1, tiny_vector("kiwi"), Filters(), 60).cosines))) == (added.row, 0)
        assert read == [1, 1]
    finally:
        await library.store.write(lambda db: traces.delete(db, [added.row]))


@pytest.mark.parametrize("room_for", [0, 1], ids=["none", "one"])
async def test_what_finds_no_room_is_read_once_a_minute(
    library: Library, monkeypatch: pytest.MonkeyPatch, read: list[int], room_for: int
) -> None:
    """Whoever asks all namespaces would read all of them for each question: the index answers for those that are not held.

    For a minute: those that take the room may not be asked for any more.
    """
    now = [1_000.0]
    monkeypatch.setattr(dense_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    chunks = sum(len(cut(value)) for value in library.spaces[1].values())
    monkeypatch.setattr(dense_module, "RESIDENT_BYTES", room_for * chunks * 300)
    retriever = library.retriever(EVERYTHING)
    for question in QUESTIONS[:2] * 2:
        found = await retriever.search([question], [1, 2], Filters())
        same(found.ranking, library.exact([question], [1, 2]), SCORED)
    assert sorted(read) == [1, 2]
    now[0] += dense_module.KNOWN_TTL_S + 1
    await retriever.search([QUESTIONS[0]], [1, 2], Filters())
    assert len(read) > 2


async def test_what_was_forgotten_while_it_was_read_is_not_held(library: Library, monkeypatch: pytest.MonkeyPatch, read: list[int]) -> None:
    """Nobody would let go of it."""
    dense = library.retriever(EVERYTHING).dense
    assert dense is not None
    (added,) = await put(library.store, trace("new", namespace="one", task="kiwi", content="", lessons=()))
    of_namespace = vectors.of_namespace

    def forgotten_meanwhile(*args: Any, **options: Any) -> Any:
        held = of_namespace(*args, **options)
        from_thread.run(library.store.write, lambda db: traces.delete(db, [added.row]))
        dense.forget([1])
        return held

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(vectors, "of_namespace", forgotten_meanwhile)
        await to_thread.run_sync(dense.nearest, 1, tiny_vector("kiwi"), Filters(), 60)
    assert read == [1]
    assert list(dense._residents) == []


@pytest.mark.parametrize("few_traces", [1_000, 20], ids=["exact", "oversampled"])
@pytest.mark.parametrize("name", FILTERS)
async def test_a_search_finds_what_an_exact_search_of_everything_finds(
    library: Library, monkeypatch: pytest.MonkeyPatch, name: str, few_traces: int
) -> None:
    """With few candidates or all, with filters that few or many traces pass, by both ways to filter.

    Where Chroma takes part, its search is approximate: there the best of the ranking are compared.
    """
    filters = FILTERS[name]
    monkeypatch.setattr(dense_module, "FEW_TRACES", few_traces)
    monkeypatch.setattr(dense_module, "INDEX_COST", 0)
    for candidates in (60, EVERYTHING):
        retriever = library.retriever(candidates)
        for question in QUESTIONS:
            searched = await retriever.search([question], [1], filters)
            assert (searched.dense, searched.note) == (True, "")
            exact = library.exact([question], [1], filters)
            whole = few_traces == 1_000 and filters and candidates == EVERYTHING
            same(searched.ranking, exact, SCORED if whole else 5)
            assert all(passes(library.spaces[1][ranked.row], filters) for ranked in searched.ranking)


async def test_where_asking_for_more_would_take_longer_all_that_passes_is_scored(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """More traces pass than are scored at once, and too few of the nearest: the index is not asked again."""
    monkeypatch.setattr(dense_module, "FEW_TRACES", 2)
    monkeypatch.setattr(dense_module, "ENOUGH", 2.0)
    # As where each condition lets many pass, and few meet all of them.
    monkeypatch.setattr(filtering, "at_most", lambda *_, **__: 240)
    dense = library.retriever(10).dense
    assert dense is not None
    asked: list[int] = []
    query = dense._nearest_texts
    monkeypatch.setattr(dense, "_nearest_texts", lambda space, question, limit: asked.append(limit) or query(space, question, limit))  # type: ignore[func-returns-value]
    filters = FILTERS["few"]
    for question in QUESTIONS:
        vector = tiny_vector(question)
        asked.clear()
        dense._passed.clear()
        found = dense.nearest(1, vector, filters, 10).cosines
        rows = [row for row, value in library.spaces[1].items() if passes(value, filters)]
        exact = cosines(library.store.read_now(lambda db, rows=rows: vectors.of_traces(db, library.model_id, rows)), vector)  # type: ignore[misc]
        assert sorted(found.values) == pytest.approx(sorted(exact.values)[-10:])
        assert len(asked) == 1


@pytest.mark.parametrize("held", [True, False])
async def test_of_some_chunks_just_their_cosines_are_told(library: Library, monkeypatch: pytest.MonkeyPatch, held: bool) -> None:
    """Whether the namespace is held or read from the store; what is not there has none."""
    monkeypatch.setattr(dense_module, "RESIDENT_CHUNKS", 4_096 if held else 0)
    dense, kiwi = library.retriever(10).dense, tiny_vector("kiwi")
    assert dense is not None
    everything = cosines(library.store.read_now(lambda db: vectors.of_traces(db, library.model_id, list(library.spaces[1]))), kiwi)
    chosen = numbers_of(everything.numbers[3::7].tolist())
    found = dense.cosines(1, numbers_of([*chosen.tolist(), 2**50]), kiwi)
    assert found.numbers.tolist() == chosen.tolist()
    assert found.values == pytest.approx(everything.of_numbers(chosen, otherwise=9.0), abs=1e-6)
    assert dense.cosines(1, numbers_of([]), kiwi) == NO_SCORES


def test_the_nearest_are_those_of_the_highest_scores_and_of_equals_the_first() -> None:
    """In the order of their numbers, as everybody reads them."""
    scores = Scores.by({number: (number * 7 % 5) / 10 for number in range(1, 40)})
    best = sorted(scores.by_number(), key=lambda number: (-scores.by_number()[number], number))
    for limit in (1, 3, 8, 9, 38, 39, 50):
        assert dense_module._top(scores, limit).numbers.tolist() == sorted(best[:limit])


def test_short_vectors_and_very_many_are_searched_wider() -> None:
    """A question is lost more easily in a graph of them."""
    widths = [dense_module.search_width(traces, short=short) for traces in (99_999, 100_000) for short in (False, True)]
    assert widths == [0, 400, 800, 800]


@pytest.mark.parametrize(("many", "asked"), [(1_000, 10), (100, 800)])
async def test_the_index_is_asked_so_wide_and_for_no_more(library: Library, monkeypatch: pytest.MonkeyPatch, many: int, asked: int) -> None:
    """What it finds beyond what is wanted was only to find the nearest."""
    monkeypatch.setattr(dense_module, "WIDEST_TRACES", many)
    widths, query = [], library.vectors.query
    monkeypatch.setattr(library.vectors, "query", lambda space, vector, limit: widths.append(limit) or query(space, vector, limit))  # type: ignore[func-returns-value]
    dense = library.retriever(10).dense
    assert dense is not None
    assert len(dense.nearest(1, tiny_vector("kiwi"), Filters(), 10).cosines) == 10
    assert widths == [asked]


@pytest.mark.parametrize("name", FILTERS)
async def test_no_more_traces_pass_a_filter_than_are_reckoned_with(library: Library, name: str) -> None:
    """Just so many where it has one condition."""
    filters = FILTERS[name]
    passing = sum(passes(value, filters) for value in library.spaces[1].values())
    reckoned = library.store.read_now(lambda db: filtering.at_most(db, filters, space=1, limit=1_000))
    assert passing <= reckoned <= len(library.spaces[1])
    assert reckoned == passing or name in ("nearly all", "combined")
    assert library.store.read_now(lambda db: filtering.at_most(db, filters, space=1, limit=2)) == min(2, reckoned)


@pytest.mark.parametrize("name", ["many", "nearly all"])
async def test_what_a_large_part_passes_is_not_read_whole(library: Library, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The index is asked, and what does not pass is dropped."""
    monkeypatch.setattr(dense_module, "FEW_TRACES", 20)
    monkeypatch.setattr(vectors, "of_traces", lambda *_: pytest.fail("all that passes was read"))
    dense = library.retriever(10).dense
    assert dense is not None
    found = dense.nearest(1, tiny_vector("kiwi"), FILTERS[name], 10).cosines
    assert len(found) == 10
    assert all(passes(library.spaces[1][row], FILTERS[name]) for row, _ in by_chunk(found))


async def test_what_passes_a_filter_is_held_until_the_namespace_is_written(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same filter is asked with again and again; another one has its own."""
    read: list[Sequence[int]] = []
    of_traces = vectors.of_traces
    monkeypatch.setattr(vectors, "of_traces", lambda *args: read.append(args[2]) or of_traces(*args))  # type: ignore[func-returns-value]
    dense = library.retriever(EVERYTHING).dense
    assert dense is not None
    kiwi, few = tiny_vector("kiwi"), FILTERS["few"]
    before = by_chunk(dense.nearest(1, kiwi, few, EVERYTHING).cosines)
    assert by_chunk(dense.nearest(1, kiwi, few, EVERYTHING).cosines) == pytest.approx(before, abs=1e-6)
    rows = {row for row, value in library.spaces[1].items() if passes(value, FILTERS["one"])}
    assert {row for row, _ in by_chunk(dense.nearest(1, kiwi, FILTERS["one"], EVERYTHING).cosines)} == rows
    assert len(read) == 2
    new: dict[str, Any] = {"namespace": "one", "task": "kiwi", "content": "", "lessons": (), "tags": ("rare",)}
    values = [trace(name, metadata={"approved": value}, **new) for name, value in APPROVED]
    added = await put(library.store, *values)
    try:
        await library.store.write(lambda db: vectors.put(db, library.model_id, {text_hash("kiwi"): kiwi}))
        assert set(list(by_chunk(dense.nearest(1, kiwi, few, EVERYTHING).cosines))[:2]) == {(one.row, 0) for one in added}
        assert len(read) == 3
        for (_, value), one in zip(APPROVED, added, strict=True):
            approved = Filters(tags=("rare",), metadata=(("approved", value),))
            assert list(by_chunk(dense.nearest(1, kiwi, approved, EVERYTHING).cosines)) == [(one.row, 0)]
    finally:
        await library.store.write(lambda db: traces.delete(db, [one.row for one in added]))
    assert by_chunk(dense.nearest(1, kiwi, few, EVERYTHING).cosines) == pytest.approx(before, abs=1e-6)
    for forgotten, left in ((2, 1), (1, 0)):
        dense.forget([forgotten])
        assert sum(key == (1, repr(few)) for key, _, _ in dense._passed) == left


async def test_what_one_index_proposes_is_scored_by_the_other(library: Library) -> None:
    """Even with so few candidates that the two lists differ: no score is a half one."""
    retriever = library.retriever(10)
    for question in QUESTIONS[:3]:
        exact = {ranked.row: ranked for ranked in library.exact([question], [1])}
        searched = await retriever.search([question], [1], Filters())
        for ranked in searched.ranking:
            assert ranked.whole == pytest.approx(exact[ranked.row].whole, abs=1e-6)
            scores = dict(exact[ranked.row].passages)
            assert dict(ranked.passages) == pytest.approx({i: scores[i] for i, _ in ranked.passages}, abs=2e-3)


async def test_several_questions_and_namespaces_become_one_ranking(library: Library) -> None:
    """Each trace with the question that it answers best; a question asked twice changes nothing."""
    retriever, everybody = library.retriever(EVERYTHING), Filters(tags=("common",))
    searched = await retriever.search(QUESTIONS[:3], [1, 2], everybody)
    exact = library.exact(QUESTIONS[:3], [1, 2], everybody)
    same(searched.ranking, exact, SCORED)
    assert {ranked.row for ranked in searched.ranking[:40]} & set(library.spaces[2])
    alone = [await retriever.search([question], [1, 2], everybody) for question in QUESTIONS[:3]]
    best = {r.row: max(other.score for s in alone for other in s.ranking if other.row == r.row) for r in searched.ranking}
    assert {r.row: r.score for r in searched.ranking} == pytest.approx(best)


async def test_a_long_question_finds_what_any_part_of_it_asks_for(library: Library) -> None:
    """What stands behind the first few hundred tokens is not lost."""
    filler = " ".join(f"Nothing of this is known to anybody, as {i} says." for i in range(60))
    searched = await library.retriever(EVERYTHING).search([f"{filler} {QUESTIONS[1]}"], [1], Filters())
    parts = parts_of(f"{filler} {QUESTIONS[1]}", word_spans)
    assert len(parts) > 1
    exact = library.exact(parts, [1])
    same(searched.ranking, exact, 5)


async def test_namespaces_are_searched_alone(library: Library) -> None:
    """None at all gives nothing."""
    retriever = library.retriever(60)
    searched = await retriever.search(QUESTIONS[:1], [2], Filters())
    assert {ranked.row for ranked in searched.ranking} <= set(library.spaces[2])
    assert (await retriever.search(QUESTIONS[:1], [], Filters())).ranking == ()
    assert (await retriever.search(QUESTIONS[:1], [99], Filters())).ranking == ()


async def test_the_same_question_gives_the_same_ranking_every_time(library: Library) -> None:
    """Ties are broken by row."""
    retriever = library.retriever(60)
    first = await retriever.search(QUESTIONS, [1, 2], Filters())
    assert all([await retriever.search(QUESTIONS, [1, 2], Filters()) == first for _ in range(3)])


async def test_without_the_model_words_answer_and_the_note_says_why(library: Library) -> None:
    """While it loads, and when it cannot be loaded."""
    retriever = library.retriever(EVERYTHING, deep=False)
    searched = await retriever.search(QUESTIONS[:1], [1], FILTERS["many"])
    assert (searched.dense, searched.note) == (False, "the embedding model is still loading")
    exact = library.exact(QUESTIONS[:1], [1], FILTERS["many"], deep=False)
    same([r for r in searched.ranking if r.passages], [r for r in exact if r.passages], SCORED)

    def fail() -> TinyModel:
        raise ModelLoadError("no such model")

    broken = EmbeddingService(fail, name="none", batch_tokens=64, cache_bytes=0, metrics=Metrics(), clock=time.monotonic)
    broken.start()
    with pytest.raises(ModelLoadError):
        await broken.loaded()
    retriever = Retriever(store=library.store, words=library.words, embedding=broken, candidates=60, metrics=Metrics(), searching=Gate())
    searched = await retriever.search(QUESTIONS[:1], [1], Filters())
    assert (searched.dense, searched.note) == (False, "meaning is off: no such model")
    assert searched.ranking
    await broken.close()


async def test_a_question_that_cannot_be_embedded_is_answered_by_words(library: Library) -> None:
    """The note says so, and the next question has meaning again."""
    retriever = library.retriever(60)
    library.model.failing = "kiwifield"
    searched = await retriever.search(["kiwifield"], [1], Filters())
    library.model.failing = ""
    assert (searched.dense, searched.note) == (False, "meaning is off for this question: cannot embed 'kiwifield'")
    assert searched.ranking
    assert (await retriever.search(["kiwifield"], [1], Filters())).dense


class BrokenIndex:
    """An index that fails in a search."""

    def query(self, *_: object) -> WordHits:
        """Fail."""
        raise IndexFaultError("it is broken")

    score = pair = count = query


@pytest.mark.parametrize("sink", ["words", "vectors"])
async def test_where_one_index_fails_the_other_answers_and_the_fault_is_told_once(library: Library, sink: str) -> None:
    """So that it can be repaired; the note says that it will be."""
    retriever = library.retriever(60)
    if sink == "words":
        retriever._scorer._words = BrokenIndex()  # type: ignore[assignment]
    else:
        retriever.attach(Meaning(BrokenIndex(), library.embedding, library.model_id))  # type: ignore[arg-type]
    searched = await retriever.search(["kiwifield plumwood"], [1, 2], Filters())
    assert searched.note == f"the index of {sink} is being rebuilt"
    assert searched.dense == (sink == "words")
    assert searched.ranking
    assert [(name, str(fault)) for name, fault in retriever.take_faults().items()] == [(sink, "it is broken")]
    assert retriever.take_faults() == {}


async def test_a_short_trace_that_shares_nothing_with_the_question_is_found_beside_one_that_does(library: Library) -> None:
    """Where nobody proposes it, it is scored by both indexes all the same."""
    searched = await library.retriever(10).search([QUESTIONS[0]], [1], Filters())
    proposed = library.words.query(1, QUESTIONS[0], 10, Filters())
    index = {*by_row(proposed.traces), *(row for row, _ in by_chunk(proposed.chunks))}
    near = library.vectors.query(1, tiny_vector(QUESTIONS[0]), 10)
    index |= {row_of(number) for number in library.store.read_now(lambda db: vectors.holders(db, 1, near, limit=1_000))}
    new = [ranked for ranked in searched.ranking if ranked.row not in index]
    assert new
    exact = {ranked.row: ranked for ranked in library.exact([QUESTIONS[0]], [1])}
    for ranked in new:
        assert ranked.context > 0
        assert (ranked.dense, ranked.whole) == (pytest.approx(exact[ranked.row].dense, abs=2e-3), pytest.approx(exact[ranked.row].whole))


async def test_a_filter_lets_no_neighbour_in(library: Library) -> None:
    """A neighbour is no reason to show what was not asked for."""
    searched = await library.retriever(10).search([QUESTIONS[0]], [1], FILTERS["combined"])
    assert searched.ranking
    assert all(passes(library.spaces[1][ranked.row], FILTERS["combined"]) for ranked in searched.ranking)


async def test_filtered_searches_side_by_side_never_wait_for_each_other(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as the store has readers, where the index itself has to read the store."""
    monkeypatch.setattr(dense_module, "FEW_TRACES", 0)

    def query(space: int, question: Any, limit: int) -> dict[bytes, float]:
        found = library.vectors.query(space, question, limit)
        library.store.read_now(lambda db: vectors.of_texts(db, library.model_id, found))
        return found

    retriever = library.retriever(60)
    assert retriever.dense is not None
    monkeypatch.setattr(retriever.dense, "_nearest_texts", query)
    searched = await retriever.search([f"{question} {i}" for question in QUESTIONS for i in range(4)], [1], FILTERS["nearly all"])
    assert searched.ranking
