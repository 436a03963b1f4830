"""A model that was exported to ONNX: the files of one directory, and what has to be known to use them."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tracebank.embedding.sentence import identity

TRACED = "traced"
# A text whose vectors tell whether a model still does what it did.
PROBE = "The build failed because the lock file was stale; deleting it and installing again solved it."
ABOUT_NAME = "export.json"
TOKENIZER_NAME = "tokenizer.json"
UNUSED_S = 30 * 86_400
# 1: pooling and normalisation inside the graph. 2: all prompts of the model. 3: tokens. 4: their directions' signs are settled.
FORMAT = 4
PACKAGES = ("onnx", "onnxruntime", "sentence-transformers", "torch")
# Those that decide how int8 is computed, hence how it has to be quantised.
CPU_FLAGS = ("asimddp", "avx2", "avx512_vnni", "avx512f", "avx_vnni", "i8mm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Everything that an export depends on; another origin is another directory."""

    model: str
    versions: tuple[str, ...]
    cpu: tuple[str, ...]
    format: int = FORMAT

    @property
    def model_name(self) -> str:
        """The name of the model, as files can have it."""
        return re.sub(r"[^A-Za-z0-9.@_-]+", "_", self.model)[:80]

    @property
    def directory_name(self) -> str:
        """A name for people, and a digest for the rest."""
        digest = hashlib.blake2b(json.dumps(asdict(self)).encode(), digest_size=6).hexdigest()
        return f"{self.model_name}-{digest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What `export.json` says. Where `refused` has a reason there are no other files.

    `cosine` holds the mean agreement with sentence-transformers of each precision that was made and passed its check, and `probe`
    a text with the vector that each of them gave: who loads the files can tell whether they still do the same. `made` says how
    it was exported: filled, or traced with torch, and why, if there is a skeleton for it.
    """

    refused: str
    max_seq_length: int | None
    dim: int
    pooling: str
    prompts: dict[str, str]
    default_prompt_name: str | None
    pad_id: int
    pad_token: str
    cosine: dict[str, float]
    probe_text: str
    probe: dict[str, list[float]]
    made: str = TRACED

    def serves(self, precision: str) -> bool:
        """Whether it has what is wanted: auto, int8 or fp32. A model that was refused will be so again."""
        return bool(self.refused) or precision != "fp32" or precision in self.cosine


def file_name(precision: str) -> str:
    """Return the name of the graph in a precision, fp32 or int8."""
    return f"{precision}.onnx"


def origin_of(model: str, revision: str = "") -> Origin:
    """Return what an export of this model, made here and now, depends on. Imports nothing heavy."""
    return Origin(
        model=identity(model, revision),
        versions=tuple(f"{package} {_version(package)}" for package in PACKAGES),
        cpu=(platform.machine(), *_cpu_flags()),
    )


def write_about(directory: Path, origin: Origin, export: Export) -> None:
    """Write `export.json`."""
    about = {"origin": asdict(origin), "export": asdict(export)}
    (directory / ABOUT_NAME).write_text(json.dumps(about, indent=1), encoding="utf-8")


def read_about(directory: Path, origin: Origin) -> Export | None:
    """Return what a directory says of itself; None where there is none of this origin, or it cannot be read."""
    try:
        about = json.loads((directory / ABOUT_NAME).read_text(encoding="utf-8"))
        return Export(**about["export"]) if about["origin"] == json.loads(json.dumps(asdict(origin))) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def mark_used(directory: Path) -> None:
    """Write down that an export is used now."""
    with suppress(OSError):  # it may be somebody else's
        os.utime(directory / ABOUT_NAME)


def forget_unused(directory: Path, origin: Origin) -> None:
    """Delete other exports of the same model that nobody has opened for a month: of former versions of a library, mostly."""
    for about in directory.glob(f"{origin.model_name}-*/{ABOUT_NAME}"):
        other = about.parent
        # What cannot be read, or is of a model with a longer name, is not ours to judge.
        with suppress(OSError, ValueError, KeyError, TypeError):
            of = json.loads(about.read_text(encoding="utf-8"))["origin"]["model"]
            if of == origin.model and other.name != origin.directory_name and time.time() - about.stat().st_mtime > UNUSED_S:
                shutil.rmtree(other)
                other.with_name(f"{other.name}.lock").unlink(missing_ok=True)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _cpu_flags() -> tuple[str, ...]:
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return ()
    return tuple(flag for flag in CPU_FLAGS if flag in words)
