"""Opening whatever lies where the store should be, without ever harming what is not ours."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from samples import everything, put, trace

from tracebank.errors import DataDirError, StoreCorruptError, StoreError, StoreVersionError, TracebankError
from tracebank.records import Filters
from tracebank.store import Store, filtering
from tracebank.store.opening import APPLICATION_ID, open_store
from tracebank.store.schema import MIGRATIONS

pytestmark = pytest.mark.anyio

# Leaves a write-ahead log behind, as a killed process does.
UNCLEAN = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA journal_mode = WAL")
db.execute(f"PRAGMA application_id = {sys.argv[2]}")
db.execute(f"PRAGMA user_version = {sys.argv[3]}")
db.execute("CREATE TABLE recipes (name TEXT)")
db.execute("INSERT INTO recipes VALUES ('soup')")
os._exit(0)
"""


def files(directory: Path) -> dict[str, bytes]:
    """Return the bytes of every file that has any, except SQLite's shared memory, which holds nothing that lasts."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.stat().st_size and not path.name.endswith("-shm")}


def garbage(path: Path) -> None:
    """Something else altogether."""
    path.write_bytes(os.urandom(10_000))


def header_then_garbage(path: Path) -> None:
    """What begins as a SQLite file does not have to be one."""
    path.write_bytes(b"SQLite format 3\x00" + os.urandom(10_000))


def foreign(path: Path) -> None:
    """Another program's database."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE recipes (name TEXT)")


def foreign_killed(path: Path) -> None:
    """Another program's database with a write-ahead log that was not yet moved into it."""
    subprocess.run([sys.executable, "-c", UNCLEAN, str(path), "0", "3"], check=True)


def newer(path: Path) -> None:
    """The store of a Tracebank to come."""
    with closing(open_store(path, (*MIGRATIONS, "CREATE TABLE future (x)"))):
        pass


def newer_killed(path: Path) -> None:
    """The same, killed."""
    subprocess.run([sys.executable, "-c", UNCLEAN, str(path), str(APPLICATION_ID), str(len(MIGRATIONS) + 1)], check=True)


def no_sqlite_but_longer_than_a_header(path: Path) -> None:
    """Text."""
    path.write_text("Dear diary, " * 100)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (garbage, StoreCorruptError, "is not a SQLite file; it is left as it is: move it away"),
        (no_sqlite_but_longer_than_a_header, StoreCorruptError, "is not a SQLite file"),
        (header_then_garbage, StoreCorruptError, "is damaged .*; it is left as it is: restore a copy, or move it away"),
        (foreign, StoreCorruptError, "is a SQLite file of another program; it is left as it is: choose another data directory"),
        (foreign_killed, StoreCorruptError, "is a SQLite file of another program"),
        (newer, StoreVersionError, f"schema version {len(MIGRATIONS) + 1}, and this Tracebank knows {len(MIGRATIONS)}: .*upgrade with"),
        (newer_killed, StoreVersionError, f"schema version {len(MIGRATIONS) + 1}"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_what_is_not_our_store_is_told_apart_and_left_alone(
    tmp_path: Path, make: Callable[[Path], None], error: type[TracebankError], message: str
) -> None:
    """The error says what it is and what to do; not a byte has changed."""
    path = tmp_path / "store.sqlite3"
    make(path)
    before = files(tmp_path)
    for _ in range(2):
        with pytest.raises(error, match=message):
            Store.open(path)
    assert files(tmp_path) == before


async def test_a_store_cut_short_is_damaged_and_left_alone(tmp_path: Path) -> None:
    """Half a file is not opened as if nothing were missing."""
    path = tmp_path / "store.sqlite3"
    store = Store.open(path)
    await put(store, *(trace(f"{i}", content="word " * 5_000) for i in range(20)))
    store.close()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    before = files(tmp_path)
    with pytest.raises(StoreCorruptError, match="is damaged"):
        await everything(Store.open(path))
    assert files(tmp_path)["store.sqlite3"] == before["store.sqlite3"]


async def test_an_empty_file_becomes_a_new_store(tmp_path: Path) -> None:
    """There is nothing in it to lose; `touch` and a cut-off creation leave such files."""
    path = tmp_path / "store.sqlite3"
    path.touch()
    store = Store.open(path)
    await put(store, trace())
    store.close()
    assert b"SQLite format 3" in path.read_bytes()


async def test_a_store_that_was_killed_before_its_first_table_is_taken(tmp_path: Path) -> None:
    """The file is in WAL mode and empty."""
    path = tmp_path / "store.sqlite3"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
    store = Store.open(path)
    assert await everything(store) == []
    store.close()


async def test_a_path_with_signs_that_mean_something_in_a_uri_works(tmp_path: Path) -> None:
    """Question marks, hashes, percent signs and blanks are letters like others."""
    path = tmp_path / "what? 100%#1" / "store.sqlite3"
    path.parent.mkdir()
    for known in (0, 1):
        store = Store.open(path)
        assert len(await everything(store)) == known
        await put(store, trace())
        store.close()


def test_a_directory_in_its_place_is_an_error_of_the_data_directory(tmp_path: Path) -> None:
    """As is a place that does not exist."""
    (tmp_path / "store.sqlite3").mkdir()
    with pytest.raises(DataDirError, match="cannot be read: Is a directory"):
        Store.open(tmp_path / "store.sqlite3")
    with pytest.raises(DataDirError, match="cannot be opened"):
        Store.open(tmp_path / "absent" / "store.sqlite3")


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A directory that cannot be written, with a store in it."""
    directory = tmp_path / "fixed"
    directory.mkdir()
    Store.open(directory / "store.sqlite3").close()
    mounted = os.geteuid() == 0
    if mounted:
        # For root no permission is missing, so the file system has to say no.
        bind = subprocess.run(["mount", "--bind", str(directory), str(directory)], capture_output=True, check=False)
        if bind.returncode:
            pytest.skip("a read-only file system cannot be mounted here")
        subprocess.run(["mount", "-o", "remount,ro,bind", str(directory)], check=True)
    else:
        (directory / "store.sqlite3").chmod(0o400)
        directory.chmod(0o500)
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True) if mounted else directory.chmod(0o700)


@pytest.mark.parametrize("name", ["store.sqlite3", "new.sqlite3"])
def test_a_directory_that_cannot_be_written_is_told(read_only: Path, name: str) -> None:
    """Whether there is a store already or not; the message says what to set."""
    before = files(read_only)
    with pytest.raises(DataDirError, match=r"fixed.* cannot be opened: .*; choose another directory with TRACEBANK_DATA_DIR"):
        Store.open(read_only / name)
    assert files(read_only) == before


def version(path: Path) -> int:
    """Return how many migrations a file has had."""
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


async def test_an_older_store_gets_the_migrations_it_lacks_one_by_one(tmp_path: Path) -> None:
    """In order, each in a transaction of its own; what is in the store stays."""
    path = tmp_path / "store.sqlite3"
    store = Store.open(path)
    await put(store, trace())
    store.close()
    first, second = "CREATE TABLE log (x); INSERT INTO log VALUES ('first')", "INSERT INTO log VALUES ('second')"
    with pytest.raises(StoreError, match="no such table: missing"):
        open_store(path, (*MIGRATIONS, first, "INSERT INTO log VALUES ('half'); INSERT INTO missing VALUES (1)"))
    assert version(path) == len(MIGRATIONS) + 1
    with closing(open_store(path, (*MIGRATIONS, first, second))) as db:
        assert db.execute("SELECT x FROM log").fetchall() == [("first",), ("second",)]
        assert db.execute("SELECT trace_id FROM traces").fetchall() == [("t1",)]
    assert version(path) == len(MIGRATIONS) + 2
    with closing(open_store(path, (*MIGRATIONS, first, second))) as db:
        assert db.execute("SELECT count(*) FROM log").fetchone() == (2,)


def test_a_new_store_is_marked_as_ours(tmp_path: Path) -> None:
    """By application id and by the number of migrations; it is durable and overwrites what is deleted."""
    with closing(open_store(tmp_path / "store.sqlite3")) as db:
        pragmas = {name: db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version", "journal_mode")}
        assert pragmas == {"application_id": APPLICATION_ID, "user_version": len(MIGRATIONS), "journal_mode": "wal"}
        assert [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "secure_delete", "foreign_keys")] == [2, 1, 1]


LABELS_TOLD_APART, VECTORS_BY_ROW = 10, 11


async def test_true_is_no_number_in_a_store_of_before_either(tmp_path: Path) -> None:
    """What was written when they were the same is told apart by what the trace says."""
    path = tmp_path / "store.sqlite3"
    with closing(open_store(path, MIGRATIONS[: LABELS_TOLD_APART - 1])) as db:
        db.execute("INSERT INTO namespaces (id, name) VALUES (1, 'default')")
        for row, merged in ((1, "true"), (2, "1")):
            db.execute(
                "INSERT INTO traces (id, namespace_id, trace_id, task, content, outcome, occurred_at_ms, metadata, content_hash, "
                "created_at_ms, updated_at_ms) VALUES (?1, 1, ?1, 't', '', 'unknown', 0, ?2, x'00', 0, 0)",
                (row, f'{{"merged": {merged}}}'),
            )
            db.execute("INSERT INTO labels VALUES (?, 'merged', 1, 1)", (row,))
    store = Store.open(path)
    for value, row in ((True, 1), (1, 2)):
        filters = Filters(metadata=(("merged", value),))
        assert list(await store.read(lambda db, filters=filters: filtering.matching(db, filters))) == [row]
    store.close()


async def test_vectors_are_kept_where_a_store_of_before_had_them_otherwise(tmp_path: Path) -> None:
    """Also those whose text no chunk has, as long as they are there."""
    path = tmp_path / "store.sqlite3"
    with closing(open_store(path, MIGRATIONS[: VECTORS_BY_ROW - 1])) as db:
        db.execute("INSERT INTO models (id, name) VALUES (1, 'one'), (2, 'two')")
        kept = [(model, bytes([n]) * 16, bytes([n, model]) * 8) for model in (1, 2) for n in range(50)]
        db.executemany("INSERT INTO embeddings VALUES (?, ?, ?)", kept)
    store = Store.open(path)
    assert await store.read(lambda db: db.execute("SELECT * FROM embeddings ORDER BY model, text_hash").fetchall()) == kept
    store.close()
