"""Every error Tracebank raises on purpose.

    TracebankError
    ├── InputError             the caller's argument is wrong: field, limit, value, next step
    ├── SettingsError          a setting is wrong, or two settings contradict each other
    ├── InstallationError      a file that comes with the package is missing or damaged
    ├── DataDirError           the data directory cannot be used
    │   └── DataDirLockedError     another engine holds it
    ├── StoreError             the SQLite file cannot do what was asked
    │   ├── StoreCorruptError      the file is not a readable database
    │   ├── StoreVersionError      the file was written by a newer Tracebank
    │   ├── StoreFullError         no space left on the device
    │   └── StoreLockedError       another program has locked the file: it passes by itself
    ├── IndexFaultError        a derived index failed (it can always be rebuilt)
    │   └── IndexUnreachableError  it is on a server that does not answer: it may be well
    ├── EmbeddingError         a text could not be embedded
    │   └── ModelLoadError         the model could not be loaded
    ├── LlmError               a language model could not be asked, or did not answer
    │   ├── LlmOffError            no provider is configured: nothing was sent
    │   ├── LlmCapError            the day's cap on spending would be exceeded: nothing was sent
    │   ├── LlmExhaustedError      every provider of a list has failed
    │   └── LlmCallError           one provider did not do as asked
    │       ├── LlmRejectedError       it will not take this request: repeating is of no use
    │       ├── LlmUnavailableError    the network or the provider failed: later it may work
    │       │   └── LlmTooLateError        it did not answer in the time that the caller had
    │       └── LlmAnswerError         its answer cannot be used
    │           ├── LlmSchemaError         it is not the JSON that was asked for
    │           └── LlmRefusedError        the model declined to answer
    └── EngineError            the engine cannot be reached or did not do as asked
        └── EngineEndedError       it ended before it answered

A message is for the person or the agent who reads it: it says what is wrong, with which value, and what to do next.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in typing, which would cost every client 2 ms and 0.7 MB
if TYPE_CHECKING:
    from collections.abc import Sequence


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


class InstallationError(TracebankError):
    """A file that comes with the package is not there, or is damaged."""


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


class StoreLockedError(StoreError):
    """Another program has locked the store for longer than one waits for it."""


class IndexFaultError(TracebankError):
    """A derived index failed. It holds nothing that the store does not, and can be rebuilt."""


class IndexUnreachableError(IndexFaultError):
    """The index is on a server that does not answer. It may be well: there is nothing to rebuild, only to wait for."""


class EmbeddingError(TracebankError):
    """A text could not be embedded."""


class ModelLoadError(EmbeddingError):
    """The embedding model could not be loaded."""


class LlmError(TracebankError):
    """A language model could not be asked, or did not answer."""


class LlmOffError(LlmError):
    """No language model is configured. Nothing was sent."""


class LlmCapError(LlmError):
    """The day's cap on spending would be exceeded. Nothing was sent."""


class LlmCallError(LlmError):
    """One provider did not do as asked.

    `status` is that of an answer that was an error. `processed`: the provider may have worked on the request, so asking
    again may be work done twice. `again`: asking again may help. `retry_after_s`: how long it asked to be left alone.
    """

    def __init__(
        self,
        provider: str,
        problem: str,
        *,
        status: int | None = None,
        processed: bool = True,
        again: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"language model {provider}: {problem}")
        self.provider, self.problem, self.status = provider, problem, status
        self.processed, self.again, self.retry_after_s = processed, again, retry_after_s


class LlmRejectedError(LlmCallError):
    """The provider will not take this request (key, model, size): repeating is of no use."""


class LlmUnavailableError(LlmCallError):
    """The network or the provider failed; later it may work."""


class LlmTooLateError(LlmUnavailableError):
    """The provider did not answer in the time that the caller had, which is less than a provider may take."""


class LlmAnswerError(LlmCallError):
    """The provider answered with what cannot be used."""


class LlmSchemaError(LlmAnswerError):
    """The answer is not JSON, or does not match the schema."""


class LlmRefusedError(LlmAnswerError):
    """The model declined to answer."""


class LlmExhaustedError(LlmError):
    """Every provider of a list has failed; `errors` tells how, in the order of the list."""

    def __init__(self, errors: Sequence[LlmError]) -> None:
        super().__init__("no language model answered: " + "; ".join(str(error) for error in errors))
        self.errors = tuple(errors)


class EngineError(TracebankError):
    """The engine cannot be reached, or did not do as asked."""


class EngineEndedError(EngineError):
    """The engine ended before it answered; another one can be started."""
