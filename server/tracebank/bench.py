"""`tracebank bench embedding`: what the model does on this machine, each engine in a process of its own.

python -m tracebank.bench ENGINE full|quick|prepare     one engine (torch, fp32, int8, cuda, mps, auto), as a line of JSON
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tracebank.errors import EngineError, TracebankError
from tracebank.metrics import Metrics, percentile

# On the processor. Where torch sees an accelerator, all on it comes next, and then what the engine does: questions here, documents there.
ENGINES = ("torch", "fp32", "int8")
AUTO = "auto"
WORDS = (12, 60, 150)
BATCH = 32
CALLERS = 32
# Of ordinary English and of what agents write about; drawn at random, so that no text comes twice.
VOCABULARY = (
    "the a of to and in was it that for on with as at by we from this which not are be have had but when then after before while because "
    "build failed cache lock file worker queue request timeout retry server client index vector model batch memory test flaky deploy "
    "branch merge commit database connection transaction migration schema column query user token budget prompt agent lesson trace "
    "episode result error message stack log line path version upgrade package install configuration setting variable environment"
).split()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How many texts are measured: one at a time, in batches, and from many callers at once."""

    single: int = 60
    batched: int = 192
    concurrent: tuple[int, ...] = (100, 500, 1_000)
    many: int = 512


SIZES = {"full": Sizes(), "quick": Sizes(single=5, batched=16, concurrent=(32,), many=32), "prepare": None}


def texts_of(words: int, count: int, chance: random.Random) -> list[str]:
    """Return made-up texts of so many words."""
    return [" ".join(chance.choices(VOCABULARY, k=words)) for _ in range(count)]


def compare(sizes: str, progress: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure every engine, one after the other. Raises: EngineError where one cannot be measured."""
    progress("export")
    accelerator = json.loads(_in_child("fp32", "prepare"))["accelerator"]
    rows = []
    for engine in (*ENGINES, *((accelerator, AUTO) if accelerator else ())):
        progress(engine)
        rows.append(json.loads(_in_child(engine, sizes)))
    return rows


def _in_child(engine: str, sizes: str) -> str:
    command = [sys.executable, "-P", "-m", "tracebank.bench", engine, sizes]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)  # noqa: S603 - our own module
    if done.returncode:
        raise EngineError(f"{engine} cannot be measured: {(done.stderr.strip().splitlines() or ['it ended'])[-1]}")
    return done.stdout


async def measure(engine: str, sizes: Sizes | None) -> dict[str, Any]:
    """Load one engine with the model of the settings, and measure it; without sizes only export it, and tell of an accelerator.

    Raises: ModelLoadError, SettingsError.
    """
    from tracebank import memory
    from tracebank.embedding import EmbeddingService, load_model
    from tracebank.embedding.accelerated import AcceleratedModel
    from tracebank.embedding.accelerator import accelerator_possible
    from tracebank.embedding.sentence import seen_accelerator
    from tracebank.settings import load_settings

    memory.share_one_arena()
    settings = load_settings()
    model_settings = settings.embedding.model_copy(update=_wanted(engine))
    started = time.perf_counter()
    model = load_model(model_settings, settings.models_dir)
    load_s, loaded_mb = time.perf_counter() - started, _peak_mb()
    if sizes is None:
        return {"accelerator": seen_accelerator() if accelerator_possible() else ""}
    service = EmbeddingService(lambda: model, name="", cache_bytes=0, metrics=Metrics(), clock=time.monotonic)
    service.start()
    await service.loaded()
    if isinstance(model, AcceleratedModel):
        model.fetch()
        if model.accelerator is not None:
            await asyncio.to_thread(model.accelerator.settled.wait)
        await service.embed_chunks(texts_of(12, BATCH, random.Random(2)))  # noqa: S311 - as below
        if model.state != "there":
            raise EngineError(f"the accelerator is {model.state}")

    async def library(texts: Sequence[str]) -> Any:
        return model.encode(texts)

    # What is compared is the library as its documentation uses it, and ours as the engine does.
    embed = library if engine == "torch" else service.embed_chunks
    chance = random.Random(1)  # noqa: S311 - texts, not secrets
    row = {
        "engine": engine,
        "load_s": round(load_s, 2),
        "single": {words: _single(model.encode, texts_of(words, sizes.single, chance)) for words in WORDS},
        "batch_ms": {words: await _batched(embed, texts_of(words, sizes.batched, chance)) for words in WORDS},
        "concurrent": [await _concurrent(service, count, chance) for count in sizes.concurrent],
        "many": {"texts": sizes.many, "ms": await _many(embed, sizes.many, chance)},
        "beside_import": await _beside_import(service, sizes.single, chance),
        "peak_mb": {"loaded": loaded_mb, "after": _peak_mb()},
    }
    await service.close()
    return row


def _wanted(engine: str) -> dict[str, str]:
    """Return the settings of `[embedding]` that give this engine."""
    if engine == AUTO:
        return {"engine": "auto", "device": "auto", "precision": "auto"}
    if engine not in ENGINES:
        return {"engine": "torch", "device": engine}
    return {"device": "cpu", **({"engine": "torch"} if engine == "torch" else {"engine": "onnx", "precision": engine})}


Encode = Callable[[Sequence[str]], Any]


def _single(encode: Encode, texts: Sequence[str]) -> dict[str, float]:
    encode(texts[:1])
    return _spread(_timed(lambda text=text: encode([text])) for text in texts)  # type: ignore[misc]


async def _batched(embed: Callable[[Sequence[str]], Awaitable[Any]], texts: Sequence[str]) -> float:
    """Return milliseconds a text in batches of 32."""
    await embed(texts[:BATCH])
    started = time.perf_counter()
    for i in range(0, len(texts), BATCH):
        await embed(texts[i : i + BATCH])
    return round((time.perf_counter() - started) * 1e3 / len(texts), 2)


async def _many(embed: Callable[[Sequence[str]], Awaitable[Any]], count: int, chance: random.Random) -> float:
    """Return milliseconds a text of 80 words, the length of a chunk, in one call."""
    texts = texts_of(80, count, chance)
    started = time.perf_counter()
    await embed(texts)
    return round((time.perf_counter() - started) * 1e3 / count, 2)


async def _concurrent(service: Any, count: int, chance: random.Random) -> dict[str, float]:
    """Return milliseconds a text of 12 words, in one call and from 32 callers that each bring one at a time."""
    one_call, apart = texts_of(12, count, chance), iter(texts_of(12, count, chance))
    started = time.perf_counter()
    await service.embed_chunks(one_call)
    together_ms = (time.perf_counter() - started) * 1e3 / count

    async def caller() -> None:
        for text in apart:
            await service.embed_chunks([text])

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    apart_ms = (time.perf_counter() - started) * 1e3 / count
    return {"texts": count, "one_call_ms": round(together_ms, 2), "callers_ms": round(apart_ms, 2)}


async def _beside_import(service: Any, count: int, chance: random.Random) -> dict[str, Any]:
    """Return the spread of a question alone, and while chunks of 80 words are being embedded."""

    async def questions() -> dict[str, float]:
        taken = []
        for text in texts_of(12, count, chance):
            started = time.perf_counter()
            await service.embed_questions([text])
            taken.append((time.perf_counter() - started) * 1e3)
        return _spread(taken)

    async def chunks() -> None:
        while True:
            await service.embed_chunks(texts_of(80, 64, chance))

    idle = await questions()
    importing = asyncio.create_task(chunks())
    busy = await questions()
    importing.cancel()
    await asyncio.gather(importing, return_exceptions=True)
    return {"idle": idle, "busy": busy}


def _timed(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return (time.perf_counter() - started) * 1e3


def _spread(values_ms: Any) -> dict[str, float]:
    ordered = sorted(values_ms)
    return {"p50_ms": round(percentile(ordered, 0.5), 2), "p95_ms": round(percentile(ordered, 0.95), 2)}


def _peak_mb() -> int:
    """Return the most memory that this process has had; 0 where the system does not tell."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3))


def main(arguments: Sequence[str]) -> int:
    """Measure one engine; everything but the line of JSON goes to standard error."""
    engine, sizes = arguments
    answer = os.dup(1)
    os.dup2(2, 1)
    try:
        row = asyncio.run(measure(engine, SIZES[sizes]))
    except TracebankError as error:
        print(error, file=sys.stderr)
        return 1
    os.write(answer, json.dumps(row).encode() + b"\n")
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    # Threads of the libraries need not be waited for.
    sys.stderr.flush()
    os._exit(code)
