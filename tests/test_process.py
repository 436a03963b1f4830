"""What every process that runs an engine does."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from tracebank.process import keep_what_came_up

pytestmark = pytest.mark.anyio


async def test_the_collector_no_longer_looks_through_what_came_up() -> None:
    """Once everything has; before, there would be little to leave out."""
    # A test before this one may have left something out.
    gc.unfreeze()
    warm = asyncio.Event()
    keeping = asyncio.create_task(keep_what_came_up(warm))
    await asyncio.sleep(0)
    assert gc.get_freeze_count() == 0
    warm.set()
    try:
        await keeping
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()


class Part:
    """Something that refers to itself."""

    def __init__(self) -> None:
        self.self = self


# Connections that Chroma's client left open in another test may be collected here.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_what_died_while_the_collector_was_off_is_not_kept_for_good() -> None:
    """What was imported is left out until all has come up, and looked through once then."""
    gc.disable()
    gone = weakref.ref(Part())
    gc.freeze()
    gc.enable()
    warm = asyncio.Event()
    warm.set()
    try:
        assert gone() is not None
        await keep_what_came_up(warm)
        assert gone() is None
    finally:
        gc.unfreeze()


def python(code: str, **variables: str) -> str:
    """Return what a process writes to standard error."""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, encoding="utf-8", timeout=60, check=False
    )
    return done.stderr


def test_the_engines_process_imports_with_the_collector_off_and_works_with_it_on(tmp_path: Path) -> None:
    """What is imported stays; what comes then may have to go."""
    code = """
import gc, os, runpy, sys
off = []
class Watch:
    def find_spec(self, name, *_):
        if name == "tracebank.engine":
            off.append(not gc.isenabled())
sys.meta_path.insert(0, Watch())
os._exit = lambda code: print(off, gc.isenabled(), gc.get_freeze_count() > 10_000, file=sys.stderr)
runpy.run_module("tracebank.daemon", run_name="__main__")
"""
    said = python(code, TRACEBANK_DATA_DIR=str(tmp_path), TRACEBANK_RETRIEVAL__K="0")
    assert said.strip().splitlines()[-1] == "[True] True True"


def test_matrix_products_stay_in_one_thread_of_the_engine(tmp_path: Path) -> None:
    """Threads that spin after a product would be in the way of the model's; who sets the variable gets what it says."""
    code = """
import os, runpy, sys
def told(code):
    from threadpoolctl import threadpool_info
    print([pool["num_threads"] for pool in threadpool_info() if "openblas" in pool["internal_api"]], file=sys.stderr)
os._exit = told
runpy.run_module("tracebank.daemon", run_name="__main__")
"""
    for variables, threads in (({}, 1), ({"OPENBLAS_NUM_THREADS": "2"}, 2)):
        said = python(code, TRACEBANK_DATA_DIR=str(tmp_path), TRACEBANK_RETRIEVAL__K="0", **variables)
        pools = json.loads(said.strip().splitlines()[-1])
        assert set(pools) <= {threads}, said


def test_an_engine_that_comes_up_has_not_loaded_what_few_prompts_need() -> None:
    """Lexers, and what the SDK would log with, take a tenth of a second each; and whoever imports the module keeps their collector."""
    code = """
import gc, sys, tracebank.daemon
tracebank.daemon.build_server([])
print(*[name for name in sys.modules if name.startswith(("pygments.lexer", "rich"))], gc.isenabled(), file=sys.stderr)
"""
    assert python(code).split() == ["True"]
