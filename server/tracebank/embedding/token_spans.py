"""Where the tokens of the embedding model lie in a text, without loading the model."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from tracebank.chunking import Span, word_spans
from tracebank.embedding.exported import TOKENIZER_NAME, origin_of
from tracebank.embedding.sentence import resolve
from tracebank.settings import EmbeddingSettings

if TYPE_CHECKING:
    from tokenizers import Tokenizer

log = logging.getLogger(__name__)

# A text of 1 MiB at a time would take 200 MB for a moment.
PIECE_CHARS = 65_536
# A tokenizer that is not there is looked for again after so long: it comes when the model has been loaded. Each look takes a millisecond.
RETRY_S = 5.0


class ModelTokens:
    """A `TokenSpans` by the model's own tokenizer, loaded when it is first needed (20 ms). May be called from any thread.

    While there is none (a model of the hub that has not been loaded yet, or one without a fast tokenizer) words are
    measured instead.
    """

    def __init__(self, settings: EmbeddingSettings, directory: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the tokenizer of a model on the disk, else of its export under `directory`, else of the hub's cache."""
        self._settings, self._directory, self._clock = settings, directory, clock
        self._lock = threading.Lock()
        self._tokenizer: Tokenizer | None = None
        self._mark: bytes | None = None
        self._look_at = clock()
        self._told = ""

    def __call__(self, text: str) -> Sequence[Span]:
        """Return (start, end) in characters of each token, in order."""
        tokenizer = self._loaded()
        if tokenizer is None:
            return word_spans(text)
        spans: list[Span] = []
        for start, end in _pieces(text):
            # A batch of one, because a batch gives up the interpreter's lock.
            (encoding,) = tokenizer.encode_batch([text[start:end]], add_special_tokens=False)
            # Tokens that stand for nothing in the text, or for the bytes of one character, have no place of their own.
            spans += [(start + a, start + b) for a, b in encoding.offsets if b > a and (not spans or start + a >= spans[-1][1])]
        return spans

    @property
    def mark(self) -> bytes | None:
        """16 bytes that tell this tokenizer from another one; None while words are measured."""
        return self._mark if self._loaded() is not None else None

    def _loaded(self) -> Tokenizer | None:
        with self._lock:
            if self._tokenizer is None and self._clock() >= self._look_at:
                self._tokenizer = self._found()
                self._look_at = self._clock() + RETRY_S
            return self._tokenizer

    def _found(self) -> Tokenizer | None:
        file = self._file()
        if file is None:
            return None
        from tracebank.embedding.vocabulary import read_tokenizer

        try:
            self._mark = blake2b(file.read_bytes(), digest_size=16).digest()
            return read_tokenizer(file)
        except Exception as error:  # tokenizers raises plain exceptions
            problem = f"{file} cannot be read, chunks are measured in words: {error}"
            if problem != self._told:
                log.warning("%s", problem)
            self._told = problem
            return None

    def _file(self) -> Path | None:
        model, revision = self._settings.model, self._settings.revision
        places = [Path(resolve(model)) / TOKENIZER_NAME, self._directory / origin_of(model, revision).directory_name / TOKENIZER_NAME]
        for place in places:
            if place.is_file():
                return place
        from huggingface_hub import try_to_load_from_cache

        try:
            cached = try_to_load_from_cache(model, TOKENIZER_NAME, revision=revision or None)
        except ValueError:  # a path that is not there is no name of the hub
            return None
        return Path(cached) if isinstance(cached, str) else None


def _pieces(text: str) -> Sequence[Span]:
    """Return a text in pieces, cut before blanks where there are some."""
    pieces, start = [], 0
    while len(text) - start > PIECE_CHARS:
        blank = max(text.rfind(mark, start + PIECE_CHARS // 2, start + PIECE_CHARS) for mark in "\n ")
        end = blank if blank > 0 else start + PIECE_CHARS
        pieces.append((start, end))
        start = end
    return [*pieces, (start, len(text))]
