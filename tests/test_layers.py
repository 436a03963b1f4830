"""The floors of the house: a module imports what is below it or beside it, never what is above (DESIGN, "The house")."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SERVER, TOOLS = ROOT / "server" / "tracebank", ROOT / "tools" / "tracebank_tools"

# A module or a package with all that is in it. Where does a new one belong? On the floor above the highest it needs.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset(
        {
            "errors",
            "settings",
            "records",
            "steps",
            "locking",
            "memory",
            "gate",
            "background",
            "beside",
            "lasting",
            "places",
            "sentences",
            "idle",
            "precedence",
            "blas",
            "scores",
        }
    ),
    frozenset({"caching", "tokens", "metrics", "chunking"}),
    frozenset({"store", "index", "embedding", "meaning", "llm"}),
    frozenset({"compaction", "retrieval", "compression", "learning", "reasoning", "indexer", "origin", "rewriting", "token_basis", "work"}),
    frozenset({"answering", "engine", "erasing", "intake", "forgetting", "compressor", "reporting", "model_change", "semantics"}),
    frozenset(
        {
            "operations",
            "protocol",
            "link",
            "http",
            "daemon",
            "front",
            "cli",
            "bench",
            "remote",
            "serving",
            "early",
            "shipped",
            "endpoint",
            "in_process",
            "process",
        }
    ),
)
FLOOR_OF = {module: number for number, modules in enumerate(FLOORS) for module in modules}
TOP = len(FLOORS) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One name that a file imports. `checking`: for the type checker only; `late`: when a function runs."""

    file: Path
    line: int
    module: str
    name: str
    checking: bool
    late: bool

    @property
    def part(self) -> str:
        """Return the module or package of Tracebank that is imported; empty where it is the version, or a stranger's."""
        package, _, rest = f"{self.module}.{self.name}".partition(".")
        part = rest.partition(".")[0]
        return part if package == "tracebank" and part != "__version__" else ""

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.name} of {self.module}"


def part_of(file: Path) -> str:
    """Return the module or package that a file of the server belongs to."""
    return file.relative_to(SERVER).parts[0].removesuffix(".py")


def imports_of(file: Path) -> list[Import]:
    """Return everything that a file imports, anywhere in it."""
    return list(_imports(file, ast.parse(file.read_text(encoding="utf-8")), checking=False, late=False))


def _imports(file: Path, node: ast.AST, *, checking: bool, late: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(file=file, line=child.lineno, module=alias.name, name="", checking=checking, late=late)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{file}:{child.lineno}: write imports in full"
            for alias in child.names:
                yield Import(file=file, line=child.lineno, module=str(child.module), name=alias.name, checking=checking, late=late)
        else:
            guarded = isinstance(child, ast.If) and ast.unparse(child.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(file, child, checking=checking or guarded, late=late or function)


FILES = sorted(file for file in SERVER.rglob("*.py") if file.parent != SERVER or file.stem != "__init__")
ALL = [found for file in FILES for found in imports_of(file)]
OURS = [found for found in ALL if found.part]


def test_every_module_stands_on_a_floor() -> None:
    """Whoever adds one says where it belongs; whoever removes one clears its place."""
    assert {part_of(file) for file in FILES} == FLOOR_OF.keys()


@pytest.mark.parametrize("part", sorted(FLOOR_OF))
def test_a_module_imports_nothing_from_above(part: str) -> None:
    """Not even for the type checker, and not even late."""
    upwards = [str(found) for found in OURS if part_of(found.file) == part and FLOOR_OF[found.part] > FLOOR_OF[part]]
    assert not upwards


def test_modules_of_one_floor_do_not_import_each_other_in_circles() -> None:
    """Of two that stand side by side, one can be imported first."""
    beside: dict[str, set[str]] = {part: set() for part in FLOOR_OF}
    for found in OURS:
        if not found.checking and not found.late and found.part != part_of(found.file):
            beside[part_of(found.file)].add(found.part)
    first: list[str] = []
    while ready := sorted(part for part in beside if part not in first and beside[part] <= set(first)):
        first += ready
    assert not beside.keys() - set(first)


def test_the_server_never_imports_the_tools() -> None:
    """It finds them by entry point, ours as anybody's."""
    assert not [str(found) for found in ALL if found.module.partition(".")[0] == "tracebank_tools"]


def test_the_tools_import_the_server_and_not_each_other() -> None:
    """A tool is a module that could be a package of its own."""
    found = [one for file in sorted(TOOLS.glob("*.py")) for one in imports_of(file)]
    assert any(one.module.partition(".")[0] == "tracebank" for one in found)
    assert not [str(one) for one in found if one.module.partition(".")[0] == "tracebank_tools"]


def test_only_the_top_floor_reads_settings() -> None:
    """Below it a module is handed what it needs, and knows at most the type."""
    readers = [found for found in OURS if found.part == "settings" != part_of(found.file) and FLOOR_OF[part_of(found.file)] < TOP]
    assert not [str(found) for found in readers if not found.name.endswith("Settings")]
    made = [
        f"{file.relative_to(ROOT)}:{node.lineno} makes {node.func.id}"
        for file in {found.file for found in readers}
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in {found.name for found in readers if found.file == file}
    ]
    assert not made


def test_the_front_starts_with_the_standard_library_alone() -> None:
    """Every client pays for what it loads: no package, and of the standard library nothing that takes long."""
    loads = "import sys; before = set(sys.modules); import tracebank.front; print(*sorted(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", loads], capture_output=True, text=True, check=True, timeout=60).stdout.split()
    assert "tracebank.front" in loaded
    packages = {name.partition(".")[0] for name in loaded} - {"tracebank"}
    assert packages <= sys.stdlib_module_names
    assert not packages & {"asyncio", "dataclasses", "email", "http", "logging", "pathlib", "sqlite3", "ssl", "subprocess"}
