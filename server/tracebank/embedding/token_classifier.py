"""A token classifier that says which words of a text are worth keeping (LLMLingua-2), on transformers.

Behind the extra `tracebank[llmlingua]`. The model is a directory on this disk: nothing is ever downloaded.
"""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tracebank.errors import ModelLoadError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

# Of the two classes of LLMLingua-2, the second is: keep.
KEEP = 1
MAX_WINDOW_TOKENS = 512
BATCH_WINDOWS = 4
_WORD = re.compile(r"\S+")


class TokenClassifier:
    """A loaded model. It may be asked from any thread, and computes for one at a time."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._one_at_a_time = threading.Lock()
        longest = min(MAX_WINDOW_TOKENS, getattr(model.config, "max_position_embeddings", MAX_WINDOW_TOKENS) - 4)
        self._window_tokens = max(8, longest)

    @classmethod
    def load(cls, directory: Path) -> TokenClassifier:
        """Load a model from the disk; this takes seconds and blocks. Raises: ModelLoadError, which says what to set."""
        if not (directory / "config.json").is_file():
            raise ModelLoadError(
                f"compression.token_model: {directory} holds no model (config.json and weights of a token classifier such as "
                "LLMLingua-2): set it to the directory of one, or to nothing to do without"
            )
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            from transformers import AutoModelForTokenClassification, AutoTokenizer
        except ImportError as error:
            raise ModelLoadError(f"compression.token_model needs transformers: pip install 'tracebank[llmlingua]' ({error})") from error
        try:
            model = AutoModelForTokenClassification.from_pretrained(str(directory), local_files_only=True).eval()
            tokenizer: Any = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
        except Exception as error:  # a model can fail in as many ways as there are models
            raise ModelLoadError(f"compression.token_model: {directory} could not be loaded: {error}") from error
        if model.config.num_labels != KEEP + 1 or not tokenizer.is_fast:
            raise ModelLoadError(f"compression.token_model: {directory} is no classifier of two classes with a fast tokenizer")
        return cls(model, tokenizer)

    def words(self, text: str) -> list[tuple[int, int, float]]:
        """Return (start, end, probability of being kept) of each word of a text, in order: the mean over its tokens."""
        with self._one_at_a_time:
            starts, chances = self._tokens(text)
        return [(start, end, _mean(chances, starts, start, end)) for start, end in (match.span() for match in _WORD.finditer(text))]

    def _tokens(self, text: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return where each token begins, ascending, and its probability."""
        import torch

        windows = self._tokenizer(
            text, truncation=True, max_length=self._window_tokens, padding=True, return_overflowing_tokens=True,
            return_offsets_mapping=True, return_special_tokens_mask=True, return_tensors="pt", verbose=False,
        )  # fmt: skip
        inputs = {name: windows[name] for name in ("input_ids", "attention_mask")}
        chances = []
        with torch.inference_mode():
            for at in range(0, len(inputs["input_ids"]), BATCH_WINDOWS):
                logits = self._model(**{name: rows[at : at + BATCH_WINDOWS] for name, rows in inputs.items()}).logits
                chances.append(logits.float().softmax(dim=-1)[..., KEEP].numpy())
        own = windows["special_tokens_mask"].numpy() == 0  # padding is special, too
        return windows["offset_mapping"].numpy()[own][:, 0], np.concatenate(chances)[own]


def _mean(chances: np.ndarray[Any, Any], starts: np.ndarray[Any, Any], start: int, end: int) -> float:
    first, last = np.searchsorted(starts, (start, end))
    # What is no token of the model is not known to be dispensable.
    return float(chances[first:last].mean()) if last > first else 1.0
