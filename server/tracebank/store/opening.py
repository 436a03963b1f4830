"""How a store's file is opened and brought up to date, without ever harming one that is not ours.

`application_id` marks the file as Tracebank's; `user_version` counts the migrations it has had.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from tracebank.errors import (
    DataDirError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    StoreVersionError,
    TracebankError,
)
from tracebank.store.schema import MIGRATIONS

APPLICATION_ID = 0x54524B42  # "TRKB"
_SQLITE_HEADER = b"SQLite format 3\x00"
_BUSY_TIMEOUT_S = 10.0
# What SQLite calls a full disk; the second where there is no room for the memory that its connections share.
_FULL = ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE")
_LOCKED = ("SQLITE_BUSY", "SQLITE_LOCKED")


def translate(error: sqlite3.Error, path: Path) -> StoreError:
    """Return the store's own error for one of SQLite's."""
    text, name = str(error), getattr(error, "sqlite_errorname", "")  # of errors in how SQLite is called there is none
    if name in _FULL:
        return StoreFullError(f"no space left for {path}: nothing of this call was stored; free some space and try again ({text})")
    if isinstance(error, sqlite3.DatabaseError) and ("malformed" in text or "not a database" in text):
        return StoreCorruptError(f"{path} is damaged ({text}); it is left as it is: restore a copy, or move it away to start empty")
    if name.startswith(_LOCKED):
        return StoreLockedError(f"{path}: {text}; another program has it open, try again when that has ended")
    if name.startswith("SQLITE_IOERR"):
        return StoreError(f"{path} cannot be read or written: {text} ({name}); see whether its disk fails or a quota is used up")
    return StoreError(f"{path}: {text}")


def unopened(error: sqlite3.Error, path: Path) -> TracebankError:
    """Return our own error for one of SQLite's that keeps a store from being opened."""
    own = translate(error, path)
    if isinstance(own, StoreFullError | StoreCorruptError):
        return own
    return DataDirError(f"{path} cannot be opened: {error}; choose another directory with TRACEBANK_DATA_DIR")


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open a connection with the store's pragmas. It may be used from any one thread at a time."""
    db = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA foreign_keys = ON")
    db.execute(f"PRAGMA query_only = {int(read_only)}")
    # FULL: an acknowledged trace outlives a power cut, not only a kill.
    db.execute("PRAGMA synchronous = FULL")
    # What is forgotten is overwritten, not merely unlinked.
    db.execute("PRAGMA secure_delete = ON")
    return db


def open_store(path: Path, migrations: Sequence[str] = MIGRATIONS) -> sqlite3.Connection:
    """Open or create the store at `path`, bring it up to date, and return the writer's connection.

    Raises: StoreCorruptError, StoreVersionError (the file is left untouched), StoreFullError, DataDirError.
    """
    try:
        if not _check_header(path):
            _check_ours(path, len(migrations))
        db = connect(path)
    except OSError as error:
        raise DataDirError(f"{path} cannot be read: {error.strerror}") from error
    except sqlite3.Error as error:
        raise unopened(error, path) from error
    try:
        db.execute("PRAGMA journal_mode = WAL")
        _migrate(db, migrations)
    except sqlite3.Error as error:
        db.close()
        raise translate(error, path) from error
    return db


def _check_header(path: Path) -> bool:
    """Return whether there is nothing at `path` yet. Raises: StoreCorruptError, OSError."""
    if not path.exists() or path.stat().st_size == 0:
        return True
    with path.open("rb") as file:
        if file.read(len(_SQLITE_HEADER)) != _SQLITE_HEADER:
            raise StoreCorruptError(f"{path} is not a SQLite file; it is left as it is: move it away to start with an empty store")
    return False


def _check_ours(path: Path, known: int) -> None:
    # Read-only: a connection that may write would move a foreign write-ahead log into the file when it closes.
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_TIMEOUT_S)) as db:
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and tables:
        raise StoreCorruptError(f"{path} is a SQLite file of another program; it is left as it is: choose another data directory")
    if version > known:
        raise StoreVersionError(
            f"{path} has schema version {version}, and this Tracebank knows {known}: it was written by a newer Tracebank; "
            "upgrade with `pip install --upgrade tracebank`, or choose another data directory"
        )


def _migrate(db: sqlite3.Connection, migrations: Sequence[str]) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    for number, script in enumerate(migrations[version:], start=version + 1):
        # One transaction a step: a kill in the middle leaves the step before.
        db.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number}; COMMIT;")
