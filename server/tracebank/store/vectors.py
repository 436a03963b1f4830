"""SQL for chunks and their vectors: the embedding cache, and the exact vectors that search is scored with."""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
ChunkKey = tuple[int, int]  # (row of the trace, ordinal of the chunk)
# Before the codes: how many tokens, and how many bytes each.
_TOKENS = struct.Struct("<HH")
_MAX_VARIABLES = 500  # SQLite's own bound was 999 for long


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
    found: dict[bytes, Vectors] = {}
    wanted = list(hashes)
    for i in range(0, len(wanted), _MAX_VARIABLES):
        part = wanted[i : i + _MAX_VARIABLES]
        marks = ", ".join("?" * len(part))
        rows = db.execute(f"SELECT text_hash, vector FROM embeddings WHERE model = ? AND text_hash IN ({marks})", (model, *part))
        found.update((h, _vector(v)) for h, v in rows)
    return found


def of_chunks(db: sqlite3.Connection, model: int, keys: Sequence[ChunkKey]) -> dict[ChunkKey, Vectors]:
    """Return the vectors of these chunks, where they are kept."""
    found = db.execute(
        # CROSS JOIN fixes the order: from the few keys outwards. Left to itself SQLite begins with all embeddings.
        "SELECT c.trace, c.ordinal, e.vector FROM json_each(?) j "
        "CROSS JOIN chunks c ON c.trace = CAST(j.value ->> 0 AS INTEGER) AND c.ordinal = CAST(j.value ->> 1 AS INTEGER) "
        "CROSS JOIN embeddings e ON e.model = ? AND e.text_hash = c.text_hash",
        (json.dumps(list(keys)), model),
    )
    return {(row, ordinal): _vector(v) for row, ordinal, v in found}


def of_traces(db: sqlite3.Connection, model: int, rows: Sequence[int]) -> dict[ChunkKey, Vectors]:
    """Return the vectors of all chunks of these traces, where they are kept."""
    found = db.execute(
        "SELECT c.trace, c.ordinal, e.vector FROM json_each(?) j CROSS JOIN chunks c ON c.trace = j.value "
        "CROSS JOIN embeddings e ON e.model = ? AND e.text_hash = c.text_hash",
        (json.dumps(list(rows)), model),
    )
    return {(row, ordinal): _vector(v) for row, ordinal, v in found}


def put_tokens(db: sqlite3.Connection, model: int, codes: Mapping[bytes, NDArray[np.uint8]]) -> None:
    """Keep packed token vectors, uint8 [tokens, bytes a token], by the hash of their text, where a chunk still holds it."""
    db.executemany(
        "INSERT OR REPLACE INTO token_vectors SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM chunks WHERE text_hash = ?2)",
        [(model, h, _TOKENS.pack(*code.shape) + code.tobytes()) for h, code in codes.items()],
    )


def with_tokens(db: sqlite3.Connection, model: int, hashes: Iterable[bytes]) -> set[bytes]:
    """Return those of the hashes whose tokens are kept."""
    return {
        h for h in hashes if db.execute("SELECT 1 FROM token_vectors WHERE model = ? AND text_hash = ?", (model, h)).fetchone() is not None
    }


def tokens_of_chunks(db: sqlite3.Connection, model: int, keys: Sequence[ChunkKey]) -> dict[ChunkKey, NDArray[np.uint8]]:
    """Return the packed token vectors of these chunks, where they are kept."""
    found = db.execute(
        "SELECT c.trace, c.ordinal, v.codes FROM json_each(?) j "
        "CROSS JOIN chunks c ON c.trace = CAST(j.value ->> 0 AS INTEGER) AND c.ordinal = CAST(j.value ->> 1 AS INTEGER) "
        "CROSS JOIN token_vectors v ON v.model = ? AND v.text_hash = c.text_hash",
        (json.dumps(list(keys)), model),
    )
    return {
        (row, ordinal): np.frombuffer(raw, np.uint8, offset=_TOKENS.size).reshape(_TOKENS.unpack_from(raw)) for row, ordinal, raw in found
    }


def spans(db: sqlite3.Connection, rows: Sequence[int]) -> dict[int, list[tuple[str, int, int, int]]]:
    """Return the (part, item, start, end) of every chunk, in order, by row of the trace."""
    found: dict[int, list[tuple[str, int, int, int]]] = {}
    for row, *span in db.execute(
        'SELECT trace, part, item, start, "end" FROM chunks WHERE trace IN (SELECT value FROM json_each(?)) ORDER BY trace, ordinal',
        (json.dumps(list(rows)),),
    ):
        found.setdefault(row, []).append((span[0], span[1], span[2], span[3]))
    return found


def _vector(raw: bytes) -> Vectors:
    return np.frombuffer(raw, np.float16).astype(np.float32)
