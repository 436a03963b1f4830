"""Real fronts and engines, in a data directory of each test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import ERAS, Era
from places import Place, place


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    """Return a place of this test's own, where nothing goes wrong that the test does not arrange."""
    with place(tmp_path) as opened:
        yield opened
    assert not opened.complaints()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Return the place that the tests of a module share."""
    with place(tmp_path_factory.mktemp("shared")) as opened:
        yield opened
    assert not opened.complaints()


@pytest.fixture(params=ERAS)
def era(request: pytest.FixtureRequest) -> Era:
    """Return each era of the protocol in turn."""
    chosen: Era = request.param
    return chosen
