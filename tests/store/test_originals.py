"""Whole prompts, and what was cut from them."""

from __future__ import annotations

import pytest

from tracebank.store import Store, originals

pytestmark = pytest.mark.anyio
BOUNDS = originals.Bounds(max_bytes=100, max_age_ms=1000)


async def _put(store: Store, text: str, now_ms: int = 0, cut_from: str | None = None) -> str:
    source = text if cut_from is None else cut_from
    return await store.write(lambda db: originals.put(db, text, source, [(0, 2), (3, 4)], now_ms=now_ms, bounds=BOUNDS))


async def test_a_text_comes_back_whole_and_in_parts(store: Store) -> None:
    """Parts are those of the text that was cut, where lossless steps had changed it before."""
    plain, tidied = await _put(store, "abcdef"), await _put(store, "abcdef", cut_from="uvwxyz")
    assert plain != tidied
    assert await store.read(lambda db: originals.get(db, plain)) == originals.Original(text="abcdef", parts=("ab", "d"))
    assert await store.read(lambda db: originals.get(db, tidied)) == originals.Original(text="abcdef", parts=("uv", "x"))
    assert await _put(store, "abcdef") == plain


async def test_what_is_too_old_or_too_much_goes_and_what_is_new_stays(store: Store) -> None:
    """The least recently used first; the one that is put is never let go, though it alone is too much."""
    ids = [await _put(store, letter * 40, now_ms) for now_ms, letter in enumerate("abc")]
    assert [await store.read(lambda db, i=i: originals.get(db, i)) is not None for i in ids] == [False, True, True]
    late = await _put(store, "d" * 500, 5000)
    assert await store.read(lambda db: originals.get(db, late)) is not None
    assert await store.read(lambda db: originals.get(db, ids[2])) is None
