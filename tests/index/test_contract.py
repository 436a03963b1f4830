"""What both indexes promise, whatever they are made of."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from samples import WAIT_S, ChunkIndex, by_chunk, indexed

from tracebank.errors import DataDirError, IndexFaultError
from tracebank.index import TantivyWordIndex
from tracebank.index.base import FORMAT_FILE, set_aside
from tracebank.records import Filters

# Every chunk of these tests has this word, so that a question finds them all.
NOTE = "note"


@dataclass(frozen=True)
class Kind:
    """One of the indexes: how it is opened, and how all that it holds of a namespace is found."""

    open: Callable[[Path], Any]
    keys: Callable[[Any, int], set[tuple[int, int]]]
    source: str


KINDS = {
    "chroma": Kind(
        ChunkIndex,
        lambda index, namespace: index.found(namespace, NOTE),
        "ChunkIndex(directory)",
    ),
    "tantivy": Kind(
        TantivyWordIndex,
        lambda index, namespace: set(by_chunk(index.query(namespace, NOTE, 1_500, Filters()).chunks)),
        "TantivyWordIndex(directory)",
    ),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each index in turn."""
    return KINDS[request.param]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return where the index is to be."""
    return tmp_path / "index" / "it"


@pytest.fixture
def index(kind: Kind, directory: Path) -> Iterator[Any]:
    """An empty index, in use."""
    opened = kind.open(directory)
    opened.mark_filled()
    yield opened
    opened.close()


def test_a_new_index_is_fresh_and_empty(kind: Kind, directory: Path) -> None:
    """It is to be filled from the store; a namespace that nobody has used can be asked."""
    index = kind.open(directory)
    assert index.fresh
    assert (index.count(1), kind.keys(index, 1)) == (0, set())
    index.mark_filled()
    assert not index.fresh
    index.close()


def test_what_is_written_is_found_and_counted_by_chunk(kind: Kind, index: Any) -> None:
    """By the trace's row and the chunk's number."""
    index.apply(1, [indexed(7, "note a", "note b"), indexed(9, "note c")], [])
    assert kind.keys(index, 1) == {(7, 0), (7, 1), (9, 0)}
    assert index.count(1) == 3


def test_writing_the_same_again_changes_nothing(kind: Kind, index: Any) -> None:
    """So a crash only repeats work."""
    for _ in range(3):
        index.apply(1, [indexed(7, "note a", "note b")], [8])
    assert kind.keys(index, 1) == {(7, 0), (7, 1)}
    assert index.count(1) == 2


@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 3), (2, 2)])
def test_an_update_leaves_nothing_of_the_text_before(kind: Kind, index: Any, before: int, after: int) -> None:
    """Chunks beyond the new end are removed."""
    index.apply(1, [indexed(7, *(f"note old {i}" for i in range(before))), indexed(8, "note other")], [])
    index.apply(1, [indexed(7, *(f"note new {i}" for i in range(after)))], [])
    assert kind.keys(index, 1) == {(7, i) for i in range(after)} | {(8, 0)}
    assert index.count(1) == after + 1


def test_removing_takes_the_trace_and_no_other(kind: Kind, index: Any) -> None:
    """Also where none of the trace is there."""
    index.apply(1, [indexed(7, "note a", "note b"), indexed(8, "note c")], [])
    index.apply(1, [], [7, 99, 98])
    assert kind.keys(index, 1) == {(8, 0)}
    assert index.count(1) == 1


def test_upserts_and_removals_go_together(kind: Kind, index: Any) -> None:
    """One batch holds both."""
    index.apply(1, [indexed(7, "note a")], [])
    index.apply(1, [indexed(8, "note b")], [7])
    assert kind.keys(index, 1) == {(8, 0)}


def test_an_empty_batch_does_nothing(kind: Kind, index: Any) -> None:
    """It is not an error."""
    index.apply(1, [], [])
    assert index.count(1) == 0


def test_a_batch_may_be_larger_than_what_is_written_at_once(kind: Kind, index: Any) -> None:
    """A trace of 1 MiB has thousands of chunks."""
    index.apply(1, [indexed(7, *(f"note {i}" for i in range(1_200)))], [])
    assert index.count(1) == 1_200
    index.apply(1, [indexed(7, "note")], [])
    assert (index.count(1), kind.keys(index, 1)) == (1, {(7, 0)})


def test_namespaces_see_nothing_of_each_other(kind: Kind, index: Any) -> None:
    """Not even where the rows are equal."""
    index.apply(1, [indexed(7, "note one")], [])
    index.apply(2, [indexed(7, "note two", "note three")], [])
    assert (kind.keys(index, 1), kind.keys(index, 2)) == ({(7, 0)}, {(7, 0), (7, 1)})
    index.apply(2, [], [7])
    assert (index.count(1), index.count(2)) == (1, 0)


def test_more_namespaces_can_be_written_than_writers_are_kept_open(kind: Kind, index: Any) -> None:
    """In turn, and again."""
    for _ in range(2):
        for namespace in range(7):
            index.apply(namespace, [indexed(namespace + 1, "note")], [])
    assert [kind.keys(index, namespace) for namespace in range(7)] == [{(namespace + 1, 0)} for namespace in range(7)]


def test_everything_is_there_when_it_is_opened_again(kind: Kind, directory: Path, index: Any) -> None:
    """And it is not fresh."""
    index.apply(1, [indexed(7, "note a", "note b")], [])
    index.apply(2, [indexed(8, "note c")], [])
    index.close()
    again = kind.open(directory)
    assert not again.fresh
    assert (kind.keys(again, 1), kind.keys(again, 2)) == ({(7, 0), (7, 1)}, {(8, 0)})
    again.apply(1, [], [7])
    assert again.count(1) == 0
    again.close()


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from samples import ChunkIndex, indexed
from tracebank.index import TantivyWordIndex
directory = Path(sys.argv[1])
index = {source}
index.mark_filled()
index.apply(1, [indexed(7, "note a", "note b")], [])
os._exit(9)
"""


def test_what_was_written_survives_a_kill(kind: Kind, directory: Path) -> None:
    """It was on disk when `apply` returned."""
    code = KILLED.replace("{source}", kind.source)
    process = subprocess.run([sys.executable, "-c", code, str(directory), str(Path(__file__).parents[1])], check=False)
    assert process.returncode == 9
    index = kind.open(directory)
    assert not index.fresh
    assert (kind.keys(index, 1), index.count(1)) == ({(7, 0), (7, 1)}, 2)
    index.close()


def test_an_index_that_was_never_filled_is_fresh_again(kind: Kind, directory: Path) -> None:
    """A kill between creating and filling it leaves a part, which is not taken for the whole."""
    index = kind.open(directory)
    index.apply(1, [indexed(7, "note a")], [])
    index.close()
    again = kind.open(directory)
    assert again.fresh
    assert again.count(1) == 0
    again.close()


def test_clearing_empties_every_namespace_and_makes_it_fresh(kind: Kind, directory: Path, index: Any) -> None:
    """It can be written at once, and is whole again when it is marked so."""
    index.apply(1, [indexed(7, "note a")], [])
    index.apply(2, [indexed(8, "note b")], [])
    index.clear()
    assert index.fresh
    assert (index.count(1), index.count(2)) == (0, 0)
    index.apply(1, [indexed(9, "note c")], [])
    index.mark_filled()
    assert kind.keys(index, 1) == {(9, 0)}
    index.close()
    again = kind.open(directory)
    assert (again.fresh, kind.keys(again, 1)) == (False, {(9, 0)})
    again.close()


def garbage_file(directory: Path) -> None:
    """A file where the directory should be."""
    directory.parent.mkdir(parents=True)
    directory.write_bytes(b"garbage")


def garbage_directory(directory: Path) -> None:
    """A directory of somebody else."""
    (directory / "deep").mkdir(parents=True)
    (directory / "deep" / "file").write_bytes(b"garbage")
    (directory / FORMAT_FILE).write_bytes(b"\xff\xfe garbage")


def other_format(directory: Path) -> None:
    """An index of a Tracebank to come."""
    directory.mkdir(parents=True)
    (directory / FORMAT_FILE).write_text('{"format": 999}')


@pytest.mark.parametrize("make", [garbage_file, garbage_directory, other_format], ids=lambda make: make.__name__)
def test_what_is_not_this_index_is_set_aside(kind: Kind, directory: Path, make: Callable[[Path], None]) -> None:
    """It is kept beside, never mixed with ours; the index is fresh and works."""
    make(directory)
    index = kind.open(directory)
    assert index.fresh
    assert directory.with_name("it.set-aside").exists()
    index.apply(1, [indexed(7, "note")], [])
    assert kind.keys(index, 1) == {(7, 0)}
    index.close()


def test_only_the_last_one_is_kept_aside(tmp_path: Path) -> None:
    """Broken indexes must not fill the disk."""
    for content in ("first", "second"):
        (tmp_path / "it").mkdir(exist_ok=True)
        (tmp_path / "it" / "file").write_text(content)
        set_aside(tmp_path / "it")
    assert (tmp_path / "it.set-aside" / "file").read_text() == "second"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["it", "it.set-aside"]


def test_a_place_that_cannot_be_made_is_an_error_of_the_data_directory(tmp_path: Path) -> None:
    """There is nothing to rebuild."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DataDirError, match="cannot be written: Not a directory"):
        TantivyWordIndex(tmp_path / "file" / "index")


def spoil(directory: Path) -> None:
    """Overwrite every file below with garbage, except the mark that the index is whole."""
    for path in directory.rglob("*"):
        if path.is_file() and path.name != FORMAT_FILE:
            path.write_bytes(b"garbage" * 1_000)


def test_a_spoilt_index_is_noticed_at_the_next_start_or_use(kind: Kind, directory: Path, index: Any) -> None:
    """Its mark says that it is whole, but its files are not: it is fresh, or the first use says so. It can be cleared."""
    index.apply(1, [indexed(7, "note")], [])
    index.close()
    spoil(directory)
    again = kind.open(directory)
    if not again.fresh:
        with pytest.raises(IndexFaultError):
            kind.keys(again, 1)
        again.clear()
    again.apply(1, [indexed(8, "note")], [])
    assert kind.keys(again, 1) == {(8, 0)}
    again.close()


def test_an_index_that_is_spoilt_while_it_runs_can_be_cleared(kind: Kind, directory: Path, index: Any) -> None:
    """Writing to it fails with its own error; cleared, it works again."""
    index.apply(1, [indexed(7, "note")], [])
    spoil(directory)
    with pytest.raises(IndexFaultError):
        index.apply(1, [indexed(8, "note")], [])
    index.clear()
    index.apply(1, [indexed(9, "note")], [])
    assert kind.keys(index, 1) == {(9, 0)}


def test_a_batch_that_fails_leaves_the_next_alone(kind: Kind, index: Any) -> None:
    """Neither an open writer's lock nor a half-written batch stays behind, even while the error is being handled."""
    index.apply(1, [indexed(7, "note a")], [])
    with pytest.raises(IndexFaultError) as caught:
        # A time that is none.
        index.apply(1, [indexed(8, "note b"), indexed(9, "note c", occurred_at_ms=object())], [])
    index.apply(1, [indexed(10, "note d")], [])
    assert {(7, 0), (10, 0)} <= kind.keys(index, 1)
    assert (9, 0) not in kind.keys(index, 1)
    assert isinstance(caught.value, IndexFaultError)  # still held, with all that it refers to


def test_it_can_be_searched_while_it_is_written(kind: Kind, index: Any) -> None:
    """From several threads: whoever searches sees what was there before, and nobody fails."""
    index.apply(1, [indexed(1, "note")], [])
    written = threading.Event()
    seen: list[bool] = []

    def search() -> None:
        while not written.is_set():
            seen.append((1, 0) in kind.keys(index, 1))

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for row in range(2, 10):
        index.apply(1, [indexed(row, f"note {row}")], [])
    written.set()
    for thread in threads:
        thread.join(WAIT_S)
    assert seen
    assert all(seen)
    assert index.count(1) == 9


def test_closing_may_be_repeated(kind: Kind, directory: Path) -> None:
    """The second time does nothing."""
    index = kind.open(directory)
    index.close()
    index.close()
