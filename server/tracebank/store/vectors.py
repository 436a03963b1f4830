"""SQL for chunks and their vectors: the embedding cache, and the exact vectors that search is scored with."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
ChunkKey = tuple[int, int]  # (row of the trace, ordinal of the chunk)
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
