"""Finding the tools: every package may offer some. A broken one is reported and never stops the server."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points

from tracebank.engine import Engine
from tracebank.errors import SettingsError
from tracebank.protocol.tools import ENTRY_POINT_GROUP, EngineTool, ToolSpec, build

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plugins:
    """The tools by name, what is wrong with those that could not be had, by entry point, and why some are withheld, by name."""

    tools: dict[str, EngineTool] = field(default_factory=dict)
    specs: dict[str, ToolSpec] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    withheld: dict[str, str] = field(default_factory=dict)

    def of(self, engine: Engine) -> Plugins:
        """Return the plug-ins as this engine offers them."""
        withheld = {name: why for name, spec in self.specs.items() if (why := self._withheld(name, spec, engine))}
        return replace(self, tools={name: tool for name, tool in self.tools.items() if name not in withheld}, withheld=withheld)

    def _withheld(self, name: str, spec: ToolSpec, engine: Engine) -> str:
        try:
            return spec.withheld(engine)
        except Exception as error:  # anything can go wrong in a stranger's code
            log.warning("the tool %s cannot say whether it is offered: %s", name, error)
            return f"{type(error).__name__}: {error}"

    def report(self) -> dict[str, object]:
        """Return what `stats` tells."""
        return {"tools": list(self.tools), "broken": dict(self.broken), "withheld": dict(self.withheld)}

    def chosen(self, names: tuple[str, ...]) -> list[EngineTool]:
        """Return the named tools, or all where none is named. Raises: SettingsError for a name that is none."""
        for name in names:
            if name in self.withheld:
                raise SettingsError(f"setting tools: {name} is not offered: {self.withheld[name]}")
            if name not in self.tools:
                raise SettingsError(f"setting tools: {name!r} is not a tool; the tools are {', '.join(self.tools)}")
        return [tool for name, tool in self.tools.items() if not names or name in names]


def load_plugins() -> Plugins:
    """Return the tools of all installed packages; Tracebank's own come first."""
    plugins = Plugins()
    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda e: (not e.value.startswith("tracebank_tools."), e.name)):
        try:
            spec, tool = _load(entry, plugins)
            plugins.tools[tool.name], plugins.specs[tool.name] = tool, spec
        except (Exception, SystemExit) as error:  # anything can go wrong in a stranger's code
            log.warning("the plug-in %s is broken: %s", entry.value, error)
            plugins.broken[entry.value] = f"{type(error).__name__}: {error}"
    return plugins


def _load(entry: EntryPoint, plugins: Plugins) -> tuple[ToolSpec, EngineTool]:
    spec = entry.load()
    if not isinstance(spec, ToolSpec):
        raise TypeError(f"must be a ToolSpec, not {type(spec).__name__}")
    tool = build(spec)
    if tool.name in plugins.tools:
        raise TypeError(f"there is already a tool named {tool.name}")
    return spec, tool
