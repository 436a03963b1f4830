"""Whole prompts, and what was cut from them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tracebank.store import Store, originals
from tracebank.store.opening import open_store
from tracebank.store.schema import MIGRATIONS

pytestmark = pytest.mark.anyio
SOURCES_APART = 15
BOUNDS = originals.Bounds(max_bytes=100, max_age_ms=1000)


async def _put(store: Store, text: str, now_ms: int = 0, cut_from: str | None = None, first: int = 0) -> str:
    source = text if cut_from is None else cut_from
    return await store.write(lambda db: originals.put(db, text, source, [(first, 2), (3, 4)], now_ms=now_ms, bounds=BOUNDS))


async def _kept(store: Store, *ids: str) -> list[bool]:
    return [await store.read(lambda db, i=i: originals.get(db, i)) is not None for i in ids]


def _bytes(db: sqlite3.Connection) -> tuple[int, int]:
    """Return how many bytes of text there are, and how many are counted."""
    parts = (("originals", "text"), ("cut_sources", "text"), ("original_cuts", "spans"))
    there = sum(len(text.encode()) for table, column in parts for (text,) in db.execute(f"SELECT {column} FROM {table}"))
    return there, db.execute("SELECT sum(bytes) FROM originals").fetchone()[0]


async def test_a_text_comes_back_whole_and_in_parts(store: Store) -> None:
    """Parts are those of the text that was cut, where lossless steps had changed it before."""
    plain, tidied = await _put(store, "abcdef"), await _put(store, "abcdef", cut_from="uvwxyz")
    assert plain != tidied
    assert await store.read(lambda db: originals.get(db, plain)) == originals.Original(text="abcdef", parts=("ab", "d"))
    assert await store.read(lambda db: originals.get(db, tidied)) == originals.Original(text="abcdef", parts=("uv", "x"))
    assert await _put(store, "abcdef") == plain


async def test_what_is_too_old_or_too_much_goes_and_what_is_new_stays(store: Store) -> None:
    """The least recently used first; the one that is put is never let go, though it alone is too much."""
    ids = [await _put(store, letter * 30, now_ms) for now_ms, letter in enumerate("abc")]
    assert await _kept(store, *ids) == [False, True, True]
    late = await _put(store, "d" * 500, 5000)
    assert await store.read(lambda db: originals.get(db, late)) is not None
    assert await store.read(lambda db: originals.get(db, ids[2])) is None


async def test_what_a_text_was_cut_from_is_kept_once_and_counted(store: Store) -> None:
    """So are the cuts themselves: all that is kept stays below the bound, though one text is cut again and again."""
    cuts = [await _put(store, "a  b" * 5, cut_from="a b" * 5, first=first) for first in range(3)]
    assert await _kept(store, *cuts) == [True, True, True]
    assert await store.read(lambda db: db.execute("SELECT text FROM cut_sources").fetchall()) == [("a b" * 5,)]
    assert await store.read(_bytes) == (20 + 15 + 3 * len("[[0,2],[3,4]]"), 20 + 15 + 3 * len("[[0,2],[3,4]]"))
    other = await _put(store, "c" * 40, 1)
    assert await _kept(store, *cuts, other) == [False, False, False, True]
    last = [await _put(store, "a  b" * 5, 2, cut_from=f"a b {n:02}" * 5) for n in range(9)][-1]
    assert await _kept(store, last) == [True]
    there, counted = await store.read(_bytes)
    assert there == counted <= BOUNDS.max_bytes


async def test_what_an_older_store_has_kept_comes_back(tmp_path: Path) -> None:
    """And is counted from then on."""
    path = tmp_path / "store.sqlite3"
    with closing(open_store(path, MIGRATIONS[: SOURCES_APART - 1])) as db:
        db.execute("INSERT INTO originals VALUES ('t', 'a  b', 4, 0), ('u', 'cd', 2, 0)")
        rows = [("t-1", "t", "a b", "[[0,1]]"), ("t-2", "t", "a b", "[[2,3]]"), ("u-1", "u", None, "[[0,2]]")]
        db.executemany("INSERT INTO original_cuts VALUES (?, ?, ?, ?)", rows)
    store = Store.open(path)
    found = [await store.read(lambda db, i=i: originals.get(db, i)) for i in ("t-1", "t-2", "u-1")]
    assert found == [originals.Original(text=text, parts=parts) for text, parts in (("a  b", ("a",)), ("a  b", ("b",)), ("cd", ("cd",)))]
    assert await store.read(_bytes) == (4 + 3 + 7 + 7 + 2 + 7, 4 + 3 + 7 + 7 + 2 + 7)
    store.close()
