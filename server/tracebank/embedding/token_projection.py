"""The few directions that token vectors are projected to, found with torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tracebank.embedding.token_vectors import TOKEN_DIM

if TYPE_CHECKING:
    import torch

# A few thousand tokens tell 64 directions; all of the vocabulary would take half a minute.
PROJECTION_WORDS = 1_000
BATCH_WORDS = 250


def inputs_of(tokenized: Mapping[str, Any]) -> list[str]:
    """Return what a transformer reads of a tokenized text, by name."""
    return [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in tokenized]


def projection_of(transformer: Any) -> torch.Tensor:
    """Return float32 [hidden, TOKEN_DIM], where the model is: the main directions of the vectors of its own words, each alone.

    `transformer` is the first module of a sentence-transformers model. Not of any text: so it is the same for everybody, and
    keeps what tells words apart. (Uncentred PCA.)
    """
    import torch

    vocabulary = sorted(transformer.tokenizer.get_vocab())
    words = [word for word in vocabulary if word.isalpha() and len(word) > 2]
    words = (words or vocabulary)[:: max(1, len(words or vocabulary) // PROJECTION_WORDS)]
    states = []
    with torch.no_grad():
        for i in range(0, len(words), BATCH_WORDS):
            batch = transformer.tokenizer(words[i : i + BATCH_WORDS], padding=True, return_tensors="pt", return_special_tokens_mask=True)
            own = batch.pop("special_tokens_mask") == 0
            batch = batch.to(transformer.auto_model.device)
            told = transformer.auto_model(**{name: batch[name] for name in inputs_of(batch)}, return_dict=True)
            states.append(told.last_hidden_state[own])
    # Not on an accelerator: MPS has no eigenvectors, and the same library everywhere finds the same.
    unit = torch.nn.functional.normalize(torch.cat(states).float().cpu(), dim=1)
    # Of the small square of it, not of the tall matrix: the same directions in a hundredth of the time.
    directions = torch.linalg.eigh(unit.T @ unit).eigenvectors.flip(1)
    # A direction and its opposite serve as well: the one whose largest number is positive, so that all take the same.
    directions = directions * directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
    projection: torch.Tensor = directions[:, : min(TOKEN_DIM, directions.shape[1] // 2 * 2)].contiguous()
    return projection.to(transformer.auto_model.device)
