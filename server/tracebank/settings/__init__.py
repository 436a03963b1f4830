"""All settings, typed, and how they are read."""

from tracebank.settings.loading import load_settings, said_in_vain
from tracebank.settings.sections import (
    CacheSettings,
    ChromaSettings,
    CompressionSettings,
    DaemonSettings,
    EmbeddingSettings,
    IndexSettings,
    LearningSettings,
    LlmSettings,
    ProviderSettings,
    ReasoningSettings,
    RetrievalSettings,
    Settings,
    TokenSettings,
)

__all__ = [
    "CacheSettings",
    "ChromaSettings",
    "CompressionSettings",
    "DaemonSettings",
    "EmbeddingSettings",
    "IndexSettings",
    "LearningSettings",
    "LlmSettings",
    "ProviderSettings",
    "ReasoningSettings",
    "RetrievalSettings",
    "Settings",
    "TokenSettings",
    "load_settings",
    "said_in_vain",
]
