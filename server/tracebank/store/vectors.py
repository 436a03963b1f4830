"""SQL for chunks and their vectors: the embedding cache, and the exact vectors that search is scored with."""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tracebank.scores import ORDINAL_BITS, Numbers

Vectors = NDArray[np.float32]
# Before the codes: how many tokens, and how many bytes each.
_TOKENS = struct.Struct("<HH")
_MAX_VARIABLES = 500  # SQLite's own bound was 999 for long
# CROSS JOIN fixes the order: from the few keys outwards. Left to itself SQLite begins with all embeddings.
_NUMBER = f"(c.trace << {ORDINAL_BITS} | c.ordinal)"
_NUMBERED = f"json_each(?) j CROSS JOIN chunks c ON c.trace = j.value >> {ORDINAL_BITS} AND c.ordinal = j.value & {(1 << ORDINAL_BITS) - 1}"
_EMBEDDED = "CROSS JOIN embeddings e ON e.model = ? AND e.text_hash = c.text_hash"


class Held(NamedTuple):
    """Chunks, by their numbers in ascending order, and their vectors, float32 [len(numbers), dim]."""

    numbers: Numbers
    matrix: Vectors


def put(db: sqlite3.Connection, model: int, vectors: Mapping[bytes, NDArray[np.floating]]) -> None:
    """Keep vectors by the hash of their text, as float16: half the size, and rank differences below 1e-3.

    A text that no chunk holds any more (it was forgotten while it was embedded) leaves nothing behind.
    """
    db.executemany(
        "INSERT OR REPLACE INTO embeddings SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM chunks WHERE text_hash = ?2)",
        [(model, h, v.astype(np.float16).tobytes()) for h, v in vectors.items()],
    )


def get(db: sqlite3.Connection, model: int, hashes: Iterable[bytes]) -> dict[bytes, Vectors]:
    """Return the vectors that are kept, by hash, float32 [dim]."""
    found, matrix = of_texts(db, model, hashes)
    return dict(zip(found, matrix, strict=True))


def of_chunks(db: sqlite3.Connection, model: int, numbers: Numbers) -> Held:
    """Return the vectors of these chunks, where they are kept."""
    return _held(db, f"{_NUMBERED} {_EMBEDDED}", (json.dumps(numbers.tolist()), model))


def of_traces(db: sqlite3.Connection, model: int, rows: Sequence[int]) -> Held:
    """Return the vectors of all chunks of these traces, where they are kept."""
    return _held(db, f"json_each(?) j CROSS JOIN chunks c ON c.trace = j.value {_EMBEDDED}", (json.dumps(list(rows)), model))


def of_namespace(db: sqlite3.Connection, model: int, space: int, *, limit: int) -> Held | None:
    """Return the vectors of all chunks of a namespace, in order, where they are kept; None where it has more than `limit` chunks."""
    if has_chunks(db, space, limit + 1):
        return None
    source = f"traces t CROSS JOIN chunks c ON c.trace = t.id AND t.namespace_id = ? {_EMBEDDED}"
    return _held(db, source, (space, model))


def has_chunks(db: sqlite3.Connection, space: int, number: int) -> bool:
    """Return whether a namespace has at least so many chunks."""
    # The traces first: each has a chunk, and their number is in an index.
    for counted in ("traces t", "traces t CROSS JOIN chunks c ON c.trace = t.id"):
        sql = f"SELECT count(*) FROM (SELECT 1 FROM {counted} WHERE t.namespace_id = ? LIMIT ?)"
        if db.execute(sql, (space, number)).fetchone()[0] >= number:
            return True
    return False


def _held(db: sqlite3.Connection, source: str, arguments: Sequence[object]) -> Held:
    found = db.execute(f"SELECT {_NUMBER}, e.vector FROM {source}", arguments).fetchall()
    numbers, matrix = np.array([number for number, _ in found], np.int64), _matrix([vector for _, vector in found])
    if np.all(numbers[1:] > numbers[:-1]):
        return Held(numbers, matrix)
    order = numbers.argsort()
    return Held(numbers[order], matrix[order])


def holders(db: sqlite3.Connection, space: int, hashes: Iterable[bytes], *, limit: int) -> dict[int, bytes]:
    """Return which chunks of a namespace have these texts, in the order of the hashes, about `limit` at most.

    Where there are more, each text has its equal part of them: one that thousands of traces have does not crowd out the others.
    """
    wanted = list(hashes)
    found: dict[int, bytes] = {}
    for i in range(0, len(wanted), _MAX_VARIABLES):
        part = wanted[i : i + _MAX_VARIABLES]
        rows = db.execute(
            f"WITH wanted (text_hash) AS (VALUES {', '.join(['(?)'] * len(part))}) SELECT c.text_hash, {_NUMBER} FROM wanted w "
            "CROSS JOIN chunks c ON c.text_hash = w.text_hash CROSS JOIN traces t ON t.id = c.trace AND t.namespace_id = ? LIMIT ?",
            (*part, space, limit + 1),
        )
        found.update((number, h) for h, number in rows)
        if len(found) > limit:
            return _some_holders(db, space, wanted, each=max(1, limit // len(wanted)))
    return found


def _some_holders(db: sqlite3.Connection, space: int, hashes: Sequence[bytes], *, each: int) -> dict[int, bytes]:
    one = f"SELECT {_NUMBER} FROM chunks c CROSS JOIN traces t ON t.id = c.trace AND t.namespace_id = ? WHERE c.text_hash = ? LIMIT ?"
    return {number: h for h in hashes for (number,) in db.execute(one, (space, h, each))}


def of_texts(db: sqlite3.Connection, model: int, hashes: Iterable[bytes]) -> tuple[list[bytes], Vectors]:
    """Return those of the hashes whose vectors are kept, in any order, and the vectors, float32 [found, dim]."""
    wanted, rows = list(hashes), []
    for i in range(0, len(wanted), _MAX_VARIABLES):
        part = wanted[i : i + _MAX_VARIABLES]
        marks = ", ".join("?" * len(part))
        rows += db.execute(
            f"SELECT text_hash, vector FROM embeddings WHERE model = ? AND text_hash IN ({marks})", (model, *part)
        ).fetchall()
    return [h for h, _ in rows], _matrix([v for _, v in rows])


def by_hash(db: sqlite3.Connection, model: int, space: int, *, after: bytes, limit: int) -> tuple[list[bytes], Vectors]:
    """Return the next texts of a namespace in the order of their hashes, each once, and their vectors, float32 [found, dim]."""
    rows = db.execute(
        "SELECT e.text_hash, e.vector FROM embeddings e WHERE e.model = ? AND e.text_hash > ? AND EXISTS (SELECT 1 FROM chunks c "
        "CROSS JOIN traces t ON t.id = c.trace WHERE c.text_hash = e.text_hash AND t.namespace_id = ?) ORDER BY e.text_hash LIMIT ?",
        (model, after, space, limit),
    ).fetchall()
    return [h for h, _ in rows], _matrix([v for _, v in rows])


def _matrix(raw: Sequence[bytes]) -> Vectors:
    return np.frombuffer(b"".join(raw), np.float16).astype(np.float32).reshape(len(raw), -1 if raw else 0)


def a_holder(db: sqlite3.Connection, space: int, text_hash: bytes) -> int | None:
    """Return the row of a trace in the namespace that has this text; None where there is none (any more)."""
    sql = "SELECT c.trace FROM chunks c CROSS JOIN traces t ON t.id = c.trace AND t.namespace_id = ? WHERE c.text_hash = ? LIMIT 1"
    found = db.execute(sql, (space, text_hash)).fetchone()
    return int(found[0]) if found else None


def put_tokens(db: sqlite3.Connection, model: int, codes: Mapping[bytes, NDArray[np.uint8]]) -> None:
    """Keep packed token vectors, uint8 [tokens, bytes a token], by the hash of their text, where a chunk still holds it."""
    db.executemany(
        "INSERT OR REPLACE INTO token_vectors SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM chunks WHERE text_hash = ?2)",
        [(model, h, _TOKENS.pack(*code.shape) + code.tobytes()) for h, code in codes.items()],
    )


def drop_tokens(db: sqlite3.Connection, model: int, *, limit: int) -> int:
    """Forget token vectors of a model, of at most so many texts. Returns of how many."""
    some = "SELECT rowid FROM token_vectors WHERE model = ? LIMIT ?"
    return db.execute(f"DELETE FROM token_vectors WHERE rowid IN ({some})", (model, limit)).rowcount


def any_kept(db: sqlite3.Connection, model: int) -> bool:
    """Return whether any vector of a model is kept."""
    return db.execute("SELECT 1 FROM embeddings WHERE model = ? LIMIT 1", (model,)).fetchone() is not None


def with_tokens(db: sqlite3.Connection, model: int, hashes: Iterable[bytes]) -> set[bytes]:
    """Return those of the hashes whose tokens are kept."""
    return {
        h for h in hashes if db.execute("SELECT 1 FROM token_vectors WHERE model = ? AND text_hash = ?", (model, h)).fetchone() is not None
    }


def tokens_of_chunks(db: sqlite3.Connection, model: int, numbers: Sequence[int]) -> dict[int, NDArray[np.uint8]]:
    """Return the packed token vectors of these chunks, by number, where they are kept."""
    found = db.execute(
        f"SELECT j.value, v.codes FROM {_NUMBERED} CROSS JOIN token_vectors v ON v.model = ? AND v.text_hash = c.text_hash",
        (json.dumps(list(numbers)), model),
    )
    return {number: np.frombuffer(raw, np.uint8, offset=_TOKENS.size).reshape(_TOKENS.unpack_from(raw)) for number, raw in found}


def counts(db: sqlite3.Connection, rows: Sequence[int], model: int | None, *, tokens: bool = False) -> dict[int, tuple[int, int]]:
    """Return of each trace how many chunks it has, and how many of them have no vector of the model; none without a model.

    With `tokens` those count, too, whose token vectors are not kept.
    """
    joined = "LEFT JOIN token_vectors v ON v.model = ?1 AND v.text_hash = c.text_hash " if tokens else ""
    missing = "(e.text_hash IS NULL OR v.text_hash IS NULL)" if tokens else "e.text_hash IS NULL"
    found = db.execute(
        f"SELECT c.trace, count(*), count(*) FILTER (WHERE ?1 IS NOT NULL AND {missing}) "
        "FROM json_each(?2) j CROSS JOIN chunks c ON c.trace = j.value "
        f"LEFT JOIN embeddings e ON e.model = ?1 AND e.text_hash = c.text_hash {joined}GROUP BY c.trace",
        (model, json.dumps(list(rows))),
    )
    return {row: (every, missing) for row, every, missing in found}


def spans(db: sqlite3.Connection, rows: Sequence[int]) -> dict[int, list[tuple[str, int, int, int]]]:
    """Return the (part, item, start, end) of every chunk, in order, by row of the trace."""
    found: dict[int, list[tuple[str, int, int, int]]] = {}
    for row, *span in db.execute(
        'SELECT trace, part, item, start, "end" FROM chunks WHERE trace IN (SELECT value FROM json_each(?)) ORDER BY trace, ordinal',
        (json.dumps(list(rows)),),
    ):
        found.setdefault(row, []).append((span[0], span[1], span[2], span[3]))
    return found
