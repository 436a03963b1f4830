"""Which engine runs the model: an export on ONNX Runtime where there can be one, with an accelerator beside it, else torch."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from pathlib import Path

from tracebank.embedding.accelerated import AcceleratedModel
from tracebank.embedding.accelerator import Accelerator, accelerator_possible
from tracebank.embedding.base import EmbeddingModel
from tracebank.embedding.exported import Export, forget_unused, mark_used, origin_of, read_about
from tracebank.embedding.matryoshka import shortened
from tracebank.embedding.prompts import choose_prompts
from tracebank.embedding.sentence import SentenceTransformerModel, identity
from tracebank.embedding.token_vectors import TokenEncoder
from tracebank.embedding.tokenwise import with_tokens
from tracebank.errors import DataDirError, ModelLoadError
from tracebank.locking import FileLock
from tracebank.settings import EmbeddingSettings

log = logging.getLogger(__name__)

# A large model on a slow disk; the bundled one takes a second.
EXPORT_TIMEOUT_S = 600.0
# From a model's name and revision to the files in a directory, for a precision.
ExportTo = Callable[[str, str, Path, str], None]


def vectors_name(settings: EmbeddingSettings) -> str:
    """Return what tells this model's vectors from any other's, without loading it.

    Only who asks for full precision gets vectors of their own. Under `auto` the choice falls when the model is loaded,
    after caches and indexes were opened by this name, and it can change with the processor; int8 agrees with fp32 at
    cosine 0.99, and one index may hold both.
    """
    full = settings.precision == "fp32" or settings.engine == "torch"
    prompts = (settings.query_prompt, settings.query_prompt_name, settings.document_prompt, settings.document_prompt_name)
    return "".join((
        identity(settings.model, settings.revision),
        "+fp32" if full else "",
        f"+dim{settings.truncate_dim}" if settings.truncate_dim else "",
        f"+prompts-{blake2b(repr(prompts).encode(), digest_size=4).hexdigest()}" if any(prompts) else "",
    ))  # fmt: skip


def load_model(settings: EmbeddingSettings, directory: Path, export: ExportTo | None = None) -> EmbeddingModel:
    """Load a model from its export under `directory`, which is made first where there is none; else on torch.

    Blocks: for less than a second with an export, without for a second with the bundled model and half a minute with another.
    Raises: ModelLoadError; with engine "onnx" also where torch could have served.
    """
    # Torch would say so, too, after the seconds that it takes to import.
    if Path(settings.model).is_absolute() and not Path(settings.model).is_dir():
        raise ModelLoadError(f"the embedding model {settings.model} could not be loaded: there is no such directory")
    loaded, exported = _load_whole(settings, directory, export or export_in_child)
    model = shortened(loaded, settings.truncate_dim) if settings.truncate_dim else loaded
    # Half precision is not what asks for full precision, and `onnx` is not torch.
    helped = exported and settings.device == "auto" and settings.engine == "auto" and settings.precision != "fp32"
    if helped and isinstance(model, TokenEncoder) and accelerator_possible():
        return AcceleratedModel(model, partial(Accelerator, settings.model, settings.revision))
    return model


def _load_whole(settings: EmbeddingSettings, directory: Path, export: ExportTo) -> tuple[EmbeddingModel, bool]:
    """Return the model, and whether it is an export."""
    name = vectors_name(settings)

    def on_torch() -> EmbeddingModel:
        return with_tokens(
            SentenceTransformerModel.load(
                settings.model, revision=settings.revision, device=settings.device, name=name, choose=partial(choose_prompts, settings)
            )
        )

    if settings.engine == "torch" or (settings.engine == "auto" and settings.device not in ("auto", "cpu")):
        return on_torch(), False
    try:
        return _load_exported(settings, name, directory, export), True
    except (ModelLoadError, DataDirError, OSError, _TorchIsBetter) as error:
        if settings.engine == "onnx":
            raise ModelLoadError(f"{error} (embedding.engine = 'auto' would use torch)") from error
        loaded = on_torch()
        # Only now: a model that torch cannot load either is one fault, not two.
        log.log(logging.INFO if isinstance(error, _TorchIsBetter) else logging.WARNING, "the model runs on torch: %s", error)
        return loaded, False


class _TorchIsBetter(Exception):
    """The export says so itself."""


def _load_exported(settings: EmbeddingSettings, name: str, directory: Path, export: ExportTo) -> EmbeddingModel:
    origin = origin_of(settings.model, settings.revision)
    forget_unused(directory, origin)
    target = directory / origin.directory_name
    about = read_about(target, origin)
    useless: Export | None = None
    if about is not None and about.serves(settings.precision):
        try:
            return _open(target, about, name, settings)
        except ModelLoadError as error:
            log.warning("%s: it is exported again", error)
            useless = about
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = FileLock(target.with_name(target.name + ".lock"))
    try:
        # Several engines may share the directory: the first exports, the others wait for it, and nobody replaces it while it is opened.
        alone = lock.try_acquire()
        if not alone:
            lock.wait()
        about = read_about(target, origin)
        if about is None or not about.serves(settings.precision) or (alone and about == useless):
            # Whoever wanted full precision before will do so again.
            had_whole = useless is not None and "fp32" in useless.cosine
            export(settings.model, settings.revision, target, "fp32" if had_whole else settings.precision)
            about = read_about(target, origin)
        if about is None:
            raise ModelLoadError(f"the export of {settings.model or 'the bundled model'} left nothing usable in {target}")
        return _open(target, about, name, settings)
    finally:
        lock.close()


def _open(target: Path, about: Export, name: str, settings: EmbeddingSettings) -> EmbeddingModel:
    mark_used(target)
    if about.refused:
        raise _TorchIsBetter(about.refused)
    from tracebank.embedding.onnx import OnnxModel  # 60 MB, not needed on torch

    small = settings.precision != "fp32"
    if small and "int8" not in about.cosine:
        log.info("int8 has not passed its check: fp32 is used")
    precision = "int8" if small and "int8" in about.cosine else "fp32"
    prompts = choose_prompts(settings, about.prompts, about.default_prompt_name)
    return OnnxModel.load(target, about, name=name, precision=precision, prompts=prompts)


def export_in_child(model: str, revision: str, target: Path, precision: str) -> None:
    """Export in a process of its own, which ends when this one does. Raises: ModelLoadError."""
    # -P: a file of the same name where the engine was started is not what is meant.
    command = [sys.executable, "-P", "-m", "tracebank.embedding.export", model, revision, str(target), precision]
    watched, held = os.pipe()
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            command, stdin=watched, capture_output=True, encoding="utf-8", errors="replace", timeout=EXPORT_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ModelLoadError(f"the export took more than {EXPORT_TIMEOUT_S:.0f} s") from error
    finally:
        os.close(watched)
        os.close(held)
    if done.returncode:
        raise ModelLoadError(f"the export failed: {(done.stderr.strip().splitlines() or [f'exit status {done.returncode}'])[-1]}")
    outcome = json.loads(done.stdout)
    log.info("exported in %s s, %s: %s", outcome["seconds"], outcome["made"], outcome["refused"] or outcome["cosine"])
