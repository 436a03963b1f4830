"""Questions on the processor, and many documents on an accelerator.

A question alone takes an H100 two to four times as long as its processor, and behind an import's batch ten times as long again;
torch with CUDA takes seconds to come, and 1.7 GB. So the export answers, as everywhere, and where documents come without a
pause an accelerator is fetched, which goes again when they have been embedded.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import numpy as np

from tracebank.embedding.accelerator import Accelerator, AcceleratorGone
from tracebank.embedding.base import EmbeddingModel, Vectors, WrappedModel
from tracebank.embedding.matryoshka import beginnings
from tracebank.embedding.sentence import ACCELERATOR_BATCH_TOKENS
from tracebank.embedding.token_vectors import TokenEncoder, TokenVectors

log = logging.getLogger(__name__)

# So many documents without a pause are an import: a processor computes as many while the accelerator comes.
RUSH_TEXTS = 1_000
PAUSE_S = 5.0


class AcceleratedModel(WrappedModel):
    """A model on the processor, with an accelerator for documents. What fails there is computed here."""

    def __init__(
        self, model: EmbeddingModel, tokens: TokenEncoder, begin: Callable[[], Accelerator], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take the model, twice, and how to begin an accelerator of the same model."""
        super().__init__(model)
        self._tokens, self._begin, self._clock = tokens, begin, clock
        self.accelerator: Accelerator | None = None
        self._usable = True
        self._rush_texts, self._last = 0, clock()
        self._unseen_there = 0

    @property
    def unseen_tokens(self) -> int:
        """Return how many tokens were beyond what it can see, here and there."""
        return self._model.unseen_tokens + self._unseen_there

    def encode_tokens(self, texts: Sequence[str]) -> tuple[Vectors, list[TokenVectors]]:
        """Return vectors and tokens of questions. Raises: EmbeddingError."""
        return self._tokens.encode_tokens(texts)

    @property
    def documents_batch_tokens(self) -> int:
        """Return how many tokens of documents are computed at a time at the best."""
        there = self.accelerator
        return ACCELERATOR_BATCH_TOKENS if there is not None and there.settled.is_set() else self._model.batch_tokens

    def encode_documents(self, texts: Sequence[str]) -> tuple[Vectors, list[TokenVectors]]:
        """Return vectors and tokens of documents. One thread at a time. Raises: EmbeddingError."""
        now = self._clock()
        self._rush_texts = len(texts) + (self._rush_texts if now - self._last < PAUSE_S else 0)
        if (there := self.accelerator) is None and self._usable and self._rush_texts > RUSH_TEXTS:
            self.fetch()
        found = self._there(there, texts) if there is not None and there.settled.is_set() else self._here(texts)
        self._last = self._clock()
        return found

    def fetch(self) -> None:
        """Begin the process on the accelerator."""
        try:
            self.accelerator = self._begin()
        except OSError as error:
            self._give_up(str(error))

    def _there(self, accelerator: Accelerator, texts: Sequence[str]) -> tuple[Vectors, list[TokenVectors]]:
        try:
            vectors, tokens, unseen = accelerator.encode_tokens(texts)
        except AcceleratorGone as gone:
            self.accelerator = None
            if gone.failed:
                self._give_up(str(gone))
            return self._here(texts)
        self._unseen_there += unseen
        return beginnings(vectors, self.dim), tokens

    def _here(self, texts: Sequence[str]) -> tuple[Vectors, list[TokenVectors]]:
        # A batch for an accelerator would take too much memory; here one text after the other is as fast.
        parts = [self._tokens.encode_tokens([text]) for text in texts]
        return np.concatenate([vectors for vectors, _ in parts]), [own for _, tokens in parts for own in tokens]

    def _give_up(self, reason: str) -> None:
        self._usable = False
        log.warning("the accelerator is not used any more: %s", reason)

    def close(self) -> None:
        """End the process on the accelerator."""
        if self.accelerator is not None:
            self.accelerator.close()
