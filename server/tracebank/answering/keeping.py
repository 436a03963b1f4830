"""What survives a restart: answers, what was asked how often, and the vectors of questions, in files of their own.

Written in idle time and at the end, read at the start. Kept answers say which versions of their namespaces they are of,
and the store knows the present ones: after a kill a file may lack answers, and none in it is served that a write may
have changed since.
"""

from __future__ import annotations

import asyncio
import logging
import time
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from anyio import to_thread
from numpy.typing import NDArray

from tracebank.answering.answers import Answers, Kept
from tracebank.answering.history import History
from tracebank.answering.requests import Asked
from tracebank.answering.rows import answer_of, answer_row, asked_of, asked_row
from tracebank.caching import Snapshot
from tracebank.embedding import Embedded, EmbeddingService, TokenVectors
from tracebank.errors import DataDirError
from tracebank.idle import Idle

log = logging.getLogger(__name__)

# A file is written whole, so not after every question.
SAVE_EVERY_S = 60.0


class Keeper:
    """Owns the files, of at most `max_bytes` each; with 0 there are none. It belongs to one event loop."""

    def __init__(
        self,
        *,
        directory: Path,
        answers: Answers,
        history: History,
        embedding: Callable[[], EmbeddingService],
        idle: Idle,
        quiet_s: float,
        about: Any,
        max_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        """Take what is to be kept. `about` is everything that changes an answer and is neither in the store nor in its row."""
        self._answers, self._history, self._embedding = answers, history, embedding
        self._idle, self._quiet_s = idle, quiet_s
        self._about, self._max_bytes, self._clock = about, max_bytes, clock
        self._files = {name: Snapshot(directory / name) for name in ("answers", "asked", "vectors")}
        self._writing = asyncio.Lock()
        self._dirty = asyncio.Event()
        # What the file of vectors says is not to be taken back.
        self._outdated = False

    def touch(self) -> None:
        """There is something new to keep."""
        self._dirty.set()

    async def run(self) -> None:
        """Save in idle time, until cancelled."""
        while self._max_bytes:
            await self._dirty.wait()
            await self._idle.wait(self._quiet_s)
            await self.save()
            await asyncio.sleep(SAVE_EVERY_S)

    async def save(self) -> None:
        """Write everything down. A disk that cannot be written costs the next start its time, and nobody an error."""
        if not self._max_bytes:
            return
        async with self._writing:
            self._dirty.clear()
            embedding = self._embedding()
            answers, asked, vectors = list(self._answers.current()), self._history.rows(), list(embedding.cache)[::-1]
            age_s = time.monotonic() - self._clock()

            def write() -> None:
                rows = (_kept_row(asked, kept, kept_at - age_s) for asked, kept, kept_at in answers)
                self._write("answers", self._about, rows)
                self._write("asked", self._about, asked)
                self._write("vectors", [self._about, embedding.name], (_vector_row(text, vector) for text, vector, _ in vectors))

            await to_thread.run_sync(write)

    def _write(self, name: str, about: Any, rows: Any) -> None:
        try:
            self._files[name].write(about, rows, max_bytes=self._max_bytes)
        except OSError as error:
            log.warning("the cache of %s cannot be written: %s", name, error)

    async def restore(self) -> None:
        """Take back what was written down by an engine of the same version, settings and model."""
        if not self._max_bytes:
            await self._delete()
            return
        embedding = self._embedding()

        def read() -> tuple[list[tuple[Asked, Kept, float]], list[Any], list[tuple[str, Embedded]]]:
            answers = _decoded(self._files["answers"].read(self._about), _kept_of)
            vectors = _decoded(self._files["vectors"].read([self._about, embedding.name]), _vector_of)
            return answers, self._files["asked"].read(self._about), vectors

        answers, asked, vectors = await to_thread.run_sync(read)
        age_s = time.monotonic() - self._clock()
        self._answers.restore((asked, kept, kept_at + age_s) for asked, kept, kept_at in reversed(answers))
        for text, vector in () if self._outdated else reversed(vectors):
            embedding.cache.put(text, vector)
        try:
            self._history.restore(asked)
        except (TypeError, ValueError, KeyError):
            log.warning("what was asked before cannot be read: it is left out")

    async def forget(self, matches: Callable[[Asked], bool]) -> int:
        """Forget these requests and their answers, and everything on disk; what is left is written again later.

        Returns how many requests were known. Raises: DataDirError where a file cannot be deleted.
        """
        self._answers.forget(matches)
        forgotten = self._history.forget(matches)
        # They do not say whose questions they are of.
        self._embedding().cache.clear()
        await self._delete()
        self._dirty.set()
        return forgotten

    async def forget_vectors(self) -> None:
        """Forget the vectors of questions, also on disk: they are of what the model said before. Raises: DataDirError."""
        self._outdated = True
        self._embedding().cache.clear()
        async with self._writing:
            await self._remove([self._files["vectors"]])

    async def _delete(self) -> None:
        async with self._writing:
            await self._remove(self._files.values())

    async def _remove(self, files: Iterable[Snapshot]) -> None:
        try:
            for file in files:
                await to_thread.run_sync(file.delete)
        except OSError as error:
            raise DataDirError(f"{error.filename} cannot be deleted: {error.strerror}; it quotes memories: delete it") from error

    def report(self) -> dict[str, int]:
        """Return the bytes of each file, for `stats`."""
        return {f"{name}_bytes": file.nbytes for name, file in self._files.items()}


def _decoded(rows: Sequence[Any], decode: Callable[[Any], Any]) -> list[Any]:
    try:
        return [decode(row) for row in rows]
    except (TypeError, ValueError, KeyError) as error:
        log.warning("a cache cannot be read: %r", error)
        return []


def _kept_row(asked: Asked, kept: Kept, kept_at: float) -> list[Any]:
    return [asked_row(asked), kept.versions, kept.model, kept.lacking, kept_at, answer_row(kept.answer)]


def _kept_of(row: Any) -> tuple[Asked, Kept, float]:
    asked, versions, model, lacking, kept_at, answer = row
    return asked_of(asked), Kept(tuple(versions), model, lacking, answer_of(answer)), float(kept_at)


def _vector_row(text: str, embedded: Embedded) -> list[Any]:
    tokens = embedded.tokens
    arrays: list[NDArray[Any]] = [embedded.vector] if tokens is None else [embedded.vector, tokens.codes, tokens.spans]
    return [text, *([array.dtype.str, array.shape, b2a_base64(array.tobytes(), newline=False).decode()] for array in arrays)]


def _vector_of(row: Any) -> tuple[str, Embedded]:
    text, *arrays = row
    vector, *tokens = (np.frombuffer(a2b_base64(raw), dtype).reshape(shape) for dtype, shape, raw in arrays)
    return text, Embedded(vector=vector, tokens=TokenVectors(codes=tokens[0], spans=tokens[1]) if tokens else None)
