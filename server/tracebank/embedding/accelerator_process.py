"""The model on an accelerator, in a process of its own, which gives all its memory back when nobody has asked for a while.

    python -m tracebank.embedding.accelerator_process MODEL REVISION DEVICE REST_S

Texts come as a line of JSON; what it says of them goes back as a line of JSON and, as bytes, vectors (float32 [texts, dim]), codes
(uint8 [tokens of all, width]) and spans (int32 [tokens of all, 2]). Its first line says that it is ready, {}, or why it will
not be. It ends after REST_S seconds in which nobody asks, and when its standard input does. DEVICE auto: what torch sees.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue

import numpy as np

from tracebank.embedding.accelerator import NONE_SEEN
from tracebank.embedding.sentence import SentenceTransformerModel, seen_accelerator
from tracebank.embedding.threads import DOCUMENTS_NICE
from tracebank.embedding.tokenwise import TokenwiseModel, with_tokens
from tracebank.errors import EmbeddingError, ModelLoadError


def _load(model: str, revision: str, device: str) -> TokenwiseModel:
    if device == "auto" and not (device := _seen()):
        raise ModelLoadError(NONE_SEEN)
    loaded = with_tokens(SentenceTransformerModel.load(model, revision=revision, device=device))
    if not isinstance(loaded, TokenwiseModel):
        raise ModelLoadError(f"on {device} the model does not tell of tokens")
    return loaded


def _seen() -> str:
    try:
        return seen_accelerator()
    except Exception as error:  # torch is not whole, or its driver is not: each library has a kind of its own for that
        raise ModelLoadError(f"torch cannot be used: {error}") from error


def _read(lines: SimpleQueue[bytes]) -> None:
    """Take in what is asked; whoever asked has gone when there is no more, also while the model is loaded."""
    for line in sys.stdin.buffer:
        lines.put(line)
    os._exit(0)


def _answer(model: TokenwiseModel, texts: Sequence[str]) -> bytes:
    before = model.unseen_tokens
    try:
        vectors, tokens = model.encode_tokens(texts)
    except EmbeddingError as error:
        return _line({"error": str(error)})
    about = {
        "dim": vectors.shape[1], "width": tokens[0].codes.shape[1], "tokens": [len(own.codes) for own in tokens],
        "unseen": model.unseen_tokens - before,
    }  # fmt: skip
    codes, spans = np.concatenate([own.codes for own in tokens]), np.concatenate([own.spans for own in tokens])
    return _line(about) + vectors.tobytes() + codes.tobytes() + spans.tobytes()


def _line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


def main(arguments: Sequence[str]) -> int:
    """Serve until nobody asks any more; everything else that prints goes to standard error."""
    model, revision, device, rest_s = arguments
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    if sys.platform == "linux":  # elsewhere it has no thread's priority
        # As the thread that computes documents: questions are answered on the processor meanwhile.
        os.setpriority(os.PRIO_PROCESS, 0, max(DOCUMENTS_NICE, os.getpriority(os.PRIO_PROCESS, 0)))
    # Here nobody else wants the cores in the middle of a batch, and cutting into tokens takes most of its time.
    os.environ |= {"TOKENIZERS_PARALLELISM": "true", "TQDM_DISABLE": "1"}
    warnings.simplefilter("ignore")
    logging.disable()
    lines: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    try:
        loaded = _load(model, revision, device)
    except ModelLoadError as error:
        answers.write(_line({"error": str(error)}))
        answers.flush()
        return 1
    answers.write(_line({}))
    answers.flush()
    with suppress(Empty):  # nobody asks any more
        while True:
            answers.write(_answer(loaded, json.loads(lines.get(timeout=float(rest_s)))))
            answers.flush()
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    # Threads of the libraries need not be waited for.
    os._exit(code)
