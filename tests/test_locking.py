"""One engine per data directory, by a lock that goes with its holder."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tracebank.errors import DataDirError, DataDirLockedError
from tracebank.locking import LOCK_NAME, DataDirLock, FileLock, holder_of, pid_space

HOLDER = """
import os, sys
from tracebank.locking import DataDirLock
lock = DataDirLock(sys.argv[1])
lock.acquire({"pid": os.getpid(), "version": "9"})
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of `tmp_path`."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_holder_is_told_who_the_first_is(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    """And what to do about it."""
    with pytest.raises(DataDirLockedError) as caught:
        DataDirLock(tmp_path).acquire({"pid": os.getpid()})
    assert str(caught.value) == (
        f"{tmp_path} is in use by process {holder.pid}: end it with `tracebank stop`, or set TRACEBANK_DATA_DIR to another directory"
    )


def test_everybody_can_read_who_holds_it(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    """Without taking it."""
    assert holder_of(tmp_path) == {"pid": holder.pid, "version": "9"}
    assert holder_of(tmp_path) == {"pid": holder.pid, "version": "9"}


def test_the_lock_is_free_when_its_holder_was_killed(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    """No stale lock has ever to be removed by hand."""
    holder.kill()
    holder.wait()
    assert holder_of(tmp_path) is None
    lock = DataDirLock(tmp_path)
    lock.acquire({"pid": os.getpid()})
    assert holder_of(tmp_path) == {"pid": os.getpid()}
    lock.release()
    assert holder_of(tmp_path) is None


def test_one_process_cannot_hold_it_twice(tmp_path: Path) -> None:
    """Two engines in one process would be as bad as in two."""
    first, second = DataDirLock(tmp_path), DataDirLock(tmp_path)
    first.acquire({"pid": 1})
    with pytest.raises(DataDirLockedError):
        second.acquire({"pid": 2})
    first.release()
    second.acquire({"pid": 2})
    second.release()


def test_releasing_leaves_the_file_and_may_be_repeated(tmp_path: Path) -> None:
    """Removing it would let two hold a lock of the same name."""
    lock = DataDirLock(tmp_path)
    lock.acquire({"pid": 1})
    lock.release()
    lock.release()
    assert (tmp_path / LOCK_NAME).exists()


def test_the_file_is_for_its_owner_alone_and_holds_the_last_holder(tmp_path: Path) -> None:
    """A shorter text leaves nothing of a longer one before."""
    for about in ({"pid": 1, "note": "x" * 100}, {"pid": 2}):
        lock = DataDirLock(tmp_path)
        lock.acquire(about)
        lock.release()
    assert json.loads((tmp_path / LOCK_NAME).read_text()) == {"pid": 2}
    assert (tmp_path / LOCK_NAME).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00\x01"])
def test_a_holder_that_wrote_nonsense_is_unknown(tmp_path: Path, text: str) -> None:
    """It is still a holder."""
    lock = DataDirLock(tmp_path)
    lock.acquire({"pid": 1})
    (tmp_path / LOCK_NAME).write_text(text)
    assert holder_of(tmp_path) == {}
    with pytest.raises(DataDirLockedError, match=r"in use by process \(unknown\)"):
        DataDirLock(tmp_path).acquire({"pid": 2})
    lock.release()


def test_a_directory_that_is_not_there_cannot_be_locked(tmp_path: Path) -> None:
    """It has to be made before; nobody holds it."""
    assert holder_of(tmp_path / "absent") is None
    with pytest.raises(DataDirError, match="cannot be written: No such file or directory; set TRACEBANK_DATA_DIR"):
        DataDirLock(tmp_path / "absent").acquire({"pid": 1})


def test_a_full_disk_is_told_and_the_lock_given_back(small_disk: Path, ballast: Callable[[], None]) -> None:
    """The file can be made, but nothing can be written into it."""
    ballast()
    lock = DataDirLock(small_disk)
    with pytest.raises(DataDirError, match="cannot be written: No space left on device; free some space"):
        lock.acquire({"pid": 1})
    assert holder_of(small_disk) is None
    (small_disk / "ballast").unlink()
    lock.acquire({"pid": 1})
    lock.release()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the name is all that is known")
def test_a_host_that_is_called_otherwise_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """On some systems the name comes with the network."""
    before = pid_space()
    monkeypatch.setattr("socket.gethostname", lambda: "renamed")
    assert pid_space() == before


@pytest.mark.skipif(sys.platform == "win32", reason="flock is not what locks there")
@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """At once and by everybody who asks: nobody waits for what never comes, and no descriptor stays open."""

    def flock(descriptor: int, kind: int) -> None:
        raise OSError(code, os.strerror(code))

    descriptors = len(os.listdir("/dev/fd"))
    monkeypatch.setattr("fcntl.flock", flock)
    lock = FileLock(tmp_path / LOCK_NAME)
    for ask in (lock.wait, lock.try_acquire, lock.is_held, lambda: holder_of(tmp_path), lambda: DataDirLock(tmp_path).acquire({})):
        with pytest.raises(DataDirError, match=rf"{LOCK_NAME} cannot be locked: {os.strerror(code)}; set TRACEBANK_DATA_DIR"):
            ask()
    lock.close()
    assert len(os.listdir("/dev/fd")) == descriptors
