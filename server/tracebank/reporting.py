"""What `stats` and `doctor` tell of an engine."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from anyio import to_thread

from tracebank import __version__, compaction
from tracebank.embedding import DocumentEncoder
from tracebank.errors import IndexFaultError, InputError
from tracebank.index import ChromaVectorIndex
from tracebank.records import shown
from tracebank.store import outbox

if TYPE_CHECKING:
    from tracebank.engine import Engine


SECTIONS = ("engine", "store", "index", "embedding", "caches", "latencies", "tokens", "compression", "llm", "learning", "plugins", "advice")
MODEL_CHANGE = "model change"
LOW_DISK_BYTES = 256 * 1_048_576
# So often is an index compared with the store while both are written to, and so long it may catch up in between.
MAX_COMPARISONS, CATCHING_UP_S = 10, 0.5


async def report(engine: Engine, section: str = "all") -> dict[str, Any]:
    """Return the figures of one section, or of all. Raises: InputError."""
    if section != "all" and section not in SECTIONS:
        raise InputError("section", f"must be all or one of {', '.join(SECTIONS)}, not {shown(section)}")
    figures: dict[str, Any] = {
        "engine": _engine(engine),
        "store": await engine.store.read(engine.store.figures),
        "index": await _index(engine),
        "embedding": await _embedding(engine),
        "caches": {
            **engine.asking.report(),
            "query_vectors": engine.embedding.cache.report(),
        },
        "latencies": engine.metrics.latencies(),
        "tokens": {"tokenizer": engine.tokenizer.name},
        "compression": _compression(engine),
        "llm": await engine.llm.report(),
        "learning": await engine.learner.figures(),
        "plugins": dict(engine.plugins),
    }
    figures["advice"] = _advice(figures, engine)
    return figures if section == "all" else {section: figures[section]}


def _engine(engine: Engine) -> dict[str, Any]:
    return {
        "version": __version__,
        "pid": os.getpid(),
        "data_dir": str(engine.settings.data_dir),
        "uptime_s": engine.uptime_s,
        "memory_bytes": memory_bytes(),
        "startup_ms": dict(engine.startup.parts_ms),
        "problems": dict(engine.problems),
    }


async def _index(engine: Engine) -> dict[str, Any]:
    def read(db: sqlite3.Connection) -> dict[str, Any]:
        return {
            "pending": {sink: outbox.waiting(db, sink) for sink in outbox.SINKS},
            "set_aside": [{"index": sink, "trace_id": trace_id, "error": error} for sink, trace_id, error in outbox.errors(db)],
        }

    figures = await engine.store.read(read)
    return {
        **figures,
        "stalled": dict(engine.indexer.stalled),
        "meaning": engine.retriever.deep,
        "short_vectors": await _short_vectors(engine),
        "rebuilds": dict(engine.indexer.rebuilds),
        "out_of_use": dict(engine.indexer.faults),
    }


async def _short_vectors(engine: Engine) -> dict[str, Any]:
    """Return, by namespace, what shorter vectors save and what they find; only of those that have them."""
    index, dim = engine.vectors, engine.embedding.dim
    if not isinstance(index, ChromaVectorIndex) or dim is None:
        return {}
    short = {name: space for name, space in sorted(engine.spaces.items()) if index.pair(space).serving.dims is not None}
    return {name: compaction.figures(index, space, await to_thread.run_sync(index.count, space), dim) for name, space in short.items()}


async def _embedding(engine: Engine) -> dict[str, Any]:
    counters = engine.metrics.counters()
    return {
        "model": engine.embedding.name,
        "state": "ready" if engine.embedding.ready else "failed" if engine.embedding.error else "loading",
        "error": str(engine.embedding.error) if engine.embedding.error else None,
        "dim": engine.embedding.dim,
        "embedded_texts": counters.get("embedded_texts", 0),
        "next": await _next_model(engine),
        "accelerator": model.state if isinstance(model := engine.embedding.model, DocumentEncoder) else None,
        "unseen_tokens": engine.embedding.model.unseen_tokens if engine.embedding.model else 0,
        "vectors_from_cache": counters.get("chunk_vectors_cached", 0),
        "vectors_hit_rate": _share(counters.get("chunk_vectors_cached", 0), counters.get("chunk_vectors_missed", 0)),
    }


def _share(part: int, rest: int) -> float:
    return round(part / (part + rest), 4) if part else 0.0


async def _next_model(engine: Engine) -> dict[str, Any] | None:
    if engine.semantics.change is None:
        return None
    return {
        "model": engine.semantics.change.embedding.name,
        "pending": await engine.store.read(lambda db: outbox.waiting(db, "vectors_next")),
    }


def _compression(engine: Engine) -> dict[str, Any]:
    counters = engine.metrics.counters()
    before, after = counters.get("compressed_tokens_in", 0), counters.get("compressed_tokens_out", 0)
    return {"tokens_in": before, "tokens_out": after, "saved": round(1 - after / before, 4) if before else 0.0}


def _advice(figures: dict[str, Any], engine: Engine) -> list[str]:
    advice = [f"{part.capitalize()} waits or has failed: {problem}" for part, problem in _problems(engine)]
    if figures["embedding"]["error"]:
        advice.append("Search is by words alone: set embedding.model to a sentence-transformers model that can be loaded.")
    if figures["embedding"]["unseen_tokens"]:
        advice.append("Some texts were longer than the model sees, and were embedded without their ends: lower index.chunk_tokens.")
    if figures["index"]["set_aside"] or figures["index"]["out_of_use"]:
        advice.append("Some traces could not be indexed: run `tracebank doctor --repair`.")
    if figures["plugins"].get("broken"):
        advice.append("A tool plug-in is broken: see the section plugins, and upgrade or uninstall its package.")
    advice += _llm_advice(engine)
    if shutil.disk_usage(engine.settings.data_dir).free < LOW_DISK_BYTES:
        advice.append(f"The disk of {engine.settings.data_dir} is nearly full: free some space.")
    if not figures["store"]["traces"]:
        advice.append("No traces yet: call add_trace after a task, or import some with `tracebank import FILE`.")
    return advice


def _llm_advice(engine: Engine) -> list[str]:
    """Return what keeps a language model from being asked, or its cap from holding."""
    advice = keys_missing(engine)
    for provider in engine.settings.llm.providers:
        if provider.key_variable and not provider.usd_per_million_tokens_in + provider.usd_per_million_tokens_out:
            name = provider.name or provider.model
            advice.append(f"Language model {name} has no prices: llm.daily_usd cannot hold; set usd_per_million_tokens_in and _out.")
    return advice


def keys_missing(engine: Engine) -> list[str]:
    """Return which language models cannot be asked, because their key is not in the engine's environment."""
    return [
        f"Language model {provider.name or provider.model} has no key: set {provider.key_variable} in the client's environment "
        "and `tracebank stop`."
        for provider in engine.settings.llm.providers
        if provider.key_variable and not os.environ.get(provider.key_variable)
    ]


def memory_bytes() -> int:
    """Return the resident memory of this process (its peak where the system does not tell the present)."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        if sys.platform == "win32":
            return 0
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


async def examine(engine: Engine) -> list[tuple[str, bool, str]]:
    """Return (what, whether it is well, what was found) for `doctor`. Waits for the model and the indexes first."""

    def integrity(db: sqlite3.Connection) -> str:
        return str(db.execute("PRAGMA integrity_check(1)").fetchone()[0])

    found = [("store", (result := await engine.store.read(integrity)) == "ok", result)]
    found.append(_model(engine))
    found += [(part, False, problem) for part, problem in _problems(engine) if part != MODEL_CHANGE]
    figures = await _index(engine)
    set_aside = figures["set_aside"]
    found.append(
        ("set aside", not set_aside, f"{len(set_aside)} traces" + "".join(f"; {s['trace_id']}: {s['error']}" for s in set_aside[:3]))
    )
    found += [(f"index of {sink}", False, f"does not go on: {reason}") for sink, reason in sorted(engine.indexer.stalled.items())]
    for name, space in sorted(engine.spaces.items()):
        found += [await _compared(engine, sink, name, space) for sink in outbox.SINKS]
    usage = shutil.disk_usage(engine.settings.data_dir)
    found.append(("disk", usage.free >= LOW_DISK_BYTES, f"{usage.free / 2**30:.1f} GiB free"))
    return found


def _model(engine: Engine) -> tuple[str, bool, str]:
    if not engine.embedding.ready:
        return "model", False, str(engine.embedding.error or "still loading")
    if problem := engine.problems.get(MODEL_CHANGE):
        return "model", False, f"{problem}; {engine.embedding.name} answers"
    return (
        "model",
        True,
        engine.embedding.name + (f"; {engine.semantics.change.embedding.name} is being prepared" if engine.semantics.change else ""),
    )


def _problems(engine: Engine) -> list[tuple[str, str]]:
    """Return (part, problem) of what goes wrong in the background, but for a model that cannot be loaded: that is told of the model."""
    return [(part, problem) for part, problem in sorted(engine.problems.items()) if problem != str(engine.embedding.error)]


async def _compared(engine: Engine, sink: outbox.Sink, name: str, space: int) -> tuple[str, bool, str]:
    """Compare an index with the store. The two are counted one after the other: only what nobody is about to write is missing."""
    what, index = f"index of {sink}, {name}", engine.words if sink == "words" else engine.vectors
    stored = partial(_stored, space=space, sink=sink)
    after = await engine.store.read(stored)
    for _ in range(MAX_COMPARISONS):
        try:
            count = await to_thread.run_sync(index.count, space) if index is not None else 0
        except IndexFaultError as error:
            return what, False, str(error)
        before, after = after, await engine.store.read(stored)
        _, expected, pending = after
        found = f"{count} of {expected} {'chunks' if sink == 'words' else 'texts'}"
        served = sink == "words" or sink in engine.indexer.meanings
        at_rest = not served or sink in engine.indexer.stalled or sink in engine.indexer.faults or (before == after and not pending)
        if count == expected or at_rest:
            return what, count == expected, found
        await engine.indexer.wait((sink,), up_to=None, timeout_s=CATCHING_UP_S)
    return what, True, f"{found}, and busy: ask again when less is written"


def _stored(db: sqlite3.Connection, space: int, sink: outbox.Sink) -> tuple[int, int, int]:
    """Return a namespace's version, how many chunks (for vectors: distinct texts) it has, and how many entries of the sink are due."""
    counted = "c.text_hash" if sink == "words" else "DISTINCT c.text_hash"
    sql = f"""
        SELECT (SELECT coalesce(max(version), 0) FROM versions WHERE namespace_id = :space),
               (SELECT count({counted}) FROM chunks c JOIN traces t ON t.id = c.trace WHERE t.namespace_id = :space),
               (SELECT count(*) FROM outbox WHERE sink = :sink AND namespace_id = :space AND error IS NULL)
    """
    version, expected, pending = db.execute(sql, {"space": space, "sink": sink}).fetchone()
    return version, expected, pending
