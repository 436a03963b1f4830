"""What comes with the package for the front to answer where no engine has been yet: what one with default settings says.

Given only where the engine that is to come must say the same: without settings that may change an answer or be refused,
made by what is installed, and with no tools but our own. Standard library only: every client pays for it.
`protocol.shipping` is who writes.
"""

from __future__ import annotations

import json
import os
import sys

from tracebank import __version__, link

TYPE_CHECKING = False  # as in typing, which would cost every client 2 ms and 0.7 MB
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

FILE = os.path.join(os.path.dirname(__file__), "shipped.json")
# Those that have a say in what the engine answers, by what their metadata is called.
PACKAGES = ("mcp", "mcp_types", "pydantic")
# Settings that change no answer, and that no value of is wrong but the home of somebody unknown (~nobody): who has made a mistake is to
# hear of it at once.
HARMLESS_VARIABLES = ("TRACEBANK_EMBEDDING__CACHE_DIR", "TRACEBANK_EMBEDDING__MODEL", "TRACEBANK_EMBEDDING__REVISION")
TOOLS_SECTION = b"[tracebank.tools]"


def answers() -> dict[str, Any] | None:
    """Return the answers where an engine would give the same, else None. Raises: OSError, ValueError, KeyError, TypeError for garbage."""
    if not _plain(os.environ):
        return None
    with open(FILE, encoding="utf-8") as file:
        shipped: dict[str, Any] = json.load(file)
    here = made_with(sys.path)
    return shipped["answers"] if here is not None and shipped["made_with"] == here else None


def made_with(places: list[str]) -> dict[str, Any] | None:
    """Return what answers depend on, as it is installed; None where that cannot be told.

    Of versions the first two numbers: patches come out every other week, and what one may change in an answer is told from
    the second session on. Found as `importlib.metadata` does, which would take longer than all that a front does.
    """
    versions: dict[str, str] = {}
    tools: set[str] = set()
    for place in places:
        if place.endswith(".egg") or os.path.isfile(place):
            return None  # a form of packages that is not looked into here
        for package, version, entry_points in _distributions(place):
            if package in PACKAGES and versions.setdefault(package, version) != version:
                return None  # which of the two is imported is not ours to find out
            tools.update(_tools(entry_points))
    return {"tracebank": __version__, **{name: versions.get(name) for name in PACKAGES}, "tools": sorted(tools)}


def _plain(variables: Mapping[str, str]) -> bool:
    """Return whether no variable is a setting of consequence. Settings are read whatever the case of their names."""
    allowed = ("TRACEBANK_NAMESPACE", *HARMLESS_VARIABLES, *link.PLACE_VARIABLES)
    ours = {name.upper(): value for name, value in variables.items() if name.upper().startswith("TRACEBANK_")}
    return all(name in allowed and not (name in HARMLESS_VARIABLES and value.startswith("~")) for name, value in ours.items())


def _distributions(place: str) -> Iterator[tuple[str, str, bytes]]:
    """Yield name, version and entry points of what is installed in one place of the path."""
    try:
        names = os.listdir(place or ".")
    except OSError:
        return
    for name in names:
        if name.lower().endswith((".dist-info", ".egg-info")):
            package, _, version = name.rpartition(".")[0].lower().partition("-")
            try:
                with open(os.path.join(place, name, "entry_points.txt"), "rb") as file:
                    entry_points = file.read()
            except OSError:
                entry_points = b""
            yield package, ".".join(version.split(".")[:2]), entry_points


def _tools(entry_points: bytes) -> Iterator[str]:
    section = b""
    for line in map(bytes.strip, entry_points.splitlines()):
        if line.startswith(b"["):
            section = line
        elif section == TOOLS_SECTION and line and not line.startswith(b"#"):
            yield b"".join(line.split()).decode(errors="replace")
