"""What goes before a text: many models were trained with one prompt for questions and another for documents."""

from __future__ import annotations

from collections.abc import Mapping

from tracebank.embedding.base import Prompts
from tracebank.errors import ModelLoadError
from tracebank.settings import EmbeddingSettings

# The names that sentence-transformers looks for in encode_query and encode_document.
QUESTION_NAMES = ("query",)
DOCUMENT_NAMES = ("document", "passage", "corpus")


def choose_prompts(settings: EmbeddingSettings, own: Mapping[str, str], default_name: str | None) -> Prompts:
    """Return the prompts for a model with prompts of its `own`: those of the settings, else its own, else its default.

    Raises: ModelLoadError for a name that the model does not have.
    """
    return Prompts(
        question=_prompt(settings.query_prompt, settings.query_prompt_name, QUESTION_NAMES, own, default_name),
        document=_prompt(settings.document_prompt, settings.document_prompt_name, DOCUMENT_NAMES, own, default_name),
    )


def _prompt(text: str, name: str, usual: tuple[str, ...], own: Mapping[str, str], default_name: str | None) -> str:
    if text:
        return text
    if name and name not in own:
        raise ModelLoadError(f"the model has no prompt {name!r}; it has {', '.join(sorted(own)) or 'none'}")
    names = [name] if name else [*(usual_name for usual_name in usual if own.get(usual_name)), default_name or ""]
    return own.get(names[0], "") or ""
