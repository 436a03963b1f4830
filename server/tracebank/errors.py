"""Every error Tracebank raises on purpose.

    TracebankError
    ├── InputError             the caller's argument is wrong: field, limit, value, next step
    ├── SettingsError          a setting is wrong, or two settings contradict each other
    ├── DataDirError           the data directory cannot be used
    │   └── DataDirLockedError     another engine holds it
    ├── StoreError             the SQLite file cannot do what was asked
    │   ├── StoreCorruptError      the file is not a readable database
    │   ├── StoreVersionError      the file was written by a newer Tracebank
    │   └── StoreFullError         no space left on the device
    ├── IndexFaultError        a derived index failed (it can always be rebuilt)
    ├── EmbeddingError         a text could not be embedded
    │   └── ModelLoadError         the model could not be loaded
    └── EngineError            the engine cannot be reached or did not do as asked

A message is for the person or the agent who reads it: it says what is wrong, with which value, and what to do next.
"""

from __future__ import annotations


class TracebankError(Exception):
    """Root of all errors raised by Tracebank."""


class InputError(TracebankError):
    """An argument is wrong; nothing was stored or changed."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class SettingsError(TracebankError):
    """A setting is wrong."""


class DataDirError(TracebankError):
    """The data directory cannot be used."""


class DataDirLockedError(DataDirError):
    """Another engine holds the data directory."""


class StoreError(TracebankError):
    """The store could not do what was asked."""


class StoreCorruptError(StoreError):
    """The store's file is not a readable database. It is left as it is."""


class StoreVersionError(StoreError):
    """The store was written by a newer Tracebank. It is left as it is."""


class StoreFullError(StoreError):
    """The device that holds the store has no space left. Nothing of the failed write was kept."""


class IndexFaultError(TracebankError):
    """A derived index failed. It holds nothing that the store does not, and can be rebuilt."""


class EmbeddingError(TracebankError):
    """A text could not be embedded."""


class ModelLoadError(EmbeddingError):
    """The embedding model could not be loaded."""


class EngineError(TracebankError):
    """The engine cannot be reached, or did not do as asked."""
