"""Questions on the processor, and many documents on an accelerator.

A question alone takes an H100 two to four times as long as its processor, and behind an import's batch ten times as long again;
torch with CUDA takes seconds to come, and 1.8 GB. So the export answers, as everywhere, and where documents come without a
pause an accelerator is fetched, which goes again when they have been embedded.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import numpy as np

from tracebank.embedding.accelerator import NONE_SEEN, Accelerator, AcceleratorGone
from tracebank.embedding.base import Vectors, WrappedModel
from tracebank.embedding.batches import estimated_tokens
from tracebank.embedding.exported import PROBE
from tracebank.embedding.matryoshka import beginnings
from tracebank.embedding.sentence import ACCELERATOR_BATCH_TOKENS
from tracebank.embedding.token_vectors import TokenVectors, TokenwiseEmbedding, agreement
from tracebank.errors import EmbeddingError

log = logging.getLogger(__name__)

# So many documents in so short a time are an import: a processor computes as many while the accelerator comes.
RUSH_TEXTS = 1_000
RUSH_S = 60.0
# Fewer at a time are no reason to keep it.
WORTH_TEXTS = 8
# With what the processor says of a known text: int8 and half precision agree at .98 and more, in vectors and in tokens.
LEAST_COSINE = 0.95

Read = tuple[Vectors, list[TokenVectors]]


class AcceleratedModel(WrappedModel):
    """A model on the processor, with an accelerator for documents. What fails there is computed here."""

    def __init__(self, model: TokenwiseEmbedding, begin: Callable[[], Accelerator], clock: Callable[[], float] = time.monotonic) -> None:
        """Take the model, and how to begin an accelerator of the same one."""
        super().__init__(model)
        self._tokens, self._begin, self._clock = model, begin, clock
        self.accelerator: Accelerator | None = None
        self._trusted = False
        self._closed = False
        # Why it is not used any more.
        self.fault = ""
        self._rush_texts, self._rush_began = 0, clock()
        self._unseen_there = 0

    @property
    def unseen_tokens(self) -> int:
        """Return how many tokens were beyond what it can see, here and there."""
        return self._model.unseen_tokens + self._unseen_there

    @property
    def state(self) -> str:
        """Return how it stands with the accelerator: away, coming, there, or why it is not used any more."""
        if self.fault:
            return f"not used: {self.fault}"
        there = self.accelerator  # once: another thread may let go of it
        if there is None or there.ended.is_set():
            return "away"
        return "there" if there.ready else "coming"

    def encode_tokens(self, texts: Sequence[str]) -> Read:
        """Return vectors and tokens of questions. Raises: EmbeddingError."""
        return self._tokens.encode_tokens(texts)

    @property
    def documents_batch_tokens(self) -> int:
        """Return how many tokens of documents are computed at a time at the best."""
        there = self.accelerator
        return ACCELERATOR_BATCH_TOKENS if there is not None and there.ready else self._model.batch_tokens

    def encode_documents(self, texts: Sequence[str]) -> Read:
        """Return vectors and tokens of documents. One thread at a time. Raises: EmbeddingError."""
        fault = ""
        try:
            if (there := self._usable(len(texts))) is not None:
                return self._there(there, texts)
        except AcceleratorGone as gone:
            self._let_go(str(gone) if gone.failed else "")
        except EmbeddingError as error:
            fault = str(error)
        if self._closed:
            raise EmbeddingError("the engine is shutting down")
        found = self._here(texts)
        if fault:  # of the accelerator: there is nothing wrong with these texts
            self._let_go(fault)
        return found

    def _usable(self, texts: int) -> Accelerator | None:
        """Return the accelerator where it is to be asked; fetch it where so many documents have come."""
        if (now := self._clock()) > self._rush_began + RUSH_S:
            self._rush_texts, self._rush_began = 0, now
        self._rush_texts += texts
        there = self.accelerator
        if there is None and self._rush_texts > RUSH_TEXTS:
            self.fetch()
        if there is None or not there.settled.is_set() or texts < WORTH_TEXTS:
            return None
        return there if self._trusts(there) else None

    def fetch(self) -> None:
        """Begin the process on the accelerator, where it has not failed."""
        if self.fault or self._closed:
            return
        try:
            self.accelerator = begun = self._begin()
        except OSError as error:
            self._let_go(str(error))
            return
        if self._closed:  # meanwhile, by another thread, which saw none
            begun.close()

    def _trusts(self, accelerator: Accelerator) -> bool:
        """Return whether it says of a known text what the processor says, once it has come."""
        if self._trusted:
            return True
        (vectors, tokens, _), (own, own_tokens) = accelerator.encode_tokens([PROBE]), self._tokens.encode_tokens([PROBE])
        there = beginnings(vectors, self.dim)
        cosine = float(there[0] @ own[0]) if there.shape == own.shape else 0.0
        words = agreement(tokens[0].codes, own_tokens[0].codes)
        self._trusted = min(cosine, words) >= LEAST_COSINE
        if not self._trusted:
            self._let_go(f"it says something else of a known text: cosine {cosine:.3f}, of its tokens {words:.3f}")
        return self._trusted

    def _there(self, accelerator: Accelerator, texts: Sequence[str]) -> Read:
        vectors, tokens, unseen = accelerator.encode_tokens(texts)
        self._unseen_there += unseen
        return beginnings(vectors, self.dim), tokens

    def _here(self, texts: Sequence[str]) -> Read:
        if max(map(estimated_tokens, texts)) * len(texts) <= self._model.batch_tokens:
            return self._tokens.encode_tokens(texts)
        # A batch for an accelerator would take too much memory; one text after the other is as fast.
        parts = [self._tokens.encode_tokens([text]) for text in texts]
        return np.concatenate([vectors for vectors, _ in parts]), [own for _, tokens in parts for own in tokens]

    def _let_go(self, fault: str) -> None:
        there, self.accelerator, self._trusted = self.accelerator, None, False
        if there is not None:
            there.close()
        if fault and not self._closed:
            self.fault = fault
            # A driver without a device that torch can use is nothing wrong.
            log.log(logging.INFO if fault == NONE_SEEN else logging.WARNING, "no accelerator is used: %s", fault)

    def close(self) -> None:
        """End the process on the accelerator; who waits for it hears an EmbeddingError."""
        self._closed = True
        if (there := self.accelerator) is not None:
            there.close()
