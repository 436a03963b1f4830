"""Directories, stores and settings that cannot be used: one line that says what to do, and nothing is harmed."""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path

import pytest
from homes import Home

STORE = "tracebank.sqlite3"


def test_a_data_directory_that_is_a_file_is_told(fresh: Home) -> None:
    """The file stays as it is."""
    fresh.data_dir.write_text("a file", encoding="utf-8")
    for command in (("add", "x"), ("search", "x"), ("stats",), ("export",), ("doctor",)):
        error = fresh.run(*command).error
        assert str(fresh.data_dir) in error
        assert "set TRACEBANK_DATA_DIR to a directory that can" in error
    assert fresh.data_dir.read_text(encoding="utf-8") == "a file"


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="needs a user to whom a directory can be closed")
def test_a_data_directory_that_cannot_be_written_is_told(fresh: Home) -> None:
    """Whoever owns it has closed it."""
    fresh.data_dir.mkdir(mode=0o500)
    assert "cannot be written" in fresh.run("add", "x").error


def test_a_data_directory_below_a_file_is_told(fresh: Home, tmp_path: Path) -> None:
    """It cannot be made."""
    (tmp_path / "a file").write_text("", encoding="utf-8")
    error = fresh.run("--data-dir", str(tmp_path / "a file" / "data"), "add", "x").error
    assert "set TRACEBANK_DATA_DIR to a directory that can" in error


def _garbage(store: Path) -> None:
    store.write_bytes(b"this was never a database" * 100)


def _damaged(store: Path) -> None:
    with sqlite3.connect(store) as db:
        db.execute("CREATE TABLE t (x)")
        db.executemany("INSERT INTO t VALUES (?)", [("x" * 1000,)] * 100)
        # As ours are marked.
        db.execute(f"PRAGMA application_id = {0x54524B42}")
        db.execute("PRAGMA user_version = 1")
    db.close()
    whole = store.read_bytes()
    store.write_bytes(whole[:100] + b"\xa5" * (len(whole) - 100))


def _foreign(store: Path) -> None:
    with sqlite3.connect(store) as db:
        db.execute("CREATE TABLE another_programs (x)")
    db.close()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_garbage, "is not a SQLite file; it is left as it is: move it away to start with an empty store"),
        (_damaged, "it is left as it is: restore a copy, or move it away to start empty"),
        (_foreign, "is a SQLite file of another program; it is left as it is: choose another data directory"),
    ],
    ids=["garbage", "damaged", "foreign"],
)
def test_a_store_that_is_none_is_told_and_left_as_it_is(fresh: Home, spoil: object, message: str) -> None:
    """What could still be rescued is not overwritten."""
    fresh.data_dir.mkdir()
    store = fresh.data_dir / STORE
    assert callable(spoil)
    spoil(store)
    before = store.read_bytes()
    for command in (("add", "x"), ("doctor", "--repair")):
        error = fresh.run(*command).error
        assert message in error
        assert str(store) in error
    assert store.read_bytes() == before


def test_a_store_of_a_newer_version_is_told_and_left_as_it_is(fresh: Home) -> None:
    """Incompatible is not empty: an older Tracebank must not begin anew."""
    fresh.run("add", "Written by the future", "--id", "future")
    fresh.run("stop")
    store = fresh.data_dir / STORE
    db = sqlite3.connect(store)
    (version,) = db.execute("PRAGMA user_version").fetchone()
    db.execute(f"PRAGMA user_version = {version + 41}")
    db.commit()
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    before = store.read_bytes()
    error = fresh.run("search", "x").error
    assert f"has schema version {version + 41}, and this Tracebank knows {version}" in error
    assert "pip install --upgrade tracebank" in error
    assert store.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("namespace = ", "is not valid TOML: "),
        ("namespaces = 'x'", "setting namespaces: there is no such setting: take it out of "),
        ("retrieval.k = 51", "setting retrieval.k: Input should be less than or equal to 50, not 51 (set in "),
        ("retrieval.k = 'many'", "setting retrieval.k: Input should be a valid integer, "),
        ("log_level = 'loud'", "setting log_level: Input should be 'debug', 'info', 'warning' or 'error', not 'loud'"),
        (
            "index.chunk_tokens = 20\nindex.chunk_overlap_tokens = 11",
            "setting index.chunk_overlap_tokens: must be at most 10, half of chunk_tokens, not 11",
        ),
        ("tokens.encoding = 'o300k'", "encoding must be one of o200k_base, cl100k_base, not 'o300k'"),
    ],
    ids=["no TOML", "unknown", "too large", "no number", "no level", "contradiction", "no encoding"],
)
def test_a_wrong_setting_in_the_file_is_told_with_the_file(fresh: Home, text: str, message: str) -> None:
    """Its name, its value and where it stands."""
    fresh.data_dir.mkdir()
    file = fresh.data_dir / "tracebank.toml"
    file.write_text(text, encoding="utf-8")
    error = fresh.run("stats").error
    assert message in error
    assert str(file) in error


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("TRACEBANK_RETRIEVAL__K", "many", "setting retrieval.k: "),
        ("TRACEBANK_RETRIEVAL__MAX_TOKENS", "49", "setting retrieval.max_tokens: "),
        ("TRACEBANK_LOG_LEVEL", "loud", "setting log_level: "),
        ("TRACEBANK_EMBEDDING__NAME", "x", "setting embedding.name: there is no such setting"),
    ],
)
def test_a_wrong_setting_in_the_environment_is_told_with_its_variable(fresh: Home, name: str, value: str, message: str) -> None:
    """A person looks for the variable."""
    error = fresh.run("stats", variables={name: value}).error
    assert message in error
    assert name in error


def test_a_wrong_namespace_in_the_environment_is_told_with_its_variable(shared: Home) -> None:
    """It is the client's own setting, so the engine that runs goes on."""
    error = shared.run("stats", variables={"TRACEBANK_NAMESPACE": "a\tb"}).error
    assert "TRACEBANK_NAMESPACE: must be one line without control characters or outer spaces, not 'a\\tb'" in error


def test_an_engines_setting_that_comes_too_late_is_told(shared: Home) -> None:
    """The engine runs with what it was started with; the command does its work and says so."""
    shared.run("add", "Start the engine")
    done = shared.run("stats", "store", "--json", variables={"TRACEBANK_RETRIEVAL__K": "7"})
    assert done.code == 0
    assert done.out.startswith("{")
    assert "TRACEBANK_RETRIEVAL__K has no effect" in done.errors
    assert "`tracebank stop` ends it" in done.errors
