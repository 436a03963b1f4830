"""Where equal texts were cut before, so that who imports them again need not tokenize them again."""

from __future__ import annotations

import sqlite3

from tracebank.chunking import Chunk, parts_of, text_hash
from tracebank.records import Trace

# So many of the newest that begin with the same task are looked at: it may stand before thousands.
LOOKED_AT = 8
_WITH_THE_SAME_TEXT = (
    "SELECT t.id FROM (SELECT trace, ordinal FROM chunks WHERE text_hash = ?1 ORDER BY trace DESC LIMIT ?2) c "
    "CROSS JOIN traces t ON t.id = c.trace WHERE c.ordinal = 0 AND t.cut = ?3 AND t.task = ?4 AND t.content = ?5"
)


def known(db: sqlite3.Connection, trace: Trace, cut: bytes) -> list[Chunk] | None:
    """Return the chunks of a trace whose texts a stored one has, in any namespace, that was cut alike; None where none is found.

    A task that is more than one chunk is not looked for.
    """
    lessons = [(lesson.title, lesson.description, lesson.content) for lesson in trace.lessons]
    arguments = (text_hash(trace.task.strip()), LOOKED_AT, cut, trace.task, trace.content)
    for (row,) in db.execute(_WITH_THE_SAME_TEXT, arguments):
        if lessons == list(db.execute("SELECT title, description, content FROM lessons WHERE trace = ? ORDER BY ordinal", (row,))):
            return _chunks_as(db, row, trace)
    return None


def _chunks_as(db: sqlite3.Connection, row: int, trace: Trace) -> list[Chunk]:
    texts = {(part, item): text for part, item, text in parts_of(trace)}
    spans = db.execute('SELECT part, item, start, "end" FROM chunks WHERE trace = ? ORDER BY ordinal', (row,))
    return [Chunk(part=part, item=item, start=start, end=end, text=texts[part, item][start:end]) for part, item, start, end in spans]
