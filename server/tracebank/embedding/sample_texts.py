"""Texts that an export is checked with: of all lengths, in several scripts, some of them about the same."""

from __future__ import annotations

from tracebank.embedding.exported import PROBE

SAMPLES = (
    "cache",
    "ok",
    "Why did the deployment fail?",
    "How do I undo the last commit without losing my changes?",
    "git reset --soft HEAD~1 undoes the last commit and keeps the changes staged.",
    "TypeError: unsupported operand type(s) for +: 'int' and 'str'",
    "データベースの接続がタイムアウトしました。",
    "La conexión con la base de datos se agotó después de treinta segundos.",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.",
    "The patient was given 5 mg twice a day; symptoms improved within two weeks.",
    "def add(a: int, b: int) -> int:\n    return a + b\n",
    '{"status": "failed", "retries": 3, "reason": "connection reset by peer"}',
    PROBE,
    "npm ERR! ERESOLVE unable to resolve dependency tree while installing the front end",
    "Interest rates rose again this quarter, and the housing market cooled in most large cities.",
    "The team lost its third match in a row after the goalkeeper was sent off in the first half. " * 2,
    "Always run the migration on a copy of the production database first, and write down how long each step takes. " * 4,
    "First we profiled the import: most of the time went into the tokenizer. Then we sorted the texts by length. " * 8,
    "A recipe for bread: flour, water, salt and yeast; knead it, let it rise, shape it, and bake it until it is brown. " * 16,
    "The pipeline reads events from the queue, enriches them with the user's profile, and writes them to the warehouse. " * 32,
)
