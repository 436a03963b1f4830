"""Writing what comes with the package for fronts to answer in a new directory.

    python -m tracebank.protocol.shipping

Asks an engine with default settings, in a directory of its own. `tracebank.shipped` is who reads.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tracebank import shipped
from tracebank.engine import Engine
from tracebank.process import leave
from tracebank.protocol.answers import early_answers
from tracebank.protocol.plugins import load_plugins
from tracebank.protocol.server import build_server
from tracebank.settings import Settings


async def _answers() -> dict[str, Any]:
    plugins = load_plugins()
    # What the engine still does in its background has no use any more, and may go on writing.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        # Constructed as it is: whoever runs this has settings in the environment, perhaps.
        async with Engine.open(Settings.model_construct(data_dir=Path(home))) as engine:
            server = build_server(plugins.of(engine).chosen(()))
            return await early_answers(server, engine.session())


def main() -> None:
    """Write the file, where it says something else by now."""
    contents = {"made_with": shipped.made_with(sys.path), "answers": asyncio.run(_answers())}
    text = json.dumps(contents, ensure_ascii=False, indent=1) + "\n"
    file = Path(shipped.FILE)
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")
        print(f"{file} is written anew", flush=True)
    leave(0)


if __name__ == "__main__":
    main()
