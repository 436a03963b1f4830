"""What is particular to search by words in tantivy."""

from __future__ import annotations

import math
import random
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from samples import by_chunk, by_row, indexed

from tracebank.errors import IndexFaultError
from tracebank.index import TantivyWordIndex, WordHits
from tracebank.index.analysis import query_terms
from tracebank.records import Filters, Outcome
from tracebank.scores import chunk_number, numbers_of

ANYTHING = Filters()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[TantivyWordIndex]:
    """An empty index, in use."""
    opened = TantivyWordIndex(tmp_path / "it")
    opened.mark_filled()
    yield opened
    opened.close()


def rows_for(index: TantivyWordIndex, question: str, filters: Filters = ANYTHING) -> list[int]:
    """Return the rows that share a word with the question, the best first."""
    return list(by_row(index.query(1, question, 100, filters).traces))


@pytest.mark.parametrize(
    ("question", "terms"),
    [
        ("Running the runners' RUNS", ["run", "runner"]),
        ("How do I fix the failing upload?", ["fix", "fail", "upload"]),
        ("what is this", ["what", "is", "this"]),
        ("fix fix FIX fixed", ["fix"]),
        ("don't", ["don", "t"]),
        ("snake_case-and.dots/v2", ["snake", "case", "dot", "v2"]),
        ("café Привет", ["café", "привет"]),
        ("記憶のtest", ["記", "憶", "の", "test"]),
        ("", []),
        ("?!…", []),
        ("x" * 65, []),
    ],
)
def test_a_question_becomes_its_distinct_stemmed_words(question: str, terms: list[str]) -> None:
    """Without stop words, unless it has no others; scripts without spaces go by the character."""
    assert list(query_terms(question)) == terms


def test_words_are_found_in_every_form_and_case(index: TantivyWordIndex) -> None:
    """By their stem."""
    index.apply(1, [indexed(1, "The UPLOADS were failing"), indexed(2, "An unrelated note")], [])
    assert rows_for(index, "upload failed") == [1]
    assert rows_for(index, "uploading") == [1]


def test_stop_words_do_not_lead_to_a_trace_unless_there_is_nothing_else(index: TantivyWordIndex) -> None:
    """They say nothing of a question's subject; but "who am I" has to find something."""
    index.apply(1, [indexed(1, "who am I and what is this"), indexed(2, "deployment of the server")], [])
    assert rows_for(index, "what is the deployment") == [2]
    assert rows_for(index, "who am I") == [1]


def test_scripts_without_spaces_are_found_by_their_characters(index: TantivyWordIndex) -> None:
    """Inside a run of others, too."""
    index.apply(1, [indexed(1, "部署服务器时出错"), indexed(2, "データベースの移行"), indexed(3, "서버 배포 실패")], [])
    assert rows_for(index, "服务器") == [1]
    assert rows_for(index, "移行") == [2]
    assert rows_for(index, "배포가 실패") == [3]


@pytest.mark.parametrize("question", ['task:"x" AND (note OR', "note~2^9 [a TO b]", "*", "\\", "+note -note", "note " * 1_600])
def test_a_question_is_words_and_no_query_language(index: TantivyWordIndex, question: str) -> None:
    """Signs mean nothing, and nothing is a syntax error."""
    index.apply(1, [indexed(1, "note")], [])
    assert rows_for(index, question) == ([1] if "note" in question else [])


def test_filters_on_outcome_tags_and_time_hold_for_chunks_and_traces(index: TantivyWordIndex) -> None:
    """Any of the outcomes, all of the tags, both ends of the time included; and filters do not change the scores."""
    rng = random.Random(3)
    traces = [
        indexed(
            row, "note " + "word " * rng.randint(0, 9), outcome=rng.choice(list(Outcome)),
            tags=tuple(rng.sample(["a", "b", "a b", "深"], rng.randint(0, 3))), occurred_at_ms=rng.randint(-3, 3),
        )
        for row in range(1, 60)
    ]  # fmt: skip
    index.apply(1, traces, [])
    unfiltered = index.query(1, "note", 100, ANYTHING).traces
    for filters in [
        Filters(outcomes=(Outcome.SUCCESS,)),
        Filters(outcomes=(Outcome.SUCCESS, Outcome.PARTIAL)),
        Filters(tags=("a",)),
        Filters(tags=("a b", "深")),
        Filters(since_ms=-1),
        Filters(until_ms=0),
        Filters(since_ms=0, until_ms=0),
        Filters(outcomes=(Outcome.FAILURE,), tags=("b",), since_ms=-2, until_ms=2),
        Filters(tags=("absent",)),
    ]:
        wanted = {
            trace.row
            for trace in traces
            if (not filters.outcomes or trace.outcome in filters.outcomes)
            and set(filters.tags) <= set(trace.tags)
            and (filters.since_ms is None or trace.occurred_at_ms >= filters.since_ms)
            and (filters.until_ms is None or trace.occurred_at_ms <= filters.until_ms)
        }
        found = index.query(1, "note", 100, filters)
        scores = {row: score for row, score in by_row(unfiltered).items() if row in wanted}
        assert by_row(found.traces) == pytest.approx(scores)
        assert by_chunk(found.chunks) == pytest.approx({(row, 0): score for row, score in scores.items()})


def bm25(texts: dict[int, list[str]], terms: Sequence[str]) -> dict[int, float]:
    """Return BM25 over the highest that the terms could reach, by its definition (k1 1.2, b .75)."""
    average = sum(len(words) for words in texts.values()) / len(texts)
    having = Counter(word for words in texts.values() for word in set(words))
    idf = {term: math.log(1 + (len(texts) - having[term] + 0.5) / (having[term] + 0.5)) for term in terms}
    scores = {
        row: sum(
            idf[term] * words.count(term) * 2.2 / (words.count(term) + 1.2 * (1 - 0.75 + 0.75 * len(words) / average)) for term in terms
        )
        for row, words in texts.items()
    }
    return {row: score / (2.2 * sum(idf.values())) for row, score in scores.items() if score}


def test_scores_are_bm25_over_the_highest_that_the_question_could_reach(index: TantivyWordIndex) -> None:
    """By definition, to the precision of a float; a stop word between two words keeps them from being a pair."""
    rng = random.Random(5)
    texts = {row: rng.choices("kiwi plum fig pear lime nut".split(), k=rng.randint(1, 30)) for row in range(1, 50)}
    index.apply(1, [indexed(row, " ".join(words)) for row, words in texts.items()], [])
    for question in ("kiwi", "plum and fig", "nut or absent", "kiwi the plum a fig and pear or lime not nut"):
        found = index.query(1, question, 100, ANYTHING)
        scores = by_row(found.traces)
        assert scores == pytest.approx(bm25(texts, query_terms(question)), rel=1e-4)
        assert by_chunk(found.chunks) == pytest.approx({(row, 0): score for row, score in scores.items()})
        assert all(0 < score <= 1 for score in scores.values())


def test_words_that_stand_together_in_the_question_are_found_together(index: TantivyWordIndex) -> None:
    """Of two texts with the same words, the one in which they are neighbours comes first, however many there are."""
    others = [indexed(row, f"Worker 7 handled ticket number {row}") for row in range(100, 140)]
    index.apply(1, [*others, indexed(200, "Worker 0 handled ticket number 7")], [])
    assert rows_for(index, "ticket number 7")[0] == 200


def test_scores_stay_between_0_and_1_however_much_was_updated_and_removed(index: TantivyWordIndex) -> None:
    """Until tantivy merges them away, deleted texts still count in its statistics: they must not turn the scale."""
    index.apply(1, [indexed(row, f"apple number{row}", f"apple again{row}") for row in range(1, 60)], [])
    for version in range(3):
        index.apply(1, [indexed(row, f"apple version{version}") for row in range(1, 59)], [])
    index.apply(1, [], list(range(1, 30)))
    found = index.query(1, "apple", 100, ANYTHING)
    assert set(by_row(found.traces)) == set(range(30, 60))
    assert all(0 < score <= 1 for score in (*found.chunks.values, *found.traces.values))


def test_a_perfect_match_scores_near_1_and_a_part_less(index: TantivyWordIndex) -> None:
    """So that scores of different questions can be compared, and fused with cosines."""
    filler = [indexed(row, f"filler{row} text about other things altogether") for row in range(10, 40)]
    index.apply(1, [indexed(1, "zebra zebra zebra zebra"), indexed(2, "zebra and a long sentence beside it"), *filler], [])
    found = by_row(index.query(1, "zebra", 10, ANYTHING).traces)
    assert found[1] > 0.8
    assert 0.2 < found[2] < found[1]
    assert by_row(index.query(1, "zebra giraffe", 10, ANYTHING).traces)[1] < 0.6


def test_scoring_given_chunks_and_traces_gives_what_a_search_gives_them(index: TantivyWordIndex) -> None:
    """Whatever they are; who shares no word with the question, or is not there, is absent."""
    rng = random.Random(6)
    words = "kiwi plum fig pear lime nut oat rye".split()
    index.apply(1, [indexed(row, *(" ".join(rng.choices(words, k=9)) for _ in range(3))) for row in range(1, 40)], [])
    for question in ("kiwi fig", "pears and rye", "oat"):
        searched = index.query(1, question, 1_000, ANYTHING)
        chunks = [*rng.sample([(row, i) for row in range(1, 40) for i in range(3)], 30), (99, 0), (1, 7)]
        rows = numbers_of([*rng.sample(range(1, 40), 15), 99])
        scored = index.score(1, question, numbers_of(chunk_number(*chunk) for chunk in chunks), rows)
        assert by_chunk(scored.chunks) == {chunk: score for chunk, score in by_chunk(searched.chunks).items() if chunk in chunks}
        assert by_row(scored.traces) == {row: score for row, score in by_row(searched.traces).items() if row in rows}
    nothing, chunk, row = numbers_of([]), numbers_of([chunk_number(1, 0)]), numbers_of([1])
    assert index.score(1, "kiwi", nothing, nothing) == index.score(1, "", chunk, row) == index.score(8, "kiwi", chunk, row) == WordHits()


def test_the_best_come_first_and_no_more_than_asked_for(index: TantivyWordIndex) -> None:
    """Chunks and traces are limited each for itself."""
    index.apply(1, [indexed(row, *["apple " * row] * 2) for row in range(1, 9)], [])
    found = index.query(1, "apple", 3, ANYTHING)
    assert (len(found.chunks), len(found.traces)) == (3, 3)
    everything = index.query(1, "apple", 100, ANYTHING)
    assert list(by_row(found.traces).items()) == list(by_row(everything.traces).items())[:3]


def test_a_whole_trace_is_found_by_words_that_no_chunk_has_together(index: TantivyWordIndex) -> None:
    """That is why it is indexed beside its chunks."""
    index.apply(1, [indexed(1, "apple only", "pear only"), indexed(2, "apple only", "fig only")], [])
    found = index.query(1, "apple pear", 10, ANYTHING)
    traces = by_row(found.traces)
    assert traces[1] > traces[2]
    assert max(score for (row, _), score in by_chunk(found.chunks).items() if row == 1) < traces[1]


def test_rows_and_chunk_numbers_of_any_size_come_back(index: TantivyWordIndex) -> None:
    """A row can be large, and a trace of 1 MiB has thousands of chunks."""
    big = 2**40
    index.apply(1, [indexed(big, *(f"note {i}" for i in range(3_000)))], [])
    assert set(by_chunk(index.query(1, "note", 5_000, ANYTHING).chunks)) == {(big, i) for i in range(3_000)}
    assert rows_for(index, "note") == [big]


def test_rare_words_tell_more_than_common_ones(index: TantivyWordIndex) -> None:
    """In every form, by namespace; a word that is nowhere tells the most, and what is no word nothing."""
    index.apply(1, [indexed(i, f"common word{i}") for i in range(10)], [])
    common, rare, absent, form, none = index.idf(1, ["common", "word3", "nowhere", "COMMONS", "?!"])
    assert 0 < common < rare < absent
    assert form == common
    assert none == 0
    assert index.idf(2, ["common"]) == index.idf(2, ["nowhere"])


def test_an_index_at_rest_is_searched_and_written_as_before(tmp_path: Path) -> None:
    """It has only let go of what writing needs; resting twice, or before anything was written, does no harm."""
    index = TantivyWordIndex(tmp_path / "words")
    index.rest()
    index.apply(1, [indexed(1, "a kiwi")], [])
    index.rest()
    index.rest()
    assert set(rows_for(index, "kiwi")) == {1}
    index.apply(1, [indexed(2, "another kiwi")], [])
    assert set(rows_for(index, "kiwi")) == {1, 2}
    index.close()


def known(index: TantivyWordIndex, word: str) -> int:
    """Return how many texts have a word, those that are only marked as deleted among them."""
    fields = index._open(1)
    return fields.chunks.searcher.doc_freq("text", word) + fields.traces.searcher.doc_freq("text", word)


def test_a_copy_takes_the_place_of_a_namespace_without_what_was_deleted(index: TantivyWordIndex) -> None:
    """What is written while it is filled goes into both, and is searched all the time."""
    first, last = indexed(1, "a secret osprey"), indexed(2, "an osprey")
    index.apply(1, [first, last], [])
    index.apply(1, [], [1])
    assert known(index, "secret")
    index.begin_copy(1)
    index.apply(1, [indexed(3, "another osprey")], [])
    assert index.fill_copy(1, [last])
    index.apply(1, [indexed(4, "an osprey, and later none")], [])
    index.apply(1, [], [4])
    assert sorted(rows_for(index, "osprey")) == [2, 3]
    assert index.exchange_copy(1)
    assert sorted(rows_for(index, "osprey")) == [2, 3]
    assert not known(index, "secret")
    index.apply(1, [indexed(5, "a fifth osprey")], [3])
    assert sorted(rows_for(index, "osprey")) == [2, 5]
    # There is no copy any more.
    assert not index.fill_copy(1, [first])
    assert not index.exchange_copy(1)


def test_an_index_that_is_emptied_while_a_copy_is_filled_stays_empty(index: TantivyWordIndex) -> None:
    """It is filled from the store anew, and the copy is not missed."""
    index.apply(1, [indexed(1, "osprey")], [])
    index.begin_copy(1)
    index.clear()
    index.mark_filled()
    assert not index.fill_copy(1, [indexed(1, "osprey")])
    assert not index.exchange_copy(1)
    assert rows_for(index, "osprey") == []


@pytest.mark.parametrize("renamed", ["1", "1.whole"])
def test_a_copy_that_cannot_take_the_place_never_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: str) -> None:
    """It lacks what is written afterwards; the namespace stays as it was."""
    index = TantivyWordIndex(tmp_path)
    index.mark_filled()
    index.apply(1, [indexed(1, "osprey")], [])
    index.begin_copy(1)
    index.fill_copy(1, [indexed(1, "osprey")])
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.name == renamed and not target.name.endswith(".filling"):
            raise OSError("it is in use")
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", failing)
        with pytest.raises(IndexFaultError, match="it is in use"):
            index.exchange_copy(1)
    index.apply(1, [indexed(2, "another osprey")], [])
    assert sorted(rows_for(index, "osprey")) == [1, 2]
    index.close()
    index = TantivyWordIndex(tmp_path)
    assert sorted(rows_for(index, "osprey")) == [1, 2]
    index.close()


def test_a_directory_that_is_no_copy_takes_no_place(tmp_path: Path) -> None:
    """As somebody, or a file system that was mended, may leave one."""
    index = TantivyWordIndex(tmp_path)
    index.mark_filled()
    index.apply(1, [indexed(1, "osprey")], [])
    index.close()
    (tmp_path / "1.whole" / "chunks").mkdir(parents=True)
    index = TantivyWordIndex(tmp_path)
    assert rows_for(index, "osprey") == [1]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["1"]
    index.close()


def test_a_former_that_cannot_be_deleted_does_not_undo_the_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy is in its place by then; what is left goes at the next start."""
    index = TantivyWordIndex(tmp_path)
    index.mark_filled()
    index.apply(1, [indexed(1, "osprey"), indexed(2, "secret osprey")], [])
    index.begin_copy(1)
    index.fill_copy(1, [indexed(1, "osprey")])

    def failing(path: Path, *, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise OSError("it is in use")

    with monkeypatch.context() as patched:
        patched.setattr("tracebank.index.words.shutil.rmtree", failing)
        assert index.exchange_copy(1)
    assert rows_for(index, "osprey") == [1]
    index.close()
    index = TantivyWordIndex(tmp_path)
    assert rows_for(index, "osprey") == [1]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["1"]
    index.close()


def test_an_exchange_that_cannot_be_finished_at_the_start_lets_the_index_be_filled_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opens all the same."""
    index = TantivyWordIndex(tmp_path / "words")
    index.mark_filled()
    index.apply(1, [indexed(1, "osprey")], [])
    index.close()
    (tmp_path / "words" / "1").rename(tmp_path / "words" / "1.former")
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.suffix == ".former":
            raise OSError("it is in use")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    index = TantivyWordIndex(tmp_path / "words")
    assert index.fresh
    assert rows_for(index, "osprey") == []
    index.close()


@pytest.mark.parametrize(
    "killed",
    [
        "while it was filled",
        "when it was whole",
        "when the former was moved",
        "when the former was moved and the copy is damaged",
        "when the former was gone",
    ],
)
def test_a_kill_leaves_the_namespace_or_its_whole_copy(tmp_path: Path, killed: str) -> None:
    """Never neither, and nothing lies around."""
    index = TantivyWordIndex(tmp_path)
    index.mark_filled()
    index.apply(1, [indexed(1, "osprey"), indexed(2, "secret osprey")], [])
    index.close()
    home = tmp_path / "1"
    copy = tmp_path / ("1.filling" if killed == "while it was filled" else "1.whole")
    copied = TantivyWordIndex(tmp_path / "elsewhere")
    copied.apply(1, [indexed(1, "osprey")], [])
    copied.close()
    (tmp_path / "elsewhere" / "1").rename(copy)
    shutil.rmtree(tmp_path / "elsewhere")
    if killed.startswith("when the former was moved"):
        home.rename(tmp_path / "1.former")
    if killed.endswith("the copy is damaged"):
        shutil.rmtree(copy / "traces")
    if killed == "when the former was gone":
        shutil.rmtree(home)
    index = TantivyWordIndex(tmp_path)
    assert sorted(rows_for(index, "osprey")) == (
        [1, 2] if killed in ("while it was filled", "when the former was moved and the copy is damaged") else [1]
    )
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["1"]
    index.close()
