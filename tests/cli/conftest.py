"""The command line as a person or a script runs it: real processes, one engine for most tests."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The tests of the protocol and of the command line share their data directories' set-up.
sys.path.append(str(Path(__file__).parents[1] / "protocol"))

from homes import Home, home


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Return a home whose engine goes on running between the commands; it searches by words alone."""
    with home(tmp_path_factory.mktemp("shared")) as opened:
        yield opened


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Home]:
    """Return a home that does not exist yet, this test's own."""
    with home(tmp_path) as opened:
        yield opened


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> str:
    """Return a namespace that only this test uses."""
    return re.sub(r"\W+", "-", request.node.name)[:200].strip("-")
