"""What every client pays for: the front imports nothing but the standard library, and little of that."""

from __future__ import annotations

import json
import subprocess
import sys

from clients import Client
from places import Place

OWN = {f"tracebank{module}" for module in ("", ".early", ".errors", ".front", ".link", ".locking", ".places", ".shipped")}
# Slow to import, or a sign that something heavy came along.
HEAVY = {"asyncio", "dataclasses", "inspect", "logging", "pathlib", "pydantic", "ssl", "typing", "typing_extensions", "urllib", "uuid"}

WHAT_IT_HAS = """
import sys
before = set(sys.modules)
import io, json, os
from tracebank import front
os._exit = lambda code: print(json.dumps(sorted(set(sys.modules) - before)), file=sys.stderr) or sys.exit(code)
front.main()
"""


def imported(here: Place, *, connected: bool) -> set[str]:
    """Return the modules that a front has at its end, after it has started its engine or was connected to another's."""
    if connected:
        with Client(here) as other:
            other.greet()
    with Client(here, command=[sys.executable, "-c", WHAT_IT_HAS]) as client:
        client.greet().add("t")
        client.close()
        return set(json.loads(client.errors))


def test_a_front_with_an_engine_imports_only_its_own_modules_and_light_ones(here: Place) -> None:
    """The usual case; every module costs start-up time and memory of every client."""
    modules = imported(here, connected=True)
    assert {name for name in modules if name.startswith("tracebank")} == OWN
    assert not {name for name in modules if name.split(".")[0] not in sys.stdlib_module_names} - OWN
    assert not modules & HEAVY
    assert "subprocess" not in modules


def test_a_front_that_starts_its_engine_imports_only_the_standard_library(here: Place) -> None:
    """A little more of it."""
    modules = imported(here, connected=False)
    assert not {name for name in modules if name.split(".")[0] not in sys.stdlib_module_names} - OWN
    assert not modules & (HEAVY - {"typing"})


def test_finding_the_default_directory_imports_no_more_than_platformdirs() -> None:
    """Where no data directory is named."""
    code = (
        "import sys; from tracebank import places; before = set(sys.modules); places.default_data_dir(); print(*set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"HOME": "/nowhere"})
    assert {name.split(".")[0] for name in done.stdout.split()} - set(sys.stdlib_module_names) <= {"platformdirs"}
