"""The process on the accelerator, seen from outside."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Sequence

import numpy as np

from tracebank.embedding.base import Vectors
from tracebank.embedding.token_vectors import TokenVectors
from tracebank.errors import EmbeddingError

REST_S = 60.0
# What ends of itself is there to be seen a moment later.
_LAST_WORDS_S = 5.0


class AcceleratorGone(Exception):
    """The process has ended; `failed` where that was not because nobody asked."""

    def __init__(self, reason: str, *, failed: bool) -> None:
        super().__init__(reason)
        self.failed = failed


class Accelerator:
    """It takes seconds to come; once it is `settled` one thread at a time may ask."""

    def __init__(self, model: str, revision: str, device: str, *, rest_s: float = REST_S) -> None:
        """Begin the process, which ends after `rest_s` seconds in which nobody asks. Raises: OSError."""
        # -P: a file of the same name where the engine was started is not what is meant.
        command = [sys.executable, "-P", "-m", "tracebank.embedding.accelerator_process", model, revision, device, str(rest_s)]
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        self._fault: str | None = None
        self.settled = threading.Event()
        self._waiting = threading.Thread(target=self._wait, name="accelerator", daemon=True)
        self._waiting.start()

    def _wait(self) -> None:
        first = json.loads(self._from.readline() or b'{"error": "it said nothing"}')
        self._fault = first.get("error")
        self.settled.set()

    def encode_tokens(self, texts: Sequence[str]) -> tuple[Vectors, list[TokenVectors], int]:
        """Return of each text what a `TokenEncoder` does, and how many tokens were beyond what the model sees.

        Raises: AcceleratorGone; EmbeddingError where it says that these texts cannot be embedded.
        """
        if self._fault is not None:
            raise self._gone()
        try:
            self._to.write(json.dumps(list(texts)).encode() + b"\n")
            self._to.flush()
        except OSError as error:
            raise self._gone() from error
        about = json.loads(self._from.readline() or b"null")
        if about is None:
            raise self._gone()
        if "error" in about:
            raise EmbeddingError(about["error"])
        lengths, ends = about["tokens"], np.cumsum(about["tokens"])[:-1]
        vectors = np.frombuffer(self._read(len(texts) * about["dim"] * 4), np.float32).reshape(len(texts), about["dim"])
        codes = np.frombuffer(self._read(sum(lengths) * about["width"]), np.uint8).reshape(-1, about["width"])
        spans = np.frombuffer(self._read(sum(lengths) * 8), np.int32).reshape(-1, 2)
        tokens = [TokenVectors(codes=own, spans=at) for own, at in zip(np.split(codes, ends), np.split(spans, ends), strict=True)]
        return vectors, tokens, about["unseen"]

    def _read(self, length: int) -> bytes:
        if len(read := self._from.read(length)) < length:
            raise self._gone()
        return read

    def _gone(self) -> AcceleratorGone:
        try:
            status = self._process.wait(_LAST_WORDS_S)
        except subprocess.TimeoutExpired:
            status = 1
        self.close()
        return AcceleratorGone(self._fault or f"it ended with status {status}", failed=status != 0)

    def close(self) -> None:
        """End the process. Repeated calls are harmless."""
        self._process.kill()
        self._process.wait()
        self._waiting.join()
        self._from.close()
        with contextlib.suppress(OSError):  # of what it did not read any more
            self._to.close()
