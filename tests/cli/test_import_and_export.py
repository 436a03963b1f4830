"""import and export: JSON Lines in and out, the same form both ways, nothing lost and nothing made up."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from homes import COMMAND, WAIT_S, Home, home

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
