"""Chroma's own SQLite file: how it is opened beside Chroma, and what it need not keep up for us.

Nobody may ask Chroma meanwhile (see `ChromaVectorIndex.count`).
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path

from tracebank.errors import IndexFaultError

log = logging.getLogger(__name__)

DATABASE = "chroma.sqlite3"
DATABASE_TIMEOUT_S = 30.0
WORDS = "embedding_fulltext_search"
# An index of all strings of all metadata, the texts among them, which serves `where` filters only.
STRINGS = "embedding_metadata_string_value"
# From so many parts of one size on the index of trigrams is merged (FTS5's own bounds are 4 and 16). It serves `where_document` only.
MERGED_FROM, MERGED_AT_ONCE_FROM = 16, 64


@contextlib.contextmanager
def connected(database: Path) -> Iterator[sqlite3.Connection]:
    """Open Chroma's database. Raises: IndexFaultError, also for what the body raises."""
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=DATABASE_TIMEOUT_S, isolation_level=None)) as db:
            yield db
    except (sqlite3.Error, OSError, struct.error) as error:
        raise IndexFaultError(f"{database} cannot be changed: {error}") from error


def write_less(directory: Path) -> None:
    """Let a database that is still empty keep up less for filters that nobody here uses: a fifth of what writing a text costs.

    They work all the same, for whoever reads it with another client. Of a Chroma that has it otherwise nothing is changed.
    """
    try:
        with connected(directory / DATABASE) as db:
            db.execute(f"DROP INDEX IF EXISTS {STRINGS}")
            for name, value in (("automerge", MERGED_FROM), ("crisismerge", MERGED_AT_ONCE_FROM)):
                db.execute(f"INSERT INTO {WORDS} ({WORDS}, rank) VALUES (?, ?)", (name, value))
    except IndexFaultError as error:
        log.info("Chroma's database is written as Chroma has it: %s", error)
