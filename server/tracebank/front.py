"""The command `tracebank`. Connected to a client it serves MCP over stdio; otherwise it is the command line."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command."""
    if len(sys.argv) == 1 and not sys.stdin.isatty():
        from tracebank.daemon import serve_one_client

        serve_one_client()
    else:
        from tracebank.cli import app

        app()
