"""Data directories for real processes, and a way to make their engine fail at a chosen point."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clients import COMMAND, WAIT_S

from tracebank import link
from tracebank.early import answers_path, settings_mark

# Runs in every process of a place before anything else does; only in engines it does anything.
SITE = """
import os, signal, sys
from pathlib import Path

here = Path(__file__).parent
plans = sorted(here.glob("sabotage-*.py"))

def die():
    plans[0].unlink(missing_ok=True)  # the next engine is well, or has a plan of its own
    os.kill(os.getpid(), signal.SIGKILL)

if sys.orig_argv[-1:] == ["tracebank.daemon"]:
    with (here / "starts").open("a") as starts:
        starts.write(f"{os.getpid()}\\n")
    if plans:
        exec(plans[0].read_text())
"""
# The engine does without a model, as where its packages are broken: it is up at once, and searches by words alone.
BROKEN = ("sentence_transformers", "chromadb")
SETTINGS = {"TRACEBANK_EMBEDDING__ENGINE": "torch"}  # no process of its own that finds the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A data directory, what its processes import from, and the environment that all of them get."""

    data_dir: Path
    site: Path
    environment: dict[str, str]
    expected_errors: list[str] = field(default_factory=lambda: ["meaning has failed", "is in use by process"])

    def run(self, *arguments: str, text: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the command line to its end."""
        return subprocess.run(
            [COMMAND, *arguments],
            env={**self.environment, **variables}, input=text, capture_output=True, encoding="utf-8", timeout=WAIT_S, check=False,
        )  # fmt: skip

    def sabotage(self, *codes: str) -> None:
        """Run this code in the engines that are started from now on.

        `die()` ends the one that calls it; then it is the next code's turn.
        """
        for number, code in enumerate(codes):
            (self.site / f"sabotage-{number}.py").write_text(code, encoding="utf-8")

    def make_peace(self) -> None:
        """End the sabotage."""
        for plan in self.site.glob("sabotage-*.py"):
            plan.unlink()

    @property
    def starts(self) -> list[int]:
        """The process id of every engine that was ever started here."""
        file = self.site / "starts"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def status(self) -> dict[str, Any]:
        """Return what the running engine says of itself. It must be running."""
        connection = link.connect(str(self.data_dir), "status")
        assert connection is not None
        connection.close()
        return connection.about

    @property
    def engine(self) -> int:
        """The process id of the running engine."""
        return int(self.status()["pid"])

    def kill(self) -> int:
        """Kill the running engine as the system does when memory is short. Returns its process id."""
        pid = self.engine
        end(pid, signal.SIGKILL)
        return pid

    def exported(self) -> set[str]:
        """Return the id of every trace that `tracebank export` prints."""
        done = self.run("export")
        assert done.returncode == 0, done.stderr
        return {json.loads(line)["trace_id"] for line in done.stdout.splitlines()}

    def stored(self) -> set[str]:
        """Return the id of every trace in the store; no engine is needed."""
        with closing(sqlite3.connect(f"{(self.data_dir / 'tracebank.sqlite3').as_uri()}?mode=ro", uri=True)) as db:
            return {trace_id for (trace_id,) in db.execute("SELECT trace_id FROM traces")}

    def processes(self, *, engines: bool = False) -> list[int]:
        """Return all processes that have this data directory in their environment, or only the engines among them."""
        ours = b"TRACEBANK_DATA_DIR=" + os.fsencode(self.data_dir)
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    about, words = (entry / "environ").read_bytes().split(b"\0"), (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue  # it has just ended
                if ours in about and (not engines or b"tracebank.daemon" in words):
                    found.append(int(entry.name))
        return found

    @property
    def address(self) -> dict[str, Any]:
        """Where the engine listens, as it wrote it down."""
        written: dict[str, Any] = json.loads((self.data_dir / link.ADDRESS_NAME).read_bytes())
        return written

    def leftovers(self) -> list[str]:
        """Return the files that only a running engine has."""
        return [name for name in (link.ADDRESS_NAME, "engine.sock") if (self.data_dir / name).exists()]

    def complaints(self) -> list[str]:
        """Return what engines wrote into their log as an error, except what is expected here."""
        logs = [file.read_text(encoding="utf-8") for file in sorted(self.data_dir.glob("engine.log*"))]
        records = [record for log in logs for record in re.split(r"(?m)^(?=\d{4}-\d\d-\d\d \d\d:)", log)]
        return [record for record in records if " ERROR " in record and not any(text in record for text in self.expected_errors)]


@contextmanager
def place(root: Path, *, data_dir: Path | None = None, **variables: str) -> Iterator[Place]:
    """Yield a place; at the end its engine is ended, and nothing may be left behind."""
    site = root / "site"
    site.mkdir(parents=True)
    (site / "sitecustomize.py").write_text(SITE, encoding="utf-8")
    for name in BROKEN:
        (site / f"{name}.py").write_text("raise ImportError('left out of this test')\n", encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TRACEBANK_", "PYTHON"))}
    opened = Place(
        data_dir=data_dir or root / "data",
        site=site,
        environment={**environment, **SETTINGS, "PYTHONPATH": str(site), "TRACEBANK_DATA_DIR": str(data_dir or root / "data"), **variables},
    )
    try:
        yield opened
    finally:
        opened.make_peace()
        was_running = bool(opened.processes(engines=True))
        while pids := opened.processes():
            for pid in pids:
                end(pid)
    if was_running:
        assert not opened.leftovers()


def end(pid: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Send a signal and wait until the process has ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)
    assert wait_for_exit(pid)


def wait_for_exit(pid: int, timeout_s: float = WAIT_S) -> bool:
    """Wait until a process has ended, whoever started it. Returns whether it has."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], timeout_s)[0])
    finally:
        os.close(descriptor)


def modes(paths: Sequence[Path]) -> dict[str, int]:
    """Return the permissions of files by name."""
    return {path.name: path.lstat().st_mode & 0o777 for path in paths}


def written(here: Place, tools: str | None = None, **variables: str) -> Path:
    """Return where the answers are written down."""
    return Path(answers_path(str(here.data_dir), tools, settings_mark(str(here.data_dir), {**SETTINGS, **variables})))


def wait_for_file(path: Path) -> None:
    """Wait until there is such a file: it is written beside the first client's session."""
    give_up_at = time.monotonic() + WAIT_S
    while not path.is_file():
        assert time.monotonic() < give_up_at, f"there is no {path}"
        time.sleep(0.01)
