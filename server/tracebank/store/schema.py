"""The tables, as the steps that have led to them: a store's `user_version` counts those it has had."""

from __future__ import annotations


def _stamping(event: str, where: str = "") -> str:
    """Return a trigger that gives a namespace a new version after an event, such as "INSERT ON traces".

    `where` finds the namespace where the row does not have its number. A version is never given out twice, and is no
    lower than the time in milliseconds: nor is it by a store that was put back from a copy and written to again.
    """
    row = "old" if event.startswith("DELETE") else "new"
    name = event.lower().replace(" ", "_")
    when = f"WHEN {row}.sink IN ('words', 'vectors')" if event.endswith("outbox") else ""
    now_ms = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
    number = f"max((SELECT coalesce(max(version), 0) + 1 FROM versions), {now_ms})"
    source = where.format(row=row) or "WHERE true"
    namespace = "namespace_id" if where else f"{row}.namespace_id"
    return (
        f"CREATE TRIGGER version_after_{name} AFTER {event} {when} BEGIN INSERT INTO versions SELECT {namespace}, {number} {source} "
        "ON CONFLICT (namespace_id) DO UPDATE SET version = excluded.version; END;"
    )


# Whatever an answer is made of. Lessons, tags and chunks change with their trace only; an entry that leaves the outbox has
# reached its index.
_STAMPING = "\n".join(
    [
        *(_stamping(f"{act} ON {table}") for table in ("traces", "patterns", "lesson_groups") for act in ("INSERT", "UPDATE", "DELETE")),
        _stamping("DELETE ON outbox"),
        _stamping("INSERT ON feedback", "FROM traces WHERE id = {row}.trace"),
    ]
)

# Migration n brings a file of user_version n to n + 1. Never edit one that was released: add the next.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE namespaces (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE);
    -- AUTOINCREMENT: the indexes know a trace by its row, so a row's number is never given out twice.
    CREATE TABLE traces (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        namespace_id INTEGER NOT NULL REFERENCES namespaces (id),
        trace_id TEXT NOT NULL,
        task TEXT NOT NULL,
        content TEXT NOT NULL,
        outcome TEXT NOT NULL,
        parent_id TEXT,
        occurred_at_ms INTEGER NOT NULL,
        created_at_ms INTEGER NOT NULL,
        updated_at_ms INTEGER NOT NULL,
        metadata TEXT NOT NULL,
        content_hash BLOB NOT NULL,
        UNIQUE (namespace_id, trace_id)
    );
    CREATE INDEX traces_by_time ON traces (namespace_id, occurred_at_ms);
    CREATE INDEX traces_by_outcome ON traces (namespace_id, outcome);
    CREATE TABLE lessons (
        trace INTEGER NOT NULL REFERENCES traces (id) ON DELETE CASCADE,
        ordinal INTEGER NOT NULL,
        title TEXT NOT NULL, description TEXT NOT NULL, content TEXT NOT NULL,
        PRIMARY KEY (trace, ordinal)
    ) WITHOUT ROWID;
    CREATE TABLE tags (
        trace INTEGER NOT NULL REFERENCES traces (id) ON DELETE CASCADE,
        ordinal INTEGER NOT NULL,
        tag TEXT NOT NULL,
        PRIMARY KEY (trace, ordinal)
    ) WITHOUT ROWID;
    CREATE INDEX tags_by_tag ON tags (tag, trace);
    CREATE TABLE chunks (
        trace INTEGER NOT NULL REFERENCES traces (id) ON DELETE CASCADE,
        ordinal INTEGER NOT NULL,
        part TEXT NOT NULL, item INTEGER NOT NULL, start INTEGER NOT NULL, "end" INTEGER NOT NULL,
        text_hash BLOB NOT NULL,
        PRIMARY KEY (trace, ordinal)
    ) WITHOUT ROWID;
    CREATE INDEX chunks_by_hash ON chunks (text_hash);
    CREATE TABLE models (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE);
    -- The embedding cache: float16 vectors by model and text.
    CREATE TABLE embeddings (
        model INTEGER NOT NULL REFERENCES models (id),
        text_hash BLOB NOT NULL,
        vector BLOB NOT NULL,
        PRIMARY KEY (model, text_hash)
    ) WITHOUT ROWID;
    -- What an index has yet to do. A trace that is gone from `traces` is to be deleted there;
    -- stale_chunks is how many of its chunks the index may hold from before.
    CREATE TABLE outbox (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        sink TEXT NOT NULL,
        trace INTEGER NOT NULL,
        namespace_id INTEGER NOT NULL,
        priority INTEGER NOT NULL,
        stale_chunks INTEGER NOT NULL,
        error TEXT,
        UNIQUE (sink, trace)
    );
    CREATE INDEX outbox_due ON outbox (sink, priority, seq) WHERE error IS NULL;
    CREATE INDEX outbox_set_aside ON outbox (sink) WHERE error IS NOT NULL;
    """,
    """
    -- role: serving, next, or none. settings: how the model is loaded, so that it can serve while another takes its place.
    ALTER TABLE models ADD COLUMN role TEXT;
    ALTER TABLE models ADD COLUMN settings TEXT NOT NULL DEFAULT '{}';
    """,
    """
    -- What language models have used, by day (UTC), with what is reserved for calls under way.
    CREATE TABLE llm_spending (
        day TEXT PRIMARY KEY, tokens INTEGER NOT NULL, nano_usd INTEGER NOT NULL
    ) WITHOUT ROWID;
    """,
    """
    -- An episode is open until it has a trace; it is forgotten with its trace, and so is all that was learned from it.
    CREATE TABLE episodes (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        episode_id TEXT NOT NULL UNIQUE,
        namespace_id INTEGER NOT NULL REFERENCES namespaces (id),
        task TEXT NOT NULL,
        started_at_ms INTEGER NOT NULL,
        updated_at_ms INTEGER NOT NULL,
        trace INTEGER REFERENCES traces (id) ON DELETE CASCADE,
        effort INTEGER,
        result TEXT
    );
    CREATE INDEX episodes_by_trace ON episodes (trace);
    CREATE INDEX episodes_open ON episodes (updated_at_ms) WHERE trace IS NULL;
    -- Of episodes that no agent has ended, open or abandoned: the trace of a complete one holds their words.
    CREATE TABLE steps (
        episode INTEGER NOT NULL REFERENCES episodes (id) ON DELETE CASCADE,
        ordinal INTEGER NOT NULL,
        action TEXT NOT NULL, observation TEXT NOT NULL, thought TEXT NOT NULL,
        ok INTEGER,
        duration_ms REAL,
        PRIMARY KEY (episode, ordinal)
    ) WITHOUT ROWID;
    -- What was seen in several episodes. The counts are those of the evidence, whoever adds or deletes it.
    CREATE TABLE patterns (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        namespace_id INTEGER NOT NULL REFERENCES namespaces (id),
        kind TEXT NOT NULL, context TEXT NOT NULL, choice TEXT NOT NULL,
        seen INTEGER NOT NULL DEFAULT 0,
        judged INTEGER NOT NULL DEFAULT 0,
        credit REAL NOT NULL DEFAULT 0,
        UNIQUE (namespace_id, kind, context, choice)
    );
    CREATE TABLE pattern_evidence (
        pattern INTEGER NOT NULL REFERENCES patterns (id) ON DELETE CASCADE,
        trace INTEGER NOT NULL REFERENCES traces (id) ON DELETE CASCADE,
        credit REAL,
        PRIMARY KEY (pattern, trace)
    ) WITHOUT ROWID;
    CREATE INDEX pattern_evidence_by_trace ON pattern_evidence (trace);
    CREATE TRIGGER pattern_gains AFTER INSERT ON pattern_evidence BEGIN
        UPDATE patterns SET seen = seen + 1, judged = judged + (new.credit IS NOT NULL), credit = credit + coalesce(new.credit, 0)
        WHERE id = new.pattern;
    END;
    CREATE TRIGGER pattern_loses AFTER DELETE ON pattern_evidence BEGIN
        UPDATE patterns SET seen = seen - 1, judged = judged - (old.credit IS NOT NULL), credit = credit - coalesce(old.credit, 0)
        WHERE id = old.pattern;
        DELETE FROM patterns WHERE id = old.pattern AND seen <= 0;
    END;
    -- What a memory was worth: said by an agent, or shown by the success of an episode that had read it.
    CREATE TABLE feedback (
        id INTEGER PRIMARY KEY,
        trace INTEGER NOT NULL REFERENCES traces (id) ON DELETE CASCADE,
        at_ms INTEGER NOT NULL,
        helpful INTEGER NOT NULL,
        weight REAL NOT NULL,
        note TEXT NOT NULL
    );
    CREATE INDEX feedback_by_trace ON feedback (trace);
    -- Lessons that belong together, told when one of them is shown. The lessons stay as they are, so a group can be undone;
    -- one that was undone stays, so that it is not made again.
    CREATE TABLE lesson_groups (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        namespace_id INTEGER NOT NULL REFERENCES namespaces (id),
        kind TEXT NOT NULL,
        made_at_ms INTEGER NOT NULL,
        undone_at_ms INTEGER
    );
    CREATE TABLE grouped_lessons (
        lesson_group INTEGER NOT NULL REFERENCES lesson_groups (id) ON DELETE CASCADE,
        trace INTEGER NOT NULL,
        ordinal INTEGER NOT NULL,
        PRIMARY KEY (lesson_group, trace, ordinal),
        FOREIGN KEY (trace, ordinal) REFERENCES lessons (trace, ordinal) ON DELETE CASCADE
    ) WITHOUT ROWID;
    CREATE INDEX grouped_lessons_by_lesson ON grouped_lessons (trace, ordinal);
    """,
    """
    -- What the model says of each token of a chunk, packed. Beside the vectors, not with them: these are read for few chunks.
    CREATE TABLE token_vectors (
        model INTEGER NOT NULL REFERENCES models (id),
        text_hash BLOB NOT NULL,
        codes BLOB NOT NULL,
        PRIMARY KEY (model, text_hash)
    );
    """,
    """
    -- Texts that were shortened, and what each shortening left out: spans is a JSON list of [start, end] in characters of
    -- cut_from, the text after lossless steps (NULL: they changed nothing).
    CREATE TABLE originals (text_id TEXT PRIMARY KEY, text TEXT NOT NULL, bytes INTEGER NOT NULL, used_at_ms INTEGER NOT NULL);
    CREATE INDEX originals_by_use ON originals (used_at_ms);
    CREATE TABLE original_cuts (
        id TEXT PRIMARY KEY,
        text_id TEXT NOT NULL REFERENCES originals (text_id) ON DELETE CASCADE,
        cut_from TEXT,
        spans TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX original_cuts_by_text ON original_cuts (text_id);
    """,
    f"""
    -- The version of a namespace changes whenever an answer from it may: kept answers say which one they are of.
    CREATE TABLE versions (namespace_id INTEGER PRIMARY KEY, version INTEGER NOT NULL);
    CREATE INDEX versions_by_version ON versions (version);
    {_STAMPING}
    """,
    """
    -- Vectors are indexed by text, so what may have to go is texts: their hashes (16 bytes each), one after the other.
    ALTER TABLE outbox DROP COLUMN stale_chunks;
    ALTER TABLE outbox ADD COLUMN stale_texts BLOB NOT NULL DEFAULT x'';
    -- What a filter asks to be equal: metadata by key, tags with the key ''. `value` has no type, so 1 equals 1.0.
    CREATE TABLE labels (
        trace INTEGER NOT NULL REFERENCES traces (id) ON DELETE CASCADE,
        key TEXT NOT NULL,
        value NOT NULL,
        namespace_id INTEGER NOT NULL,
        PRIMARY KEY (trace, key, value)
    ) WITHOUT ROWID;
    CREATE INDEX labels_by_value ON labels (namespace_id, key, value, trace);
    INSERT OR IGNORE INTO labels SELECT t.id, '', g.tag, t.namespace_id FROM tags g JOIN traces t ON t.id = g.trace;
    INSERT OR IGNORE INTO labels SELECT t.id, j.key, j.value, t.namespace_id FROM traces t JOIN json_each(t.metadata) j WHERE j.key <> '';
    DROP INDEX tags_by_tag;
    """,
    f"""
    -- Episodes whose tasks are nearly the same. A kind is known by its example; without it the others are sorted anew.
    CREATE TABLE kinds (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        namespace_id INTEGER NOT NULL REFERENCES namespaces (id),
        example INTEGER NOT NULL REFERENCES traces (id) ON DELETE CASCADE
    );
    CREATE INDEX kinds_by_example ON kinds (example);
    CREATE INDEX kinds_by_namespace ON kinds (namespace_id);
    CREATE TABLE kind_episodes (
        trace INTEGER PRIMARY KEY REFERENCES traces (id) ON DELETE CASCADE,
        kind INTEGER NOT NULL REFERENCES kinds (id) ON DELETE CASCADE
    );
    CREATE INDEX kind_episodes_by_kind ON kind_episodes (kind);
    {_stamping("INSERT ON kind_episodes", "FROM kinds WHERE id = {row}.kind")}
    {_stamping("DELETE ON kinds")}
    """,
    """
    -- In labels true and false are the bytes 1 and 0, which equal no number.
    DELETE FROM labels WHERE EXISTS (SELECT 1 FROM traces t JOIN json_each(t.metadata) j
        WHERE t.id = labels.trace AND j.key = labels.key AND j.key <> '' AND j.type IN ('true', 'false'));
    INSERT OR IGNORE INTO labels SELECT t.id, j.key, CASE j.type WHEN 'true' THEN x'01' ELSE x'00' END, t.namespace_id
        FROM traces t JOIN json_each(t.metadata) j WHERE j.key <> '' AND j.type IN ('true', 'false');
    """,
    """
    -- Vectors fill pages with a few rows each, which as an index is a deep tree. By row, in the order of their chunks, they are
    -- read in half the time.
    CREATE TABLE embeddings_by_row (
        model INTEGER NOT NULL REFERENCES models (id),
        text_hash BLOB NOT NULL,
        vector BLOB NOT NULL,
        PRIMARY KEY (model, text_hash)
    );
    INSERT OR IGNORE INTO embeddings_by_row SELECT e.* FROM models m CROSS JOIN chunks c
        CROSS JOIN embeddings e ON e.model = m.id AND e.text_hash = c.text_hash;
    INSERT OR IGNORE INTO embeddings_by_row SELECT * FROM embeddings;
    DROP TABLE embeddings;
    ALTER TABLE embeddings_by_row RENAME TO embeddings;
    """,
    """
    -- What decided where the trace's texts were cut (see `chunking.cut_mark`); NULL where that is not known.
    ALTER TABLE traces ADD COLUMN cut BLOB;
    """,
    """
    -- What the model said of the tokens of a known text when its token_vectors were made; NULL where that is not known.
    ALTER TABLE models ADD COLUMN token_probe BLOB;
    """,
    """
    -- A trace that is updated is evidence of what it says now: of its new outcome, and by its former task of no kind. What its lessons
    -- were contrary to is found anew.
    CREATE TRIGGER pattern_changes AFTER UPDATE OF credit ON pattern_evidence BEGIN
        UPDATE patterns SET judged = judged + (new.credit IS NOT NULL) - (old.credit IS NOT NULL),
            credit = credit + coalesce(new.credit, 0) - coalesce(old.credit, 0)
        WHERE id = new.pattern;
    END;
    CREATE TRIGGER outcome_changes AFTER UPDATE OF outcome ON traces WHEN old.outcome <> new.outcome BEGIN
        UPDATE pattern_evidence SET credit = CASE new.outcome WHEN 'success' THEN 1.0 WHEN 'partial' THEN 0.5 WHEN 'failure' THEN 0.0 END
        WHERE trace = new.id;
        DELETE FROM lesson_groups WHERE kind = 'contrary' AND undone_at_ms IS NULL
            AND id IN (SELECT lesson_group FROM grouped_lessons WHERE trace = new.id);
    END;
    CREATE TRIGGER task_changes AFTER UPDATE OF task ON traces WHEN old.task <> new.task BEGIN
        DELETE FROM kind_episodes WHERE trace = new.id;
        DELETE FROM kinds WHERE example = new.id;
        DELETE FROM lesson_groups WHERE kind = 'contrary' AND undone_at_ms IS NULL
            AND id IN (SELECT lesson_group FROM grouped_lessons WHERE trace = new.id);
    END;
    """,
    """
    -- The number of the first entry that this one has replaced and that somebody waits for; NULL: its own.
    ALTER TABLE outbox ADD COLUMN first_seq INTEGER;
    CREATE INDEX outbox_awaited ON outbox (sink, coalesce(first_seq, seq)) WHERE error IS NULL AND priority = 0;
    """,
    """
    -- What a text was cut from, where lossless steps had changed it: once, however often it was cut. bytes counts all of it.
    CREATE TABLE cut_sources (
        id INTEGER PRIMARY KEY,
        text_id TEXT NOT NULL REFERENCES originals (text_id) ON DELETE CASCADE,
        text TEXT NOT NULL
    );
    CREATE INDEX cut_sources_by_text ON cut_sources (text_id);
    INSERT INTO cut_sources (text_id, text) SELECT DISTINCT text_id, cut_from FROM original_cuts WHERE cut_from IS NOT NULL;
    ALTER TABLE original_cuts ADD COLUMN source INTEGER;
    UPDATE original_cuts SET source = (SELECT s.id FROM cut_sources s WHERE s.text_id = original_cuts.text_id AND s.text = cut_from);
    ALTER TABLE original_cuts DROP COLUMN cut_from;
    UPDATE originals SET bytes = bytes
        + (SELECT coalesce(sum(length(CAST(s.text AS BLOB))), 0) FROM cut_sources s WHERE s.text_id = originals.text_id)
        + (SELECT coalesce(sum(length(c.spans)), 0) FROM original_cuts c WHERE c.text_id = originals.text_id);
    """,
    """
    -- One row, by chance: what is derived from this store says which one that is.
    CREATE TABLE identity (id BLOB NOT NULL);
    INSERT INTO identity VALUES (randomblob(16));
    """,
)
