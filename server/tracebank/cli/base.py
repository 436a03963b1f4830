"""The application, what makes a function one of its commands, and what commands share."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import sys
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Annotated, Any

import typer
from rich.console import Console

from tracebank.errors import TracebankError
from tracebank.places import DATA_DIR_VARIABLE

app = typer.Typer(
    help="A long-term reasoning memory for AI agents. Started by a client, with its standard input connected, it serves MCP over stdio.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# UTF-8 on every pipe, whatever the console thinks: what is piped is piped into another of these.
for stream in (sys.stdin, sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(encoding="utf-8", errors="surrogateescape" if stream is sys.stdin else "backslashreplace")
out, err = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)

# All but tab and line feed.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

NamespaceOption = Annotated[str | None, typer.Option("--namespace", "-n", help="The namespace; default: the setting.")]
OnlyNamespaceOption = Annotated[str | None, typer.Option("--namespace", "-n", help="Only this one; default: all.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@app.callback()
def main(
    data_dir: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Where everything is kept; default: TRACEBANK_DATA_DIR, else the platform's place."),
    ] = None,
) -> None:
    """Set what all commands share."""
    if data_dir is not None:
        if not data_dir.strip():
            raise typer.BadParameter("must not be empty: name a directory, or leave it out", param_hint="--data-dir")
        # Read as the variable is: some shells leave the tilde of --data-dir=~/x where it stands.
        os.environ[DATA_DIR_VARIABLE] = data_dir


def command(function: Callable[..., Coroutine[Any, Any, int | None]]) -> Callable[..., None]:
    """Make an async function a command: its errors become one line, its number the exit status."""

    @app.command(name=function.__name__.rstrip("_"))
    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            code = asyncio.run(function(*args, **kwargs)) or 0
            sys.stdout.flush()
        except TracebankError as error:
            print(f"tracebank: {error}", file=sys.stderr)
            code = 1
        except (KeyboardInterrupt, asyncio.CancelledError):
            code = 130
        except BrokenPipeError:
            # The reader of our output has left (`tracebank export | head`): that is no error of ours.
            code = 0
        except OSError as error:
            # Most often the disk that our output goes to is full.
            print(f"tracebank: {error}", file=sys.stderr)
            code = 1
        # The engine is closed; threads of libraries that are still loading a model must not keep the shell waiting.
        os._exit(code)

    return run


def plain(text: object) -> str:
    """Return a text from a memory as a terminal may have it: what would move its cursor or colour it is shown and not done."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", str(text))


def counted(number: int, noun: str) -> str:
    """Return how many there are of something: "1 trace", "2 traces"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def show_json(value: object) -> None:
    """Print a value for programs."""
    print(json.dumps(value, ensure_ascii=False))
