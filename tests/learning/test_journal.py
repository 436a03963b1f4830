"""The journal: what was written is there after a kill, and what was stored is gone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tracebank.errors import DataDirError, StoreFullError
from tracebank.learning import Journal


def replayed(directory: Path) -> list[int]:
    """Return the numbers of the records that a new journal finds."""
    return [record["n"] for record in Journal(directory).replay()]


def test_records_come_back_in_their_order_over_all_segments(tmp_path: Path) -> None:
    """However they were written, and whatever characters are in them."""
    journal = Journal(tmp_path / "journal")
    for n in range(3):
        journal.append({"n": n, "text": "a\nb\u2028c\r\N{SNOWMAN}"})
        journal.rotate()
    journal.append({"n": 3})
    again = Journal(tmp_path / "journal")
    again.append({"n": 4})
    assert replayed(tmp_path / "journal") == [0, 1, 2, 3, 4]


def test_what_is_stored_is_dropped_and_what_came_since_is_not(tmp_path: Path) -> None:
    """A record that is written while others are being stored begins a segment of its own."""
    journal = Journal(tmp_path / "journal")
    journal.append({"n": 0})
    ended = journal.rotate()
    journal.append({"n": 1})
    journal.drop(ended)
    assert replayed(tmp_path / "journal") == [1]
    journal.drop(journal.rotate())
    assert list((tmp_path / "journal").iterdir()) == []


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path: Path) -> None:
    """It was never acknowledged; the ones before it were. Damage in the middle costs that line alone."""
    journal = Journal(tmp_path / "journal")
    journal.append({"n": 0})
    (segment,) = journal.rotate()
    with segment.open("ab") as file:
        file.write(b'garbage\n{"n": 1}\n{"n": 2')
    assert replayed(tmp_path / "journal") == [0, 1]


def test_a_full_disk_is_told_and_leaves_nothing_half_written(small_disk: Path) -> None:
    """What was there before is there afterwards, and writing goes on when there is room again."""
    journal = Journal(small_disk / "journal")
    journal.append({"n": 0})
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space left"):
        ballast.write_bytes(bytes(8 * 1_048_576))
    with pytest.raises(StoreFullError, match="nothing of this call was stored"):
        journal.append({"n": 1, "text": "x" * 20_000})
    ballast.unlink()
    journal.append({"n": 2})
    assert replayed(small_disk / "journal") == [0, 2]


def test_files_of_others_in_the_directory_are_left_alone(tmp_path: Path) -> None:
    """Only our own names are read and deleted; ours are for their owner alone."""
    directory = tmp_path / "journal"
    directory.mkdir()
    (directory / "notes.jsonl").write_text("mine\n")
    journal = Journal(directory)
    journal.append({"n": 0})
    (segment,) = journal.rotate()
    assert segment.stat().st_mode & 0o777 == 0o600
    journal.drop((segment,))
    assert os.listdir(directory) == ["notes.jsonl"]


def test_a_journal_that_cannot_be_is_told_by_name(tmp_path: Path) -> None:
    """Such as where a file is in its place."""
    (tmp_path / "journal").write_text("")
    with pytest.raises(DataDirError, match="cannot be used for the journal of steps"):
        Journal(tmp_path / "journal")
