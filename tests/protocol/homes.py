"""Data directories of their own, with the environment that everything started on them gets."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

COMMAND = str(shutil.which("tracebank", path=str(Path(sys.executable).parent)))
WAIT_S = 60.0
"""How long a test waits for an answer that comes at once on a fast machine."""

NO_MODEL = "left out of this test"
_NOWHERE = "http://127.0.0.1:9"


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """A data directory and the environment of the processes that use it."""

    data_dir: Path
    environment: Mapping[str, str]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line to its end."""
        return subprocess.run(
            [COMMAND, *arguments],
            env=dict(self.environment), stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", timeout=WAIT_S, check=False,
        )  # fmt: skip


@contextmanager
def home(directory: Path, *, meaning: bool = False, path: Path | None = None, **variables: str) -> Iterator[Home]:
    """Yield a home whose engine is ended afterwards.

    Without `meaning` the package that runs the model cannot be imported, as where its installation is broken: the
    engine is up at once, and search is by words alone. `path` goes before all else that Python imports from.
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
    environment |= {"PYTHONPATH": os.pathsep.join(map(str, paths)), "TRACEBANK_DATA_DIR": str(directory / "data"), **variables}
    opened = Home(data_dir=directory / "data", environment=environment)
    try:
        yield opened
    finally:
        stopped = opened.run("stop")
        assert stopped.returncode == 0, stopped.stderr
