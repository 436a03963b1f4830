"""Data directories of their own, with the environment that everything started on them gets."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clients import COMMAND, WAIT_S
from samples import exported_models

NO_MODEL = "left out of this test"
_NOWHERE = "http://127.0.0.1:9"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A command that has ended: its exit status, and the two streams, which must be UTF-8."""

    code: int
    out: str
    errors: str

    @property
    def error(self) -> str:
        """Return the one line on standard error of a command that has failed."""
        assert self.code == 1, self
        (line,) = self.errors.splitlines()
        assert line.startswith("tracebank: ")
        return line.removeprefix("tracebank: ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """A data directory and the environment of the processes that use it."""

    data_dir: Path
    environment: Mapping[str, str]

    def run(self, *arguments: str, given: bytes = b"", variables: Mapping[str, str] | None = None) -> Ended:
        """Run the command line to its end, with `given` as its standard input and more variables."""
        done = subprocess.run(
            [COMMAND, *arguments],
            env={**self.environment, **(variables or {})},
            input=given,
            capture_output=True,
            timeout=WAIT_S,
            check=False,
        )
        return Ended(code=done.returncode, out=done.stdout.decode(), errors=done.stderr.decode())


@contextmanager
def home(directory: Path, *, meaning: bool = False, path: Path | None = None, **variables: str) -> Iterator[Home]:
    """Yield a home whose engine is ended afterwards.

    Without `meaning` the package that runs the model cannot be imported, as where its installation is broken: all is
    well at once, and search is by words alone. `path` goes before everything else that Python imports from.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TRACEBANK_", "PYTHON"))}
    paths = [path] if path else []
    if not meaning:
        stub = directory / "no-model"
        stub.mkdir(parents=True)
        (stub / "sentence_transformers.py").write_text(f"raise ImportError({NO_MODEL!r})\n", encoding="utf-8")
        paths.append(stub)
    # A machine with a network behaves as one without: nothing is downloaded.
    environment |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), _NOWHERE)
    # An export of the model takes half a minute, and every directory here would make its own: one serves all. On a busy
    # machine a search may have to wait long for the caller's own writes.
    model = {"TRACEBANK_EMBEDDING__CACHE_DIR": str(exported_models())} if meaning else {"TRACEBANK_EMBEDDING__ENGINE": "torch"}
    environment |= {**model, "TRACEBANK_RETRIEVAL__WAIT_MS": "60000"}
    environment |= {"PYTHONPATH": os.pathsep.join(map(str, paths)), "TRACEBANK_DATA_DIR": str(directory / "data"), **variables}
    opened = Home(data_dir=directory / "data", environment=environment)
    try:
        yield opened
    finally:
        stopped = opened.run("stop")
        assert stopped.code == 0, stopped
