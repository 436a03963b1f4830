"""The command line: the tools for a person. Tables and text on a terminal, JSON with --json.

Results go to standard output, everything else to standard error; an error is one line and a non-zero exit.
"""

from tracebank.cli import transfer, memories, upkeep, process  # isort: skip - in the order of the help
from tracebank.cli.base import app

__all__ = ["app", "memories", "process", "transfer", "upkeep"]
