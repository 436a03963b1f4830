"""What a front answers before its engine is there: what an engine of the same version and settings wrote down, or what comes with us.

Standard library only: every client pays for it. `protocol.answers` is who writes.
"""

from __future__ import annotations

import json
import os
import zlib

from tracebank import __version__, link, shipped
from tracebank.places import CONFIG_NAME

TYPE_CHECKING = False  # as in typing, which would cost every client 2 ms and 0.7 MB
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

METHODS = ("initialize", "server/discover", "tools/list")
# By this a call of the modern era says its version.
VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
ANSWERS_DIR = "answers"
# So much of a choice of tools stands in the name of its file, for people; what follows tells it from all others.
READABLE_CHARS = 60


def settings_mark(data_dir: str, variables: Mapping[str, str]) -> str:
    """Return what tells the settings that hold now from others: those of the directory's file and those of the environment.

    `variables` are those of the environment that are settings: one of them may bring a language model, and a tool with it.
    """
    try:
        about = os.stat(os.path.join(data_dir, CONFIG_NAME))
        mark = f"{about.st_mtime_ns:x}-{about.st_size:x}"
    except OSError:
        mark = "default"
    if variables:
        text = "\0".join(f"{name}={value}" for name, value in sorted(variables.items()))
        mark += f"-{zlib.crc32(text.encode(errors='surrogateescape')):08x}"
    return mark


def answers_path(data_dir: str, tools: str | None, settings: str) -> str:
    """Return where the early answers for clients with this choice of tools are, for this version and what marks the settings."""
    choice = "+setting"  # no choice: what the settings say; an empty one is all tools
    if tools is not None:
        readable = "".join(c if c.isalnum() or c == "_" else "-" for c in tools)[:READABLE_CHARS]
        choice = f"{readable}-{zlib.crc32(tools.encode(errors='surrogateescape')):08x}"
    return os.path.join(data_dir, ANSWERS_DIR, f"{__version__}-{settings}", f"{choice}.json")


def written_down(data_dir: str, message: dict[str, Any]) -> Any:
    """Return the result for a call of one of METHODS, or None where it is not known."""
    params = message.get("params")
    params = params if isinstance(params, dict) else {}
    if params.get("cursor") is not None:
        return None
    try:
        meta = params.get("_meta") or {}
        answers, method, modern = _answers(data_dir), message["method"], VERSION_KEY in meta
        if method == "initialize":
            return answers["initialize"].get(params.get("protocolVersion"))
        if not modern:
            return answers["legacy"].get(method)
        # Asked in the only version of its era that the engine knew.
        return answers["modern"].get(method) if answers["modern"]["server/discover"]["supportedVersions"] == [meta[VERSION_KEY]] else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def reading_tools(data_dir: str) -> set[str]:
    """Return the names of the tools that change nothing, as they say of themselves; none where that is not known."""
    try:
        tools = _answers(data_dir)["legacy"]["tools/list"]["tools"]
        return {tool["name"] for tool in tools if (tool.get("annotations") or {}).get("readOnlyHint") is True}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def _answers(data_dir: str) -> Any:
    path = answers_path(data_dir, link.client_variable("TRACEBANK_TOOLS"), settings_mark(data_dir, link.settings_variables()))
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return shipped.answers() if _is_new(data_dir) else None


def _is_new(data_dir: str) -> bool:
    """Return whether no engine has been there, which may have settings of its own, none are there to come, and one can be made.

    Where it cannot the client is to hear so at once.
    """
    if any(os.path.lexists(os.path.join(data_dir, name)) for name in (ANSWERS_DIR, CONFIG_NAME, link.ADDRESS_NAME)):
        return False
    # Whoever starts the engine would make it in the same moment.
    os.makedirs(data_dir, mode=0o700, exist_ok=True)
    return os.access(data_dir, os.W_OK)
