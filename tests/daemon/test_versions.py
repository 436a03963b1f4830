"""An upgrade while clients run: engines and stores of other versions."""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing

import pytest
from clients import HELLO, Client, Era, RefusedError
from places import Place, wait_for_exit

from tracebank import __version__
from tracebank.store.schema import MIGRATIONS

OF_VERSION = "import tracebank; tracebank.__version__ = {!r}"
OLD_FRONT = [sys.executable, "-c", f"{OF_VERSION.format('0.0.9')}; from tracebank import front; front.main()"]


def test_an_engine_of_an_older_version_is_replaced(here: Place, era: Era) -> None:
    """By the first newer front; the clients of the old one go on with the new one."""
    here.sabotage(OF_VERSION.format("0.0.9"))
    with Client(here, era, command=OLD_FRONT) as before, Client(here, era, command=OLD_FRONT) as waiting:
        before.greet().add("by the old engine")
        waiting.greet().add("before the upgrade")
        assert here.status()["version"] == "0.0.9"
        engine = here.engine
        here.make_peace()
        with Client(here, era) as after:
            after.greet().add("by the new engine")
            assert wait_for_exit(engine)
            assert here.status()["version"] == __version__
            # The old front does not ask the newer engine to leave.
            replaced = here.engine
            before.add_again("by the old front")
            waiting.add_again("after the upgrade")
            assert here.engine == replaced
            assert here.status()["sessions"] == 3
    assert len(here.exported()) == 5
    assert len(here.starts) == 2


def test_many_newer_fronts_at_once_replace_an_older_engine_once(here: Place) -> None:
    """None of them asks the new engine to leave."""
    here.sabotage(OF_VERSION.format("0.0.9"))
    with Client(here, command=OLD_FRONT) as client:
        client.greet().add("old")
    here.make_peace()
    clients = [Client(here) for _ in range(8)]
    for number, client in enumerate(clients):
        client.greet().add(f"t{number}")
    assert here.status()["sessions"] == 8
    assert {client.close() for client in clients} == {0}
    assert len(here.exported()) == 9
    assert len(here.starts) == 2


def test_an_older_version_that_is_what_is_installed_is_accepted_in_the_end(here: Place) -> None:
    """After a downgrade a front that still runs is newer than any engine it can start: it tries once."""
    here.sabotage(OF_VERSION.format("0.0.9"))
    with Client(here) as client:
        client.greet().add("t")
        assert here.status()["version"] == "0.0.9"
    assert len(here.starts) == 2


def test_a_newer_engine_is_accepted(here: Place) -> None:
    """By clients and command line: it speaks the same protocol."""
    here.sabotage(OF_VERSION.format("9.0.1"))
    with Client(here) as client:
        client.greet().add("t")
        assert here.status()["version"] == "9.0.1"
        assert here.exported() == {"t"}
    assert len(here.starts) == 1


def test_a_store_of_a_newer_schema_is_refused_and_left_as_it_is(here: Place) -> None:
    """By clients and command line, with what to do; an older Tracebank must not touch what it does not know."""
    here.expected_errors.append("has schema version")
    assert here.run("add", "a task", "--id", "t").returncode == 0
    assert here.run("stop").returncode == 0
    store = here.data_dir / "tracebank.sqlite3"
    with closing(sqlite3.connect(store)) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    content = store.read_bytes()
    message = f"has schema version {len(MIGRATIONS) + 1}, and this Tracebank knows {len(MIGRATIONS)}: it was written by a newer Tracebank"
    with Client(here) as client, pytest.raises(RefusedError, match=message) as refused:
        client.request("initialize", HELLO)
    assert not refused.value.retry
    done = here.run("search", "a task")
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert store.read_bytes() == content
    assert json.loads(here.run("status", "--json").stdout)["running"] is False
