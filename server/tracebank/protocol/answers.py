"""What the front may answer before its engine is up: written down by asking our own server, in every protocol version."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
from mcp.server.mcpserver import MCPServer
from mcp.types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_MODERN_VERSION

from tracebank.engine import Session
from tracebank.protocol.session import Reading, serve

CLIENT = {"name": "tracebank", "version": "1"}


class _Script:
    """A client that says its lines and then waits until it has all answers."""

    def __init__(self, messages: list[dict[str, Any]]) -> None:
        self._left = [json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n" for message in messages]
        self._wanted = sum("id" in message for message in messages)
        self.results: list[Any] = []
        self._complete = anyio.Event()

    async def read(self, n: int) -> bytes:
        if self._left:
            return self._left.pop(0)
        await self._complete.wait()
        return b""

    async def write(self, line: bytes) -> None:
        self.results.append(json.loads(line).get("result"))
        if len(self.results) == self._wanted:
            self._complete.set()


async def early_answers(server: MCPServer[Session], session: Session) -> dict[str, Any]:
    """Return the results of the first calls that clients make, by protocol version and era."""
    initialize, legacy_tools = {}, None
    for version in HANDSHAKE_PROTOCOL_VERSIONS:
        params = {"protocolVersion": version, "capabilities": {}, "clientInfo": CLIENT}
        initialized = {"method": "notifications/initialized"}
        script = _Script([{"id": 1, "method": "initialize", "params": params}, initialized, {"id": 2, "method": "tools/list"}])
        await serve(server, session, Reading(script), script.write)
        initialize[version], legacy_tools = script.results
    envelope = {"protocolVersion": LATEST_MODERN_VERSION, "clientInfo": CLIENT, "clientCapabilities": {}}
    meta = {"_meta": {f"io.modelcontextprotocol/{key}": value for key, value in envelope.items()}}
    modern = {}
    for method in ("server/discover", "tools/list"):
        script = _Script([{"id": 1, "method": method, "params": meta}])
        await serve(server, session, Reading(script), script.write)
        (modern[method],) = script.results
    return {"initialize": initialize, "legacy": {"tools/list": legacy_tools}, "modern": modern}


def write_down(path: Path, answers: Mapping[str, Any]) -> None:
    """Write the answers where the front looks for them, all at once; those of other versions and settings go."""
    text = json.dumps(answers, ensure_ascii=False)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for other in path.parent.parent.iterdir():
        if other != path.parent:
            shutil.rmtree(other, ignore_errors=True)
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
