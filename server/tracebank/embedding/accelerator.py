"""The process on the accelerator, seen from outside."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tracebank.embedding.base import Vectors
from tracebank.embedding.token_vectors import TokenVectors
from tracebank.errors import EmbeddingError

# CUDA on Linux, in WSL and on Windows; ROCm.
DRIVERS = (
    Path("/dev/nvidia0"), Path("/dev/dxg"), Path(os.environ.get("SYSTEMROOT", "/nowhere"), "System32", "nvcuda.dll"), Path("/dev/kfd"),
)  # fmt: skip
NONE_SEEN = "torch sees none"
REST_S = 60.0
# A batch takes a fraction of a second; a driver that hangs takes for ever.
ANSWER_TIMEOUT_S = 60.0
# What ends of itself is there to be seen a moment later.
_LAST_WORDS_S = 5.0


def accelerator_possible() -> bool:
    """Return whether there may be an accelerator. Only torch can tell whether there is one, and that takes seconds to import."""
    return any(driver.exists() for driver in DRIVERS) or (sys.platform == "darwin" and platform.machine() == "arm64")


class AcceleratorGone(Exception):
    """The process has ended; `failed` where that was not because nobody asked."""

    def __init__(self, reason: str, *, failed: bool) -> None:
        super().__init__(reason)
        self.failed = failed


class Accelerator:
    """It takes seconds to come; once it is `settled` one thread at a time may ask. Whoever is left with it closes it."""

    def __init__(
        self, model: str, revision: str, device: str = "auto", *, rest_s: float = REST_S, answer_timeout_s: float = ANSWER_TIMEOUT_S
    ) -> None:
        """Begin the process, which ends after `rest_s` seconds in which nobody asks. `device` auto: what torch sees. Raises: OSError."""
        # -P: a file of the same name where the engine was started is not what is meant.
        command = [sys.executable, "-P", "-m", "tracebank.embedding.accelerator_process", model, revision, device, str(rest_s)]
        # A session of its own: an interrupt at a terminal is for the engine, which ends it.
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from, self._answer_timeout_s = self._process.stdin, self._process.stdout, answer_timeout_s
        self._fault = ""
        # That it can be asked, or never will be; that it has ended.
        self.settled, self.ended = threading.Event(), threading.Event()
        self._watching = threading.Thread(target=self._watch, name="accelerator", daemon=True)
        self._watching.start()

    def _watch(self) -> None:
        try:
            first = json.loads(self._from.readline())
            self._fault = first.get("error", "")
        except (ValueError, AttributeError):
            self._fault = "it did not say that it is ready"
        self.settled.set()
        self._process.wait()
        self.ended.set()

    @property
    def ready(self) -> bool:
        """Whether it can be asked."""
        return self.settled.is_set() and not self._fault and not self.ended.is_set()

    def encode_tokens(self, texts: Sequence[str]) -> tuple[Vectors, list[TokenVectors], int]:
        """Return of each text what a `TokenEncoder` does, and how many tokens were beyond what the model sees.

        Raises: AcceleratorGone; EmbeddingError where it says that these texts cannot be embedded.
        """
        if self._fault:
            raise self._gone()
        hanging = threading.Timer(self._answer_timeout_s, self._process.kill)
        hanging.start()
        try:
            self._to.write(json.dumps(list(texts)).encode() + b"\n")
            self._to.flush()
            about = json.loads(self._from.readline())
            if "error" in about:
                raise EmbeddingError(about["error"])
            return (*self._read(len(texts), about), about["unseen"])
        except (OSError, ValueError) as error:  # it has ended, or was closed meanwhile
            raise self._gone() from error
        finally:
            hanging.cancel()

    def _read(self, texts: int, about: dict[str, Any]) -> tuple[Vectors, list[TokenVectors]]:
        lengths, ends = about["tokens"], np.cumsum(about["tokens"])[:-1]
        # What is cut short has another shape: a ValueError.
        vectors = np.frombuffer(self._from.read(texts * about["dim"] * 4), np.float32).reshape(texts, about["dim"])
        codes = np.frombuffer(self._from.read(sum(lengths) * about["width"]), np.uint8).reshape(sum(lengths), about["width"])
        spans = np.frombuffer(self._from.read(sum(lengths) * 8), np.int32).reshape(sum(lengths), 2)
        return vectors, [TokenVectors(codes=own, spans=at) for own, at in zip(np.split(codes, ends), np.split(spans, ends), strict=True)]

    def _gone(self) -> AcceleratorGone:
        if not self.ended.wait(_LAST_WORDS_S):
            self._process.kill()
            self.ended.wait(_LAST_WORDS_S)
        status = self._process.returncode  # None where it hangs in its driver and cannot even be killed
        return AcceleratorGone(self._fault or f"it ended with status {status}", failed=status != 0)

    def close(self) -> None:
        """End the process; whoever is asking it hears that it is gone. Repeated calls are harmless."""
        self._process.kill()
        self._watching.join(_LAST_WORDS_S)
        if self._watching.is_alive():
            return  # it hangs in its driver, and whoever reads its pipe would wait with it
        with contextlib.suppress(OSError):  # of what it did not read any more
            self._to.close()
        self._from.close()
