"""What is written down is complete: help for every command, its place in the README, every setting in the sample file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from pydantic import BaseModel
from typer.main import get_command

from tracebank.cli import app
from tracebank.link import PLACE_VARIABLES
from tracebank.settings import Settings, load_settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SAMPLE = ROOT / "config" / "tracebank.toml"
GROUP: Any = get_command(app)
COMMANDS: dict[str, Any] = GROUP.commands


def settings_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the default of every setting that a file may hold."""
    for name, field in model.model_fields.items():
        if isinstance(field.default, BaseModel):
            yield from settings_of(type(field.default), f"{prefix}{name}.")
        elif f"{prefix}{name}" != "data_dir":
            yield f"{prefix}{name}", field.default


def leaves_of(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of everything in a TOML file."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from leaves_of(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", tuple(value) if isinstance(value, list) else value


SETTINGS = dict(settings_of(Settings))


def test_the_command_itself_says_what_it_is() -> None:
    """A person who types it alone reads that first."""
    assert GROUP.help


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    """A sentence, for the list of commands too."""
    assert COMMANDS[name].help
    assert COMMANDS[name].get_short_help_str().strip()


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_every_option_and_argument_has_help(name: str) -> None:
    """Nobody has to guess what one is for."""
    command = COMMANDS[name] if name else GROUP
    hidden = {"install_completion", "show_completion", "help"}
    assert not [parameter.name for parameter in command.params if parameter.name not in hidden and not parameter.help]


def test_every_command_is_in_the_readme() -> None:
    """With its name as one types it."""
    assert not [name for name in COMMANDS if not re.search(rf"\btracebank {name}\b", README)]


def test_every_tool_is_in_the_readme() -> None:
    """Those that come with Tracebank."""
    tools = [entry.name for entry in entry_points(group="tracebank.tools") if entry.value.startswith("tracebank_tools.")]
    assert tools
    assert not [name for name in tools if not re.search(rf"\b{name}\b", README)]


def test_every_file_that_the_readme_points_to_is_there() -> None:
    """A link into the repository leads somewhere."""
    targets = {target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", README)}
    assert not [target for target in targets if target and "://" not in target and not (ROOT / target).exists()]


def test_every_file_that_the_readme_points_to_is_in_the_sdist() -> None:
    """Whoever reads it there can follow."""
    targets = {target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", README)}
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    taken = build["targets"]["sdist"]["include"]
    files = [PurePosixPath("/", target) for target in targets if target and "://" not in target]
    assert files
    assert not [file for file in files if not any(place.match(each) for place in (file, *file.parents) for each in taken)]


def test_the_variables_that_belong_to_the_environment_only_are_in_the_readme() -> None:
    """They are in no sample file."""
    assert not [name for name in PLACE_VARIABLES if f"`{name}" not in README]


def test_the_sample_file_has_every_setting_with_its_default() -> None:
    """Whoever reads it reads them all; what it holds beside them would be refused."""
    assert dict(leaves_of(tomllib.loads(SAMPLE.read_text(encoding="utf-8")))) == SETTINGS


def test_the_sample_file_is_taken_as_it_is(tmp_path: Path) -> None:
    """Copied into a data directory it changes nothing."""
    (tmp_path / "tracebank.toml").write_bytes(SAMPLE.read_bytes())
    with_file, without = load_settings(tmp_path), load_settings(tmp_path / "empty")
    assert with_file.model_dump(exclude={"data_dir"}) == without.model_dump(exclude={"data_dir"})


def test_every_setting_is_explained_in_the_sample_file() -> None:
    """A remark stands above each group of lines."""
    explained = False
    for line in SAMPLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            explained = True
        elif not line.strip() or line.startswith("["):
            explained = False
        else:
            assert explained, line


def test_every_setting_has_a_description_in_the_code() -> None:
    """For whoever looks there."""
    models: list[type[BaseModel]] = [Settings]
    while models:
        for name, field in models.pop().model_fields.items():
            if isinstance(field.default, BaseModel):
                models.append(type(field.default))
                assert type(field.default).__doc__, name
            else:
                assert field.description, name
