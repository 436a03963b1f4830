"""Reading settings: flag > environment (TRACEBANK_…) > tracebank.toml > default, and what is said of one that is wrong.

`tracebank.toml` lies in the data directory, because what it says (model, index, caches) belongs to that directory.
Nested settings are reached from the environment with two underscores: TRACEBANK_RETRIEVAL__K=3.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_settings import SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as UnreadableVariable

from tracebank.errors import SettingsError
from tracebank.places import CONFIG_NAME, data_dir_at, default_data_dir
from tracebank.settings.sections import Settings

# How like the name of a section one must be to be taken for it, misspelt.
NEARLY = 0.75


def load_settings(data_dir: Path | None = None, **flags: Any) -> Settings:
    """Return the settings of a data directory. `flags` win over everything else.

    Raises: SettingsError, naming the setting, its value and where to change it.
    """
    directory = Path(data_dir_at(str(data_dir)) if data_dir else default_data_dir())
    file = directory / CONFIG_NAME

    class SettingsOfDirectory(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    if file.is_dir():
        raise SettingsError(f"{file} is a directory: move it away, or put a file there")
    wrong = _unknown_sections()
    try:
        settings = SettingsOfDirectory(data_dir=directory, **flags)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} is not valid TOML: {error}") from error
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise SettingsError(f"{file}, or a variable that begins with TRACEBANK_, has too many brackets within each other") from error
    except UnreadableVariable as error:
        raise SettingsError(f"{error}: write it as JSON, or set its parts, such as TRACEBANK_RETRIEVAL__K=3") from error
    except ValidationError as error:
        raise SettingsError("; ".join([*wrong, *(_explain(item, file) for item in error.errors())])) from error
    if wrong:
        raise SettingsError("; ".join(wrong))
    return settings


def said_in_vain(data_dir: Path) -> list[str]:
    """Return what the file of a data directory says without any effect, for `doctor`. The file can be read (see `load_settings`)."""
    file = data_dir / CONFIG_NAME
    if not file.exists() or "data_dir" not in tomllib.loads(file.read_text(encoding="utf-8")):
        return []
    return [f"data_dir in {file} has no effect, because that is where the file lies: take it out, and set TRACEBANK_DATA_DIR"]


def _unknown_sections() -> list[str]:
    """Return what is wrong with variables of sections that there are nearly: others are a plug-in's, or some other program's."""
    names = sorted(name for name in os.environ if name.upper().startswith("TRACEBANK_") and "__" in name)
    sections = ", ".join(sorted(_sections()))
    return [
        f"setting {section}: there is no such section (it is in {name}); the sections are {sections}"
        for name in names
        if (section := name.lower().removeprefix("tracebank_").partition("__")[0]) not in _sections()
        and (section in Settings.model_fields or difflib.get_close_matches(section, _sections(), n=1, cutoff=NEARLY))
    ]


def _explain(item: Any, file: Path) -> str:
    location: tuple[str | int, ...] = item["loc"]
    name = ".".join(str(part) for part in location)
    variable = _variable(location)
    if item["type"] == "extra_forbidden":
        return f"setting {name}: there is no such setting: take it out of {variable} or {file}"
    problem = item["msg"].removeprefix("Value error, ")
    if item["type"] == "missing":
        return f"setting {name}: {problem} (set it in {variable} or {file})"
    if _may_hold_a_key(location, item["input"]):
        return f"setting {name}: {problem} (set in {variable} or {file}; what it is now is not shown, because it may hold a key)"
    return f"setting {name}: {problem}, not {item['input']!r} (set in {variable} or {file})"


def _variable(location: tuple[str | int, ...]) -> str:
    """Return the variable of a setting. What lies deeper (an entry of a list, a form that was tried) has none of its own."""
    return "TRACEBANK_" + "__".join(str(part).upper() for part in location[: 2 if location[0] in _sections() else 1])


def _sections() -> set[str]:
    return {name for name, field in Settings.model_fields.items() if isinstance(field.default, BaseModel)}


def _may_hold_a_key(location: tuple[str | int, ...], value: object) -> bool:
    """Return whether a value is not to be repeated: of providers all but numbers, wherever in them people put a key by mistake."""
    return (location == ("llm",) or location[:2] == ("llm", "providers")) and not isinstance(value, int | float)
