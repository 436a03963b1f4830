"""What Chroma leaves in its directory of texts that were deleted, and taking it off the disk."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

from tracebank.index.database import DATABASE, WORDS, connected

# Chroma's number for a deletion in its queue.
DELETED = 3
# Of hnswlib's file: version, offset, capacity, points, bytes of a point.
GRAPH_HEADER = struct.Struct("<iQQQQ")
LENGTH_BYTES = 4


def sweep(directory: Path) -> None:
    """Delete the graphs of collections that are gone. Raises: IndexFaultError."""
    with connected(directory / DATABASE) as db:
        used = {name for (name,) in db.execute("SELECT id FROM segments")}
    for header in directory.glob("*/header.bin"):
        if header.parent.name not in used:
            shutil.rmtree(header.parent, ignore_errors=True)


def erase_deleted(directory: Path) -> None:
    """Take deleted texts out of the queue, which keeps the last thousand writes, of the index of words, and of freed pages.

    Raises: IndexFaultError.
    """
    with connected(directory / DATABASE) as db:
        # Of a text that was written and then deleted the deletion tells all. The queue has no index to look for one by.
        db.execute("PRAGMA temp_store = MEMORY")
        db.execute("CREATE TEMP TABLE deletions (topic, id, last, PRIMARY KEY (topic, id)) WITHOUT ROWID")
        db.execute(
            "INSERT INTO deletions SELECT topic, id, max(seq_id) FROM embeddings_queue WHERE operation = ? GROUP BY topic, id", (DELETED,)
        )
        db.execute(
            "DELETE FROM embeddings_queue AS q "
            "WHERE EXISTS (SELECT 1 FROM deletions d WHERE d.topic = q.topic AND d.id = q.id AND d.last > q.seq_id)"
        )
        # Of a text that was deleted the index of its trigrams keeps all, with their places: enough to put it together again. Merged
        # into one, 0.7 s for 30 thousand chunks, it has only what is there.
        db.execute(f"INSERT INTO {WORDS} ({WORDS}) VALUES ('optimize')")
        db.execute("VACUUM")
        erase_unused(directory)


def erase_unused(directory: Path) -> None:
    """Overwrite what lies behind the last point in each graph's files. Raises: OSError, struct.error."""
    for header in directory.glob("*/header.bin"):
        _erase_unused(header)


def _erase_unused(header: Path) -> None:
    """Overwrite what lies behind the last point in a graph's files: new ones are written as their memory happened to be."""
    _, _, _, points, point_bytes = GRAPH_HEADER.unpack_from(header.read_bytes())
    for name, each in (("data_level0.bin", point_bytes), ("length.bin", LENGTH_BYTES)):
        part = header.with_name(name)
        used, size = points * each, part.stat().st_size
        if used < size:
            with part.open("r+b") as file:
                file.seek(used)
                file.write(bytes(size - used))
