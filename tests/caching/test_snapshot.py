"""A cache on disk: all of it, or nothing."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tracebank.caching import Snapshot

ABOUT = {"version": "1"}
ROWS = [["a\u2028b\r\nc", 1.5], [{"nested": [None, True]}], "text"]
PLENTY = 100_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file will be."""
    return tmp_path / "cache" / "answers"


def test_what_was_written_is_read(path: Path) -> None:
    """In its order; a second time it takes the place of the first."""
    assert Snapshot(path).write(ABOUT, [["before"]], max_bytes=PLENTY) == 1
    assert Snapshot(path).write(ABOUT, ROWS, max_bytes=PLENTY) == 3
    assert Snapshot(path).read(ABOUT) == ROWS
    assert Snapshot(path).nbytes == path.stat().st_size


def test_it_is_its_owners_alone(path: Path) -> None:
    """Whatever the umask: it quotes memories."""
    Snapshot(path).write(ABOUT, ROWS, max_bytes=PLENTY)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_of_other_circumstances_it_is_empty(path: Path) -> None:
    """Another version, other settings."""
    Snapshot(path).write(ABOUT, ROWS, max_bytes=PLENTY)
    assert Snapshot(path).read({"version": "2"}) == []


def test_damaged_it_is_empty(path: Path) -> None:
    """Wherever a byte is wrong or missing; so is a file that is none, or not there."""
    assert Snapshot(path).read(ABOUT) == []
    Snapshot(path).write(ABOUT, ROWS, max_bytes=PLENTY)
    whole = path.read_bytes()
    for damaged in [whole[:-3], whole + b"[]\n", b"", b"\n", whole.replace(b"text", b"next"), b"\xff" + whole, b"[" * 99_999]:
        path.write_bytes(damaged)
        assert Snapshot(path).read(ABOUT) == []
    path.unlink()
    path.mkdir()
    assert Snapshot(path).read(ABOUT) == []


def test_it_keeps_to_its_bound(path: Path) -> None:
    """The first rows find room; where none does there is no file."""
    snapshot = Snapshot(path)
    assert snapshot.write(ABOUT, [["x" * 100]] * 50, max_bytes=1_000) == 8
    assert path.stat().st_size <= 1_000
    assert snapshot.read(ABOUT) == [["x" * 100]] * 8
    assert snapshot.write(ABOUT, [["x" * 100]], max_bytes=50) == 0
    assert not path.exists()


def test_a_deleted_file_leaves_nothing(path: Path) -> None:
    """Neither what a kill left of a draft; to delete what is not there is no error."""
    snapshot = Snapshot(path)
    snapshot.write(ABOUT, ROWS, max_bytes=PLENTY)
    path.with_suffix(".draft").write_bytes(b"half of a secret")
    snapshot.delete()
    snapshot.delete()
    assert list(path.parent.iterdir()) == []
