"""doctor: what is wrong is told, and with --repair mended from the store. With the real model: it takes part in both."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from homes import NO_MODEL, Home, home

pytestmark = pytest.mark.slow

TRACES = [{"trace_id": f"t{n}", "task": f"Tune instrument number {n}", "lessons": ["Tighten slowly."]} for n in range(20)]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Return a home with a few traces, indexed, whose engine has ended."""
    with home(tmp_path_factory.mktemp("filled"), meaning=True) as opened:
        assert opened.run("import", "-", given="\n".join(map(json.dumps, TRACES)).encode()).code == 0
        examined = opened.run("doctor")
        assert examined.code == 0, examined
        assert all(line.startswith("ok ") for line in examined.out.splitlines())
        opened.run("stop")
        yield opened


def _delete(index: Path) -> None:
    shutil.rmtree(index)


def _garble(index: Path) -> None:
    for file in sorted(path for path in index.rglob("*") if path.is_file()):
        file.write_bytes(os.urandom(64) + b"garbage")


@pytest.mark.parametrize("damage", [_delete, _garble], ids=["deleted", "garbled"])
def test_an_index_that_is_lost_is_rebuilt_from_the_store(filled: Home, damage: Callable[[Path], None]) -> None:
    """Everything is found again, by words and by meaning, and the doctor finds nothing more."""
    filled.run("stop")
    damage(filled.data_dir / "index")
    repaired = filled.run("doctor", "--repair", "--json")
    assert repaired.code == 0, repaired
    findings = {finding["what"]: finding for finding in json.loads(repaired.out)}
    assert all(finding["well"] for finding in findings.values())
    assert findings["index of words, default"]["found"] == "40 of 40 chunks"
    # The lesson of all is one text.
    assert findings["index of vectors, default"]["found"] == "21 of 21 texts"
    found = json.loads(filled.run("search", "tune instrument number 7", "--json").out)
    assert found["results"][0]["trace_id"] == "t7"
    assert found["meaning"] is True
    assert json.loads(filled.run("search", "piano maintenance", "-k", "50", "--json").out)["results"]
    assert filled.run("doctor").code == 0


def test_where_there_is_no_advice_the_stats_say_so(filled: Home) -> None:
    """In a line, and not by an empty box."""
    assert filled.run("stats", "advice").out == "advice: none\n"


def test_a_model_that_cannot_be_loaded_is_told(shared: Home) -> None:
    """The exit status is 1, and what else was examined is told all the same."""
    shared.run("add", "Something to index")
    examined = shared.run("doctor", "--json")
    assert examined.code == 1
    findings = {finding["what"]: finding for finding in json.loads(examined.out)}
    assert findings["model"]["well"] is False
    assert NO_MODEL in findings["model"]["found"]
    assert findings["store"] == {"what": "store", "well": True, "found": "ok"}
    assert findings["disk"]["well"] is True
    shown = shared.run("doctor")
    assert shown.code == 1
    assert {line.split()[0] for line in shown.out.splitlines()} == {"ok", "bad"}
