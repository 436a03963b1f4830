"""The package as people get it: built from the sdist, installed where no source tree is, and run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from configparser import ConfigParser
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[1]
WAIT_S = 240
SCRIPTS = "Scripts" if sys.platform == "win32" else "bin"


def run(*command: object, cwd: Path, **variables: str) -> str:
    """Run a command that must succeed, with nothing of the user's settings, and return its output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TRACEBANK_", "PYTHON"))}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment | variables, stdin=subprocess.DEVNULL, capture_output=True,
        encoding="utf-8", timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory with the sdist, and the wheel that was built from it."""
    directory = tmp_path_factory.mktemp("dist")
    # Without isolation: the build's requirements are those of the tests, and nothing is downloaded.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", directory, ROOT, cwd=directory)
    return directory


@pytest.fixture(scope="module")
def wheel(built: Path) -> Iterator[zipfile.ZipFile]:
    """Return the wheel, opened."""
    (file,) = built.glob("*.whl")
    with zipfile.ZipFile(file) as opened:
        yield opened


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    """Return what an index shows of the package."""
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a fresh environment with the wheel; the dependencies are those of the environment of the tests."""
    home = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(home, with_pip=False, system_site_packages=False)
    (file,) = built.glob("*.whl")
    python = home / SCRIPTS / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", "--quiet", file, cwd=home)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip())
    # Lines of a .pth are paths and no sites: the .pth of the editable installation over there stays unread.
    paths = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (site / "dependencies.pth").write_text("\n".join(paths) + "\n", encoding="utf-8")
    return home


def test_the_wheel_holds_both_packages_whole_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """Every file of the two source trees, the mark that they are typed, and no test, benchmark or configuration."""
    sources = {
        str(file.relative_to(root)).replace(os.sep, "/")
        for root, package in ((ROOT / "server", "tracebank"), (ROOT / "tools", "tracebank_tools"))
        for file in (root / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {"tracebank/py.typed", "tracebank_tools/py.typed"} <= sources
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == sources


def test_the_wheel_offers_the_command_and_the_tools(wheel: zipfile.ZipFile) -> None:
    """One tool for each module of the tools."""
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    entries = ConfigParser()
    entries.read_string(wheel.read(name).decode())
    assert dict(entries["console_scripts"]) == {"tracebank": "tracebank.front:main"}
    modules = [file.stem for file in (ROOT / "tools" / "tracebank_tools").glob("*.py") if file.stem != "__init__"]
    assert dict(entries["tracebank.tools"]) == {module: f"tracebank_tools.{module}:TOOL" for module in modules}


def test_the_wheel_comes_with_its_licence_and_its_description(wheel: zipfile.ZipFile, metadata: Message) -> None:
    """What an index and a lawyer ask for."""
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel.namelist())
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Summary"]
    assert str(metadata.get_payload()).strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()


def test_the_sdist_holds_what_is_needed_to_test_and_to_read(built: Path) -> None:
    """Sources, tests, sample settings and documents; nothing that was built."""
    (file,) = built.glob("*.tar.gz")
    with tarfile.open(file) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "config/tracebank.toml",
        "docs/BENCHMARKS.md",
        "tests/test_wheel.py",
        "tools/tracebank_tools/stats.py",
    } <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith((".venv", "build/", "dist/"))]


def test_the_installed_package_is_the_one_that_is_run(installed: Path) -> None:
    """Both packages, and the entry points, come from the fresh environment and not from the source tree."""
    code = (
        "import tracebank, tracebank_tools; from importlib.metadata import entry_points, distribution; "
        "print(tracebank.__file__, tracebank_tools.__file__, distribution('tracebank').locate_file(''), sep='\\n'); "
        "print(*sorted(entry.name for entry in entry_points(group='tracebank.tools')))"
    )
    *places, names = run(installed / SCRIPTS / "python", "-c", code, cwd=installed).splitlines()
    assert all(Path(place).resolve().is_relative_to(installed.resolve()) for place in places)
    modules = [file.stem for file in (ROOT / "tools" / "tracebank_tools").glob("*.py") if file.stem != "__init__"]
    assert names.split() == sorted(modules)


def test_the_installed_front_knows_what_to_say_in_a_new_directory(installed: Path) -> None:
    """What comes with the package is of this version and has its tools; the SDK may have been released anew since."""
    code = (
        "import json, sys; from tracebank import shipped; made = json.load(open(shipped.FILE, encoding='utf-8'))['made_with']; "
        "here = shipped.made_with(sys.path); print(*(name for name in made if name not in shipped.PACKAGES and made[name] == here[name]))"
    )
    assert run(installed / SCRIPTS / "python", "-c", code, cwd=installed).split() == ["tracebank", "tools"]


def test_the_installed_command_stores_and_finds(installed: Path, tmp_path: Path) -> None:
    """Help, one trace in, and the same trace out, by an engine of the fresh environment."""
    command = installed / SCRIPTS / "tracebank"
    nowhere = "http://127.0.0.1:9"
    variables = {
        "TRACEBANK_DATA_DIR": str(tmp_path / "data"), "TRACEBANK_EMBEDDING__ENGINE": "torch",
        "HTTPS_PROXY": nowhere, "https_proxy": nowhere,
    }  # fmt: skip
    assert "Usage: tracebank" in run(command, "--help", cwd=tmp_path)
    try:
        added = run(command, "add", "Pack the parachute", "--id", "packed", cwd=tmp_path, **variables)
        found = json.loads(run(command, "search", "fold the canopy", "--json", cwd=tmp_path, **variables))
        engine = json.loads(run(command, "status", "--json", cwd=tmp_path, **variables))
    finally:
        run(command, "stop", cwd=tmp_path, **variables)
    assert added.strip() == "created packed"
    assert [result["trace_id"] for result in found["results"]] == ["packed"]
    assert found["meaning"] is True
    assert engine["running"] is True
