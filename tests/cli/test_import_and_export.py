"""import and export: JSON Lines in and out, the same form both ways, nothing lost and nothing made up."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from clients import COMMAND, WAIT_S
from homes import Home, home

from tracebank.cli.output import writing

LEAST = {"trace_id": "least", "namespace": "default", "task": "Nothing else", "outcome": "unknown", "occurred_at": "2026-01-01T00:00:00Z"}
EVERYTHING = {
    "trace_id": "größe/日本 100%",
    "namespace": "another",
    "task": "Every field 🦖",
    "content": "two\nlines \u2028 and <tags>",
    "outcome": "partial",
    "lessons": ["A rule.", {"title": "T", "description": "D", "content": "C"}],
    "tags": ["a", "b"],
    "parent_id": "least",
    "occurred_at": "2026-01-01T00:00:00.123Z",
    "metadata": {"n": 1, "x": 0.5, "b": False, "s": "ü"},
}
LIKE_JSON = {**LEAST, "trace_id": "json", "task": "{}", "content": '{"a": 1}', "occurred_at": "1950-06-01T00:00:00Z"}
TRACES: list[dict[str, Any]] = [LEAST, EVERYTHING, LIKE_JSON]


def lines_of(traces: list[dict[str, Any]]) -> bytes:
    """Return JSON Lines."""
    return "".join(json.dumps(trace, ensure_ascii=False) + "\n" for trace in traces).encode()


def traces_of(export: str) -> list[dict[str, Any]]:
    """Return the traces of an export. Only a line feed ends a line: content may hold what else Unicode has for it."""
    return [json.loads(line) for line in export.split("\n") if line]


def said(errors: str) -> str:
    """Return what was said without the breaks between lines."""
    return " ".join(errors.split())


def test_an_export_has_the_form_that_import_takes(fresh: Home, tmp_path: Path) -> None:
    """Into an empty directory it makes the same memory: the export there is the same, byte by byte."""
    imported = fresh.run("import", "-", given=lines_of(TRACES))
    assert imported.code == 0
    assert said(imported.errors).startswith("3 traces imported and searchable (by words alone: ")
    export = fresh.run("export")
    assert (export.code, export.errors) == (0, "")
    assert traces_of(export.out) == TRACES
    with home(tmp_path / "second") as second:
        assert second.run("import", "-", given=export.out.encode()).code == 0
        assert second.run("export").out == export.out


def test_a_mark_before_the_text_is_no_part_of_it(shared: Home, tmp_path: Path, namespace: str) -> None:
    """Some editors put one at the beginning of a file; within a text it stays."""
    first, second = tmp_path / "marked.jsonl", tmp_path / "also marked.jsonl"
    for file in (first, second):
        file.write_bytes(b"\xef\xbb\xbf" + json.dumps({"task": "a \ufeff mark", "trace_id": f"of {file.stem}"}).encode())
    assert shared.run("import", str(first), str(second), "--namespace", namespace).code == 0
    found = traces_of(shared.run("export", "--namespace", namespace).out)
    assert [(trace["trace_id"], trace["task"]) for trace in found] == [("of marked", "a \ufeff mark"), ("of also marked", "a \ufeff mark")]


def test_importing_again_changes_nothing(shared: Home, tmp_path: Path, namespace: str) -> None:
    """A script may be run twice."""
    file = tmp_path / "traces.jsonl"
    file.write_bytes(lines_of([{**trace, "namespace": namespace} for trace in TRACES]))
    first = shared.run("import", str(file))
    exported = shared.run("export", "-n", namespace).out
    second = shared.run("import", str(file))
    assert (first.code, second.code) == (0, 0)
    assert second.errors == first.errors
    assert shared.run("export", "-n", namespace).out == exported
    assert len(traces_of(exported)) == len(TRACES)


def test_what_was_imported_is_found_as_soon_as_import_returns(shared: Home, namespace: str) -> None:
    """It returns when all is searchable."""
    traces = [{"task": f"Count puffins in bay {number}", "trace_id": f"p{number}"} for number in range(300)]
    assert shared.run("import", "-", "--namespace", namespace, given=lines_of(traces)).code == 0
    found = json.loads(shared.run("search", "puffins in bay 299", "-n", namespace, "--json").out)["results"]
    assert found[0]["trace_id"] == "p299"


def test_bad_lines_are_told_by_number_and_the_others_go_in(shared: Home, tmp_path: Path, namespace: str) -> None:
    """Blank lines are none; numbers are those of an editor; the exit status is 1."""
    file = tmp_path / "some bad.jsonl"
    lines = [
        b'{"task": "good", "trace_id": "g1"}',
        b"",
        b"{nope",
        b"[1]",
        b'{"task": "a", "titel": 1}',
        b'{"content": "no task"}',
        rb'{"task": "half \ud800"}',
        b'{"task": "no UTF-8 \xff"}',
        json.dumps({"task": "x" * 8_001}).encode(),
        b'{"task": "a", "k": ' + b"[" * 10_000,
        b'  {"task": "good", "trace_id": "g2"}\r',
    ]
    file.write_bytes(b"\n".join(lines))
    done = shared.run("import", str(file), "-n", namespace)
    assert done.code == 1
    told = done.errors.splitlines()
    for number, problem in (
        (3, "is not valid JSON: "),
        (4, "must be a JSON object, not [1]"),
        (5, "'titel': is not a field of a trace; the fields are content, lessons, metadata, "),
        (6, "task: is required: say what was attempted, or when this memory applies"),
        (7, "task: has a lone surrogate"),
        (8, "is not UTF-8: convert the file"),
        (9, "task: must be at most 8,000 characters, not 8,001: shorten it"),
        (10, "is not valid JSON: "),
    ):
        (line,) = [line for line in told if line.startswith(f"tracebank: {file}, line {number}: ")]
        assert problem in line
    assert "2 traces imported and searchable" in said(done.errors)
    assert said(done.errors).endswith("; 8 lines were not")
    assert "Traceback" not in done.errors
    assert [trace["trace_id"] for trace in traces_of(shared.run("export", "-n", namespace).out)] == ["g1", "g2"]


def test_a_line_that_is_no_utf_8_is_told_as_such(shared: Home, namespace: str) -> None:
    """The file is in another encoding: that is what its owner has to know."""
    done = shared.run("import", "-", "-n", namespace, given='{"task": "größe"}'.encode("latin-1"))
    assert done.code == 1
    assert "line 1: " in done.errors
    assert "UTF-8" in done.errors


def test_several_files_and_standard_input_go_in_together(shared: Home, tmp_path: Path, namespace: str) -> None:
    """Each bad line is told with its own file."""
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(lines_of([{"task": name, "trace_id": name}]) + b"nope\n")
    done = shared.run(
        "import", str(tmp_path / "one"), "-", str(tmp_path / "two"), "-n", namespace, given=lines_of([{"task": "-", "trace_id": "-"}])
    )
    assert done.code == 1
    assert {line.split(": ")[1] for line in done.errors.splitlines() if line.startswith("tracebank: ")} == {
        f"{tmp_path / 'one'}, line 2",
        f"{tmp_path / 'two'}, line 2",
    }
    assert [trace["trace_id"] for trace in traces_of(shared.run("export", "-n", namespace).out)] == ["one", "-", "two"]


def test_a_file_that_cannot_be_read_is_told_before_anything_is_stored(shared: Home, tmp_path: Path, namespace: str) -> None:
    """A misspelt name must not leave half an import behind."""
    (tmp_path / "good").write_bytes(lines_of([{"task": "good"}]))
    done = shared.run("import", str(tmp_path / "good"), str(tmp_path / "missing"), "-n", namespace)
    assert done.error == f"{tmp_path / 'missing'} cannot be read: No such file or directory"
    assert shared.run("import", str(tmp_path)).error == f"{tmp_path} cannot be read: Is a directory"
    assert shared.run("export", "-n", namespace).out == ""


def test_a_file_that_cannot_be_read_to_its_end_is_told_with_what_is_in(shared: Home, tmp_path: Path, namespace: str) -> None:
    """Whoever imports the rest knows where to begin."""
    (tmp_path / "good").write_bytes(lines_of([{"task": "good"}]))
    unreadable = Path("/proc/self/mem")
    if not unreadable.exists():
        pytest.skip("there is no file whose beginning cannot be read")
    done = shared.run("import", str(tmp_path / "good"), str(unreadable), "-n", namespace)
    assert (done.code, said(done.errors)) == (1, f"tracebank: {unreadable} cannot be read: Input/output error; 1 trace stored before")


def test_standard_input_that_is_closed_is_told_in_a_line(shared: Home) -> None:
    """As a shell's `<&-` or a service leaves it."""
    command = ["sh", "-c", f"exec {shlex.quote(COMMAND)} import - <&-"]
    done = subprocess.run(command, env=dict(shared.environment), capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (1, "tracebank: standard input cannot be read: it is closed\n")


def test_nothing_to_import_is_no_error(shared: Home) -> None:
    """An empty file is a file of no traces."""
    done = shared.run("import", "-")
    assert done.code == 0
    assert "0 traces imported" in done.errors


def test_an_export_goes_to_a_file(shared: Home, tmp_path: Path, namespace: str) -> None:
    """The same that goes to standard output; a file that cannot be is told."""
    shared.run("import", "-", "-n", namespace, given=lines_of([{**trace, "namespace": namespace} for trace in TRACES]))
    file = tmp_path / "out.jsonl"
    done = shared.run("export", "-n", namespace, "-o", str(file))
    assert (done.code, done.out, done.errors) == (0, "", "")
    assert file.read_bytes() == shared.run("export", "-n", namespace).out.encode()
    nowhere = tmp_path / "no such directory" / "out.jsonl"
    assert shared.run("export", "-o", str(nowhere)).error == f"{nowhere} cannot be written: No such file or directory"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_an_export_is_utf_8_whatever_the_console(shared: Home, namespace: str, encoding: str) -> None:
    """JSON is UTF-8; a pipe has no console's encoding."""
    shared.run("import", "-", "-n", namespace, given=lines_of([{"task": "größe 日本 🦖"}]))
    done = shared.run("export", "-n", namespace, variables={"PYTHONIOENCODING": encoding})
    assert (done.code, done.errors) == (0, "")
    assert json.loads(done.out)["task"] == "größe 日本 🦖"


def test_a_reader_that_leaves_early_is_no_error(shared: Home, namespace: str) -> None:
    """As in `tracebank export | head`."""
    shared.run("import", "-", "-n", namespace, given=lines_of([{"task": str(n), "content": "long " * 50_000} for n in range(8)]))
    process = subprocess.Popen(
        [COMMAND, "export", "-n", namespace], env=dict(shared.environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process, process.stdout, process.stderr:
        assert process.stdout.readline().startswith(b"{")
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(WAIT_S) == 0
    assert errors == b""


def test_an_import_of_a_mebibyte_comes_out_the_same(shared: Home, namespace: str) -> None:
    """The longest content there may be, between other lines."""
    traces = [{"task": "before"}, {"task": "long", "content": ("wombat " * 150_000)[:1_048_576]}, {"task": "after"}]
    assert shared.run("import", "-", "-n", namespace, given=lines_of(traces)).code == 0
    exported = traces_of(shared.run("export", "-n", namespace).out)
    assert [{key: trace[key] for key in ("task", "content") if key in trace} for trace in exported] == traces


def test_an_import_of_long_lines_goes_to_the_engine_in_small_parts(shared: Home, tmp_path: Path, namespace: str) -> None:
    """Lines that are many megabytes together are not one message, which may not be that long."""
    file = tmp_path / "long.jsonl"
    # JSON may have blanks: so there is much to send, and little to index.
    file.write_bytes(b"".join(b'{"task": "t%d",%s "trace_id": "%d"}\n' % (i, b" " * 720_000, i) for i in range(100)))
    done = shared.run("import", str(file), "-n", namespace)
    assert "100 traces imported and searchable" in said(done.errors)
    assert done.code == 0
    assert [trace["trace_id"] for trace in traces_of(shared.run("export", "-n", namespace).out)] == [f"{i}" for i in range(100)]


def test_a_line_that_is_longer_than_a_message_is_told_by_number(shared: Home, tmp_path: Path, namespace: str) -> None:
    """The others go in, also one that is longer than what is sent at once; numbers go on behind it."""
    file = tmp_path / "longer.jsonl"
    blanks = b'{"task": "t",%s "trace_id": "%s"}\n'
    lines = [(0, b"first"), (20 << 20, b"long"), (150 << 20, b"too long"), (0, b"after"), (0, b"last")]
    with file.open("wb") as out:
        for count, name in lines:
            out.write(blanks % (b" " * count, name))
        out.write(b"nope\n" + b" " * (64 << 20) + b"x")
    done = shared.run("import", str(file), "-n", namespace)
    assert done.code == 1
    told = [line for line in done.errors.splitlines() if line.startswith("tracebank: ")]
    too_long = "line: must be at most 66,060,288 bytes, its escapes included: split this trace into several"
    assert told[0] == f"tracebank: {file}, line 3: {too_long}"
    assert told[1].startswith(f"tracebank: {file}, line 6: line: is not valid JSON: ")
    assert told[2:] == [f"tracebank: {file}, line 7: {too_long}"]
    assert "4 traces imported" in said(done.errors)
    stored = [trace["trace_id"] for trace in traces_of(shared.run("export", "-n", namespace).out)]
    assert stored == ["first", "long", "after", "last"]


# Runs in every process of a home: the other end fails in the middle of an export.
CUT_SHORT = """
from tracebank import remote
whole = remote.engine
@remote.asynccontextmanager
async def cut_short():
    async with whole() as call:
        async def one_event(operation, **arguments):
            async for event in call(operation, **arguments):
                yield event
                raise remote.EngineError("the store is damaged")
        yield one_event
remote.engine = cut_short
"""


# The same, where the engine ends while an import waits for the indexes.
ENDED = """
from tracebank import remote
whole = remote.engine
@remote.asynccontextmanager
async def ended():
    async with whole() as call:
        async def until_all_is_stored(operation, **arguments):
            if operation == "wait_indexed":
                raise remote.EngineEndedError("the engine has ended")
            async for event in call(operation, **arguments):
                yield event
        yield until_all_is_stored
remote.engine = ended
"""


def test_an_import_whose_engine_ends_when_all_is_stored_does_not_call_for_another(shared: Home, tmp_path: Path, namespace: str) -> None:
    """Lines without a trace_id would come twice."""
    (tmp_path / "sitecustomize.py").write_text(ENDED, encoding="utf-8")
    broken = {"PYTHONPATH": f"{tmp_path}:{shared.environment['PYTHONPATH']}"}
    done = shared.run("import", "-", "-n", namespace, given=b'{"task": "t"}', variables=broken)
    told = "1 trace imported, but not all can be found yet: the engine has ended, and the next one goes on"
    assert (done.code, said(done.errors)) == (1, told)


def test_an_export_that_fails_leaves_the_file_as_it_was(shared: Home, tmp_path: Path, namespace: str) -> None:
    """It may be the only copy of something; nothing of the attempt stays beside it."""
    shared.run("import", "-", "-n", namespace, given=lines_of(TRACES))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(CUT_SHORT, encoding="utf-8")
    broken = {"PYTHONPATH": f"{tmp_path / 'site'}:{shared.environment['PYTHONPATH']}"}
    there, new = tmp_path / "there.jsonl", tmp_path / "new.jsonl"
    there.write_text("a backup", encoding="utf-8")
    for file in (there, new):
        assert shared.run("export", "-n", namespace, "-o", str(file), variables=broken).error == "the store is damaged"
    assert there.read_text(encoding="utf-8") == "a backup"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site", "there.jsonl"]


def test_an_export_of_a_store_that_cannot_be_opened_leaves_the_file_as_it_was(fresh: Home, tmp_path: Path) -> None:
    """Nobody needs his backup more."""
    fresh.data_dir.mkdir()
    (fresh.data_dir / "tracebank.sqlite3").write_bytes(b"this was never a database" * 100)
    file = tmp_path / "backup.jsonl"
    file.write_text("a backup", encoding="utf-8")
    assert "is not a SQLite file" in fresh.run("export", "-o", str(file)).error
    assert file.read_text(encoding="utf-8") == "a backup"


def test_an_exports_file_is_private_unless_its_owner_has_said_otherwise(shared: Home, tmp_path: Path, namespace: str) -> None:
    """A file that is there keeps its permissions, and a link to it stays one; nothing else is touched, or left."""
    shared.run("import", "-", "-n", namespace, given=lines_of(TRACES))
    there, new, link = tmp_path / "there.jsonl", tmp_path / "new.jsonl", tmp_path / "link.jsonl"
    there.write_text("former", encoding="utf-8")
    there.chmod(0o640)
    link.symlink_to(there)
    (tmp_path / "new.jsonl.part").write_text("somebody's own", encoding="utf-8")
    for file in (link, new):
        assert shared.run("export", "-n", namespace, "-o", str(file)).code == 0
    assert link.is_symlink()
    assert there.read_bytes() == new.read_bytes() == shared.run("export", "-n", namespace).out.encode()
    assert (there.stat().st_mode & 0o777, new.stat().st_mode & 0o777) == (0o640, 0o600)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.jsonl", "new.jsonl", "new.jsonl.part", "there.jsonl"]
    assert (tmp_path / "new.jsonl.part").read_text(encoding="utf-8") == "somebody's own"


def test_of_two_exports_to_one_file_each_is_whole(tmp_path: Path) -> None:
    """The later one to end stays."""
    file = tmp_path / "out.jsonl"
    with writing(file) as first:
        first.write("first")
        with writing(file) as second:
            second.write("second")
        assert file.read_text(encoding="utf-8") == "second"
    assert file.read_text(encoding="utf-8") == "first"
    assert list(tmp_path.iterdir()) == [file]


KILLED = """
import os, signal, sys
from pathlib import Path
from tracebank.cli.output import writing
with writing(Path(sys.argv[1])) as file:
    file.write("a memory")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a signal that kills")
def test_what_a_killed_export_has_left_goes_with_the_next_one(tmp_path: Path) -> None:
    """Whatever that one writes to in the same directory: a backup has another name each day."""
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "monday.jsonl")], check=False).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.read_text(encoding="utf-8") == "a memory"
    with writing(tmp_path / "tuesday.jsonl") as file:
        file.write("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["tuesday.jsonl"]


def test_an_export_onto_a_full_disk_says_so_in_a_line(shared: Home, small_disk: Path, namespace: str) -> None:
    """What was there stays, and the disk has its room again."""
    shared.run(
        "import", "-", "-n", namespace, given=lines_of([{"task": "long", "content": f"begin{' ' * 1_000_000}end"} for _ in range(5)])
    )
    file = small_disk / "backup.jsonl"
    file.write_text("a backup", encoding="utf-8")
    assert shared.run("export", "-n", namespace, "-o", str(file)).error == f"{file} cannot be written: No space left on device"
    assert [path.name for path in small_disk.iterdir()] == ["backup.jsonl"]
    assert file.read_text(encoding="utf-8") == "a backup"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
@pytest.mark.parametrize("arguments", [("export",), ("stats", "--json"), ("stats",), ("status",)], ids=" ".join)
def test_standard_output_that_is_full_is_told_in_a_line(shared: Home, namespace: str, arguments: tuple[str, ...]) -> None:
    """Whatever the command is."""
    shared.run("import", "-", "-n", namespace, given=lines_of(TRACES))
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([COMMAND, *arguments], env=dict(shared.environment), stdout=full, stderr=subprocess.PIPE, check=False)
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("tracebank: ")
    assert line.endswith("No space left on device")
    assert done.returncode == 1


def test_an_export_to_a_device_or_a_pipe_is_written_there(shared: Home, tmp_path: Path, namespace: str) -> None:
    """What is no file is not replaced by one; what the shell wrote before to standard output stays."""
    shared.run("import", "-", "-n", namespace, given=lines_of(TRACES))
    wanted = shared.run("export", "-n", namespace).out
    assert shared.run("export", "-n", namespace, "-o", "/dev/stdout").out == wanted
    assert shared.run("export", "-n", namespace, "-o", "-").out == wanted
    assert shared.run("export", "-n", namespace, "-o", "/dev/null").out == ""
    file = tmp_path / "appended"
    file.write_text("before\n", encoding="utf-8")
    with file.open("ab") as appending:
        command = [COMMAND, "export", "-n", namespace, "-o", "/dev/stdout"]
        subprocess.run(command, env=dict(shared.environment), stdout=appending, check=True)
    assert file.read_text(encoding="utf-8") == "before\n" + wanted
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen([COMMAND, "export", "-n", namespace, "-o", str(pipe)], env=dict(shared.environment)) as process:
        assert pipe.read_text(encoding="utf-8") == wanted
        assert process.wait(WAIT_S) == 0
    assert pipe.is_fifo()
