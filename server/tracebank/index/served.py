"""Search by meaning on a Chroma server, which others may use too: our collections have names of their own there."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tracebank.errors import IndexFaultError, IndexUnreachableError
from tracebank.index.base import set_aside
from tracebank.index.chroma import ChromaVectorIndex, guarded, import_chroma

if TYPE_CHECKING:
    from chromadb.api import ClientAPI


@dataclass(frozen=True, slots=True, kw_only=True)
class ChromaServer:
    """Where it is. `prefix` tells the collections of one data directory from all others."""

    host: str
    port: int
    ssl: bool
    prefix: str


class ServedVectorIndex(ChromaVectorIndex):
    """A `VectorIndex` on a server. The directory holds what only we know of it: format, generations, projections.

    A server that has lost what it held is noticed when it is opened. Raises: IndexUnreachableError where it does not answer.
    """

    def __init__(self, directory: Path, *, model: str, server: ChromaServer) -> None:
        self._server = server
        self.prefix = f"{server.prefix}-{directory.name}-"
        super().__init__(directory, model=model, server=f"{server.host}:{server.port}", prefix=server.prefix)
        try:
            if not self._fresh and self._marker not in self._ours():
                self._fresh = True
            if self._fresh:
                self._delete_ours()
        except IndexFaultError:
            self._close_client()
            raise

    @property
    def _marker(self) -> str:
        return self.prefix + "filled"

    def mark_filled(self) -> None:
        """Write down, on the server too, that the index can be used at the next start."""
        guarded(lambda: self._client.get_or_create_collection(self._marker, embedding_function=None))
        super().mark_filled()

    def scrub(self) -> None:
        """What a server keeps of deleted texts is its own affair: `chroma vacuum` cleans it."""

    def _sweep(self) -> None:
        """The graphs are the server's."""

    def _connect(self) -> ClientAPI:
        import_chroma()
        import chromadb
        from chromadb.config import Settings

        settings = Settings(anonymized_telemetry=False, chroma_otel_granularity=None)
        server = self._server
        try:
            return guarded(lambda: chromadb.HttpClient(server.host, server.port, ssl=server.ssl, settings=settings))
        except IndexFaultError as error:
            raise IndexUnreachableError(
                f"no Chroma server answers at {server.host}:{server.port}: start it (`chroma run`), or set chroma.mode to embedded"
            ) from error

    def _restart(self) -> None:
        # The client in use stays until another one is there.
        former, client = self._client, self._connect()
        self._client = client
        _close(former)
        self._delete_ours()
        set_aside(self._directory)
        self._take_up()

    def _wipe(self) -> None:
        self._client = self._connect()
        try:
            self._delete_ours()
        finally:
            self._close_client()
        set_aside(self._directory)

    def _ours(self) -> list[str]:
        return [found.name for found in guarded(self._client.list_collections) if found.name.startswith(self.prefix)]

    def _delete_ours(self) -> None:
        self._open.clear()
        # First what says that everything is there.
        for name in sorted(self._ours(), key=lambda name: name != self._marker):
            guarded(partial(self._client.delete_collection, name))

    def _close_client(self) -> None:
        _close(self._client)


def _close(client: ClientAPI) -> None:
    with contextlib.suppress(IndexFaultError):
        guarded(getattr(client, "close", lambda: None))
    # Chroma's client leaves its connections open.
    session = getattr(getattr(client, "_server", None), "_session", None)
    if session is not None:
        session.close()
