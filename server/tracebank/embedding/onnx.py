"""An exported model on ONNX Runtime. Neither torch nor transformers is imported: 500 MB and 6 s less."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Encoding, Tokenizer

from tracebank import memory
from tracebank.embedding.base import CPU_BATCH_TOKENS, Prompts, Vectors
from tracebank.embedding.exported import TOKENIZER_NAME, Export, file_name
from tracebank.embedding.token_vectors import TokenVectors, tokens_of, unseen_in
from tracebank.embedding.vocabulary import read_tokenizer
from tracebank.errors import EmbeddingError, ModelLoadError

# A batch of a small model is too little work to be shared by more.
MAX_THREADS = 4
# The same files on the same processor give the same vector; int8 kernels of another one round differently.
PROBE_COSINE = 0.999


def intra_op_threads() -> int:
    """Return how many threads compute one batch: the cores this process may use, at most MAX_THREADS."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MAX_THREADS, cores))


class OnnxModel:
    """An `EmbeddingModel` on ONNX Runtime; pooling and normalisation are part of the graph."""

    batch_tokens = CPU_BATCH_TOKENS
    # A session and a tokenizer may be used from several threads: a question need not wait for an import's batch.
    concurrency = 2

    def __init__(
        self, session: onnxruntime.InferenceSession, tokenizer: Tokenizer, *, name: str, dim: int, precision: str, prompts: Prompts
    ) -> None:
        self.name, self.dim, self.precision, self.prompts = name, dim, precision, prompts
        self.unseen_tokens = 0
        self._counting = threading.Lock()
        self._session, self._tokenizer = session, tokenizer
        self._inputs = [node.name for node in session.get_inputs()]

    @classmethod
    def load(cls, directory: Path, export: Export, *, name: str, precision: str, prompts: Prompts) -> OnnxModel:
        """Load an export. Raises: ModelLoadError, also where it no longer does what it did when it was made."""
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            model = cls(
                onnxruntime.InferenceSession(directory / file_name(precision), _options(), providers=["CPUExecutionProvider"]),
                _tokenizer(directory / TOKENIZER_NAME, export),
                name=name, dim=export.dim, precision=precision, prompts=prompts,
            )  # fmt: skip
            if precision in export.probe:
                model.check(export.probe_text, np.asarray(export.probe[precision], np.float32))
        except Exception as error:  # ONNX Runtime and tokenizers raise a kind for each of their faults
            raise ModelLoadError(f"the exported model in {directory} cannot be used: {error}") from error
        memory.give_back()  # reading the files took as much again
        return model

    def check(self, text: str, expected: Vectors) -> None:
        """Compare with a known vector. Raises: EmbeddingError."""
        vector = self.encode([text])[0]
        cosine = float(vector @ expected) if vector.shape == expected.shape else 0.0
        if not cosine >= PROBE_COSINE:
            raise EmbeddingError(f"its vector of a known text has cosine {cosine:.4f} with the one it should be")

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return unit vectors of the texts."""
        if not texts:
            return np.empty((0, self.dim), np.float32)
        vectors: Vectors = self._run(["sentence_embedding"], self._encodings(texts))[0]
        return vectors

    def encode_tokens(self, texts: Sequence[str]) -> tuple[Vectors, list[TokenVectors]]:
        """Return the unit vectors of the texts, and of each text those of its tokens, without special ones."""
        if not texts:
            return np.empty((0, self.dim), np.float32), []
        encodings = self._encodings(texts)
        vectors, tokens = self._run(["sentence_embedding", "token_embeddings"], encodings)
        return vectors, [tokens_of(encoding, states) for encoding, states in zip(encodings, tokens, strict=True)]

    def _encodings(self, texts: Sequence[str]) -> list[Encoding]:
        try:
            return self._tokenizer.encode_batch(list(texts))
        except Exception as error:  # of half a surrogate, say; tokenizers raises a TypeError
            raise EmbeddingError(f"{len(texts)} texts could not be embedded: {error}") from error

    def _run(self, outputs: Sequence[str], encodings: Sequence[Encoding]) -> list[Any]:
        try:
            found: list[Any] = self._session.run(outputs, self._feed(encodings))
        except Exception as error:  # as above
            raise EmbeddingError(f"{len(encodings)} texts could not be embedded: {error}") from error
        return found

    def _feed(self, encodings: Sequence[Encoding]) -> dict[str, np.ndarray[tuple[int, int], np.dtype[np.int64]]]:
        with self._counting:
            self.unseen_tokens += unseen_in(encodings)
        rows = {
            "input_ids": lambda: [encoding.ids for encoding in encodings],
            "attention_mask": lambda: [encoding.attention_mask for encoding in encodings],
            "token_type_ids": lambda: [encoding.type_ids for encoding in encodings],
        }
        return {name: np.array(rows[name](), np.int64) for name in self._inputs}


def _tokenizer(file: Path, export: Export) -> Tokenizer:
    tokenizer = read_tokenizer(file)
    if export.max_seq_length is not None:
        tokenizer.enable_truncation(export.max_seq_length)
    tokenizer.enable_padding(pad_id=export.pad_id, pad_token=export.pad_token)
    return tokenizer


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = intra_op_threads()
    options.inter_op_num_threads = 1
    # Batches have ever different shapes: a pattern and an arena would each keep the largest of every buffer.
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 4
    return options
