"""A model on torch that also tells of each token, as exported ones do: on an accelerator search compares words, too."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tracebank.embedding.base import Vectors
from tracebank.embedding.sentence import SentenceTransformerModel
from tracebank.embedding.token_vectors import TokenVectors, tokens_of, unseen_in
from tracebank.errors import EmbeddingError

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

# Of the same texts, one of them padded, read by the library itself.
SAMPLES = ("Why did the build fail?", "The lock file was stale; deleting it and installing again solved it.")
LEAST_COSINE = 0.999


def with_tokens(model: SentenceTransformerModel) -> SentenceTransformerModel:
    """Return the model with what it says of each token; itself where it does not, or would then say something else of the text.

    On an accelerator it computes in half precision from then on.
    """
    projection = _projection(model)
    if model.accelerated:
        model.transformer.half()
    if projection is None:
        return model
    tokenwise = TokenwiseModel(model, projection)
    try:
        cosines = np.sum(tokenwise.encode_tokens(SAMPLES)[0] * model.encode(SAMPLES), axis=1)
    except EmbeddingError as error:  # a tokenizer does not tell where a token stands, say
        log.info("%s does not tell of tokens: %s", model.name, error)
        return model
    if not cosines.min() >= LEAST_COSINE:
        log.info("%s reads texts in a way of its own: cosine %.4f", model.name, cosines.min())
        return model
    return tokenwise


def _projection(model: SentenceTransformerModel) -> torch.Tensor | None:
    from tracebank.embedding.token_projection import projection_of

    if model.accelerated:
        # In half precision it would find other directions than the export: some are nearly as large one way as the other.
        model.transformer.float()
    try:
        return projection_of(model.transformer[0])
    except Exception as error:  # bags of words, and what is to come
        log.info("%s does not tell of tokens: %s", model.name, error)
        return None


class TokenwiseModel(SentenceTransformerModel):
    """A model and the projection of its tokens, float32 [hidden, TOKEN_DIM]."""

    def __init__(self, model: SentenceTransformerModel, projection: torch.Tensor) -> None:
        super().__init__(model.transformer, model.name, model.prompts)
        self._projection = projection

    def encode_tokens(self, texts: Sequence[str]) -> tuple[Vectors, list[TokenVectors]]:
        """Return the unit vectors of the texts, and of each text those of its tokens, without special ones. Raises: EmbeddingError."""
        import torch

        if not texts:
            return np.empty((0, self.dim), np.float32), []
        try:
            read = cast(Any, self.transformer[0]).tokenizer(
                list(texts), padding=True, truncation="longest_first", max_length=self.transformer.max_seq_length, return_tensors="pt"
            )
            with torch.inference_mode():
                told = self.transformer(dict(read.to(self.transformer.device)))
                vectors = torch.nn.functional.normalize(told["sentence_embedding"][:, : self.dim].float(), dim=1).cpu().numpy()
                states = (told["token_embeddings"].float() @ self._projection).cpu().numpy()
            tokens = [tokens_of(encoding, own) for encoding, own in zip(read.encodings, states, strict=True)]
        except Exception as error:  # a model can fail in as many ways as there are models
            raise EmbeddingError(f"{len(texts)} texts could not be embedded: {error}") from error
        self.unseen_tokens += unseen_in(read.encodings)
        return vectors, tokens
