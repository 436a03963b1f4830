"""What comes with the package for fronts to say in a new directory, and when it is not to be said."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any, get_args

import pytest
from clients import HELLO

from tracebank import shipped
from tracebank.early import written_down
from tracebank.settings import Settings
from tracebank.settings.sections import PathText

PROVIDERS = '[{"model": "tiny", "base_url": "http://127.0.0.1:1/v1"}]'


def said(data_dir: Path) -> Any:
    """Return what a front would answer to `initialize` before its engine is up."""
    return written_down(str(data_dir), {"method": "initialize", "params": HELLO})


def install(place: Path, distribution: str, entry_points: str = "") -> None:
    """Make the metadata of a package, and put its place at the beginning of the path."""
    directory = place / distribution
    directory.mkdir(parents=True)
    if entry_points:
        (directory / "entry_points.txt").write_text(entry_points, encoding="utf-8")
    sys.path.insert(0, str(place))


@pytest.fixture(autouse=True)
def own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the path back afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture(autouse=True)
def made_here(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what comes with the package be made with the SDK that is installed here, which may have been released since."""
    contents, here = json.loads(Path(shipped.FILE).read_text(encoding="utf-8")), shipped.made_with(sys.path)
    assert here is not None
    contents["made_with"] |= {package: here[package] for package in shipped.PACKAGES}
    file = tmp_path_factory.mktemp("package") / "shipped.json"
    file.write_text(json.dumps(contents), encoding="utf-8")
    monkeypatch.setattr(shipped, "FILE", str(file))


def test_where_nobody_has_been_it_is_said(tmp_path: Path) -> None:
    """And the directory is made, for its owner alone, as by whoever starts the engine."""
    assert said(tmp_path / "data")["serverInfo"]["name"] == "tracebank"
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


def test_what_is_installed_is_found_as_the_engine_finds_it() -> None:
    """The tools of all packages, and the versions of those that answers depend on."""
    made_with = shipped.made_with(sys.path)
    assert made_with is not None
    assert made_with["tools"] == sorted({f"{entry.name}={entry.value}" for entry in entry_points(group="tracebank.tools")})
    for package in shipped.PACKAGES:
        assert version(package).split(".")[:2] == made_with[package].split(".")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TRACEBANK_TOOLS", "stats"),
        ("TRACEBANK_LLM__PROVIDERS", PROVIDERS),
        ("tracebank_llm__providers", PROVIDERS),
        ("Tracebank_Tools", "stats"),
        ("TRACEBANK_RETRIEVAL__K", "0"),
        ("TRACEBANK_EMBEDDING__CACHE_DIR", "~nosuchuser/x"),
        ("TRACEBANK_RETREIVAL__K", "5"),
    ],
)
def test_with_a_setting_that_may_change_an_answer_or_be_refused_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """Whatever the case of its name: the engine reads it all the same."""
    monkeypatch.setenv(name, value)
    assert said(tmp_path / "data") is None


@pytest.mark.parametrize("name", [*shipped.HARMLESS_VARIABLES, "TRACEBANK_NAMESPACE", "TRACEBANK_TRANSPORT", "OTHER_TOOLS"])
def test_with_a_setting_that_changes_none_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Where the model is kept, and whose memories these are."""
    monkeypatch.setenv(name, "x")
    assert said(tmp_path / "data") is not None


@pytest.mark.parametrize("name", shipped.HARMLESS_VARIABLES)
def test_a_harmless_setting_takes_any_text(name: str) -> None:
    """So an engine refuses none of its values but homes of nobody, and the client need not wait to hear that."""
    section, setting = name.lower().removeprefix("tracebank_").split("__")
    annotation = Settings.model_fields[section].annotation
    field = getattr(annotation, "model_fields")[setting]  # noqa: B009 - a section, whatever its type
    assert field.annotation is str
    assert field.metadata in ([], list(get_args(PathText)[1:]))


@pytest.mark.parametrize("name", ["answers", "tracebank.toml", "engine.address"])
def test_where_an_engine_has_been_or_is_or_has_settings_it_is_not(tmp_path: Path, name: str) -> None:
    """It may have been started with others than ours."""
    (tmp_path / name).touch()
    assert said(tmp_path) is None


def test_where_no_engine_can_be_it_is_not(tmp_path: Path) -> None:
    """The client hears at once what is wrong with the directory."""
    (tmp_path / "file").touch()
    assert said(tmp_path / "file" / "data") is None


def zipped(place: Path) -> None:
    """Put an archive at the beginning of the path: there may be packages in it."""
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("plugin-1.0.dist-info/entry_points.txt", "[tracebank.tools]\nmine = plugin:TOOL\n")
    sys.path.insert(0, str(place))


@pytest.mark.parametrize(
    "change",
    [
        lambda place: install(
            place, "plugin-1.0.dist-info", "[console_scripts]\na = b:c\n\n[tracebank.tools]\n# one\nmine = plugin:TOOL\n"
        ),
        lambda place: install(place, "plugin.egg-info", "[tracebank.tools]\nmine=plugin:TOOL"),
        lambda place: install(place, "mcp-9.9.0.dist-info"),
        lambda place: install(place, "Pydantic-1.0.dist-info"),
        lambda place: install(place.with_suffix(".egg"), "EGG-INFO", "[tracebank.tools]\nmine = plugin:TOOL"),
        zipped,
        lambda _: sys.path.clear(),
    ],
    ids=["plug-in", "older form", "version", "other case", "egg", "archive", "nothing"],
)
def test_with_other_packages_than_it_was_made_with_it_is_not(tmp_path: Path, change: Callable[[Path], None]) -> None:
    """Another tool of somebody's, another SDK, or what the front does not look into."""
    change(tmp_path / "place")
    assert said(tmp_path / "data") is None


def test_other_plugins_than_tools_are_none_of_its_business(tmp_path: Path) -> None:
    """Whatever else is installed: it is said."""
    install(tmp_path / "place", "other-1.0.dist-info", "[console_scripts]\nmine = plugin:TOOL\n")
    assert said(tmp_path / "data") is not None


@pytest.mark.parametrize("content", ["", "{", "[]", "7", '{"answers": {}}', json.dumps({"made_with": None, "answers": {}})])
def test_garbage_is_not_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    """The engine will answer."""
    file = tmp_path / "shipped.json"
    file.write_text(content, encoding="utf-8")
    monkeypatch.setattr(shipped, "FILE", str(file))
    assert said(tmp_path / "data") is None
