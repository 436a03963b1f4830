"""The thread that writes: what is committed is committed, whatever comes after."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tracebank.store.writer import Writer

pytestmark = pytest.mark.anyio


async def test_a_commit_that_cannot_be_told_of_is_neither_refused_nor_run_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Alone and in company: the caller hears that it is stored, and it is there once."""
    path = tmp_path / "x.sqlite3"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE x (n)")

    def broken(db: sqlite3.Connection) -> None:
        raise OSError("the file cannot be read")

    writer = Writer(sqlite3.connect(path, isolation_level=None, check_same_thread=False), path, committed=broken)

    futures = [writer.submit(lambda db, n=n: db.execute("INSERT INTO x VALUES (?)", (n,)).rowcount) for n in range(20)]
    assert [await asyncio.wrap_future(future) for future in futures] == [1] * 20
    writer.close()
    with closing(sqlite3.connect(path)) as db:
        assert [n for (n,) in db.execute("SELECT n FROM x ORDER BY n")] == list(range(20))
    assert "a commit could not be told of" in caplog.text
