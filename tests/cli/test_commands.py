"""The tools for a person: add, search, forget, stats; and status and stop for the engine behind them."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from homes import Home

STATUS = {"running", "pid", "version", "data_dir", "sessions", "uptime_s", "traces"}


def exported(at: Home, namespace: str) -> list[dict[str, Any]]:
    """Return the traces of a namespace."""
    return [json.loads(line) for line in at.run("export", "-n", namespace).out.splitlines()]


def test_add_stores_what_was_said(shared: Home, namespace: str) -> None:
    """All options, and the content from standard input."""
    done = shared.run(
        "add", "Mend the 漢字 kite", "--content", "-", "--outcome", "success", "--lesson", "Glue first.", "--lesson", "Then wait.",
        "--tag", "kite", "--tag", "ü", "--id", "mended", "-n", namespace, given="größe\nof the tail".encode(),
    )  # fmt: skip
    assert (done.code, done.out, done.errors) == (0, "created mended\n", "")
    (stored,) = exported(shared, namespace)
    assert stored.pop("occurred_at")
    assert stored == {
        "trace_id": "mended", "namespace": namespace, "task": "Mend the 漢字 kite", "content": "größe\nof the tail", "outcome": "success",
        "lessons": ["Glue first.", "Then wait."], "tags": ["kite", "ü"],
    }  # fmt: skip


def test_add_of_the_same_id_updates(shared: Home, namespace: str) -> None:
    """And says which of the three happened."""
    statuses = [
        json.loads(shared.run("add", task, "--id", "x", "-n", namespace, "--json").out)["status"] for task in ("one", "one", "other")
    ]
    assert statuses == ["created", "unchanged", "updated"]
    assert [trace["task"] for trace in exported(shared, namespace)] == ["other"]


def test_content_from_standard_input_is_utf_8_whatever_the_console(shared: Home, namespace: str) -> None:
    """A pipe has no console's encoding."""
    done = shared.run(
        "add", "A pipe", "--content", "-", "-n", namespace, given="größe 日本".encode(), variables={"PYTHONIOENCODING": "cp1252"}
    )
    assert done.code == 0
    assert exported(shared, namespace)[0]["content"] == "größe 日本"


def test_search_finds_what_was_added_and_shows_it(shared: Home, namespace: str) -> None:
    """Score, outcome, id and day, then the task and its lessons; for programs the same as JSON."""
    shared.run("add", "Fly the [red] kite", "--id", "flown", "--outcome", "failure", "--lesson", "Check the wind.\nTwice.", "-n", namespace)
    shown = shared.run("search", "fly a kite", "-n", namespace)
    assert shown.code == 0
    head, task, *lesson = shown.out.splitlines()
    assert head.split()[1:3] == ["failure", "flown"]
    assert task.strip() == "Fly the [red] kite"
    assert [line.strip() for line in lesson] == ["• Check the wind.", "Twice."]
    found = json.loads(shared.run("search", "fly a kite", "-n", namespace, "--json").out)
    (result,) = found["results"]
    assert result["trace_id"] == "flown"
    assert result.keys() >= {"score", "outcome", "task", "lessons", "excerpt", "tags", "namespace", "occurred_at"}


def test_search_names_those_that_say_the_same_and_reads_on(shared: Home, namespace: str) -> None:
    """Whoever forgets one of them has to know of the others."""
    for number in range(3):
        shared.run("add", "Fold a paper boat", "--lesson", "Crease twice.", "--id", f"boat {number}", "-n", namespace)
    for number in range(2):
        shared.run("add", f"Row boat {number} over the lake", "--id", f"row {number}", "-n", namespace)
    found = json.loads(shared.run("search", "fold a paper boat", "-n", namespace, "-k", "2", "--json").out)
    first, second = found["results"]
    assert {first["trace_id"], *first["near_equal"]} == {"boat 0", "boat 1", "boat 2"}
    assert f"2 more say the same: {', '.join(first['near_equal'])}" in shared.run("search", "fold a paper boat", "-n", namespace).out
    rest = json.loads(shared.run("search", "fold a paper boat", "-n", namespace, "--cursor", found["next_cursor"], "--json").out)["results"]
    assert sorted(result["trace_id"] for result in (second, *rest)) == ["row 0", "row 1"]


def test_search_takes_the_filters_of_retrieve(shared: Home, namespace: str) -> None:
    """Outcome, tags, time, number and namespaces."""
    other = f"{namespace}-other"
    lines: list[dict[str, Any]] = [
        {"trace_id": "a", "task": "Sail one", "outcome": "success", "tags": ["sea"], "occurred_at": "2026-01-01"},
        {"trace_id": "b", "task": "Sail two", "outcome": "failure", "tags": ["sea", "sky"], "occurred_at": "2026-02-01"},
        {"trace_id": "c", "task": "Sail three", "occurred_at": "2026-03-01", "namespace": other},
    ]
    given = "\n".join(json.dumps({"namespace": namespace, **line}) for line in lines)
    shared.run("import", "-", given=given.encode())

    def found(*options: str) -> list[str]:
        return sorted(result["trace_id"] for result in json.loads(shared.run("search", "sail", "--json", *options).out)["results"])

    assert found("-n", namespace) == ["a", "b"]
    assert found("-n", namespace, "-n", other) == ["a", "b", "c"]
    assert found("-n", namespace, "--outcome", "failure") == ["b"]
    assert found("-n", namespace, "--outcome", "failure", "--outcome", "success") == ["a", "b"]
    assert found("-n", namespace, "--tag", "sea", "--tag", "sky") == ["b"]
    assert found("-n", namespace, "--since", "2026-01-15") == ["b"]
    assert found("-n", namespace, "--until", "2026-01-15") == ["a"]
    assert len(found("-n", namespace, "-k", "1")) == 1
    assert {"a", "b", "c"} <= set(found("-n", "*", "-k", "50"))


def test_search_that_finds_nothing_says_so_and_is_no_error(shared: Home) -> None:
    """On standard error, because it is no result."""
    done = shared.run("search", "zzyzx")
    assert (done.code, done.out) == (0, "")
    assert done.errors


def test_the_namespace_of_the_environment_is_the_default_of_every_command(shared: Home, namespace: str) -> None:
    """TRACEBANK_NAMESPACE is the client's own."""
    shared.run("add", "Hoist the flag", "--id", "flag", variables={"TRACEBANK_NAMESPACE": namespace})
    assert [trace["trace_id"] for trace in exported(shared, namespace)] == ["flag"]
    results = json.loads(shared.run("search", "flag", "--json", variables={"TRACEBANK_NAMESPACE": namespace}).out)["results"]
    assert [result["trace_id"] for result in results] == ["flag"]


def test_forget_shows_first_and_deletes_when_told(shared: Home, namespace: str) -> None:
    """Without --yes nothing is deleted; with it the traces are gone from search and export."""
    for trace_id in ("keep", "drop"):
        shared.run("add", f"A kite to {trace_id}", "--id", trace_id, "-n", namespace)
    shown = shared.run("forget", "drop", "-n", namespace)
    assert (shown.code, shown.out) == (0, "drop  A kite to drop\n")
    assert "1 trace would be deleted: repeat with --yes" in shown.errors
    assert len(exported(shared, namespace)) == 2
    done = shared.run("forget", "drop", "-n", namespace, "--yes")
    assert done.code == 0
    assert "1 trace deleted" in done.errors
    assert [trace["trace_id"] for trace in exported(shared, namespace)] == ["keep"]
    found = json.loads(shared.run("search", "a kite to drop", "-n", namespace, "--json").out)["results"]
    assert [result["trace_id"] for result in found] == ["keep"]
    again = json.loads(shared.run("forget", "drop", "-n", namespace, "--yes", "--json").out)
    assert again == {"matched": 0, "deleted": 0, "sample": [], "note": f"not in namespace {namespace}: drop"}


@pytest.mark.parametrize("command", [("export",), ("forget",), ("forget", "--yes")], ids=" ".join)
def test_a_namespace_that_has_no_traces_is_told(shared: Home, namespace: str, command: tuple[str, ...]) -> None:
    """It may be misspelt. That is no error: a script may look for what there is not yet."""
    done = shared.run(*command, "-n", namespace)
    assert (done.code, done.out) == (0, "")
    assert f"namespace '{namespace}' has no traces: `tracebank stats store` lists those that have" in " ".join(done.errors.split())
    shared.run("add", "Mend", "-n", namespace)
    assert "has no traces" not in shared.run(*command, "-n", namespace).errors


def test_forget_takes_a_filter(shared: Home, namespace: str) -> None:
    """Namespace, tags, outcome and time; all of them are to be met."""
    lines = [
        {"trace_id": "a", "task": "a", "outcome": "success", "tags": ["x"], "occurred_at": "2026-01-01"},
        {"trace_id": "b", "task": "b", "outcome": "failure", "tags": ["x", "y"], "occurred_at": "2026-02-01"},
        {"trace_id": "c", "task": "c", "outcome": "failure", "occurred_at": "2026-03-01"},
    ]
    shared.run("import", "-", "-n", namespace, given="\n".join(map(json.dumps, lines)).encode())

    def matched(*options: str) -> list[str]:
        return sorted(item["trace_id"] for item in json.loads(shared.run("forget", "-n", namespace, "--json", *options).out)["sample"])

    assert matched() == ["a", "b", "c"]
    assert matched("--tag", "x") == ["a", "b"]
    assert matched("--tag", "x", "--tag", "y") == ["b"]
    assert matched("--outcome", "failure") == ["b", "c"]
    assert matched("--before", "2026-02-01") == ["a"]
    assert matched("--outcome", "failure", "--before", "2026-02-02") == ["b"]
    assert matched("--outcome", "failure", "--yes") == ["b", "c"]
    assert [trace["trace_id"] for trace in exported(shared, namespace)] == ["a"]


def test_what_is_forgotten_is_in_no_file_of_the_store(shared: Home, namespace: str) -> None:
    """Overwritten, not only unlinked."""
    secret = "xyloquartz" * 3
    shared.run("add", f"Remember {secret}", "--content", f"The key is {secret}", "--id", "secret", "-n", namespace)
    files = [file for file in shared.data_dir.glob("tracebank.sqlite3*") if file.is_file()]
    assert any(secret.encode() in file.read_bytes() for file in files)
    assert shared.run("forget", "secret", "-n", namespace, "--yes").code == 0
    assert not any(secret.encode() in file.read_bytes() for file in files if file.exists())


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("add", ""), "task: must not be empty"),
        (("add", "x", "--outcome", "won"), "outcome: must be one of success, failure, partial, unknown, not 'won'"),
        (("search", ""), "query: must not be empty"),
        (("search", "x", "-k", "51"), "k: must be 1 to 50, not 51"),
        (("search", "x", "--since", "soon"), "since: must be an RFC 3339 time such as 2026-03-01T09:30:00Z, not 'soon'"),
        (("search", "x", "-m", "a=1", "-m", "b=1", "-m", "a=2"), "metadata: has 'a' twice: a memory has one value of it, so ask for one"),
        (("forget", "-m", "a=1", "-m", "a=1"), "metadata: has 'a' twice: a memory has one value of it, so ask for one"),
        (("forget",), "trace_ids: say what to forget: ids, or a namespace, tags, an outcome, a time or metadata"),
        (("forget", "x", "--tag", "y"), "trace_ids: give ids or a filter, not both"),
        (("forget", "--before", "soon"), "before: must be an RFC 3339 time such as 2026-03-01T09:30:00Z, not 'soon'"),
        (("export", "-n", ""), "namespace: must not be empty"),
        (
            ("stats", "cash"),
            "section: must be all or one of engine, store, index, embedding, caches, latencies, tokens, compression, llm, learning, "
            "plugins, advice, "
            "not 'cash'",
        ),
    ],
    ids=" ".join,
)
def test_a_wrong_argument_is_one_line_on_standard_error(shared: Home, arguments: tuple[str, ...], error: str) -> None:
    """As the tools tell it; nothing on standard output, and the exit status is 1."""
    done = shared.run(*arguments)
    assert done.error == error
    assert done.out == ""


@pytest.mark.parametrize("arguments", [("nope",), ("add",), ("search", "x", "-k", "many"), ("stats", "--nope")], ids=" ".join)
def test_a_command_that_cannot_be_understood_shows_how_it_is_used(shared: Home, arguments: tuple[str, ...]) -> None:
    """With the exit status that shells have for it."""
    done = shared.run(*arguments)
    assert (done.code, done.out) == (2, "")
    assert "Usage: tracebank" in done.errors
    assert "Traceback" not in done.errors


def test_stats_are_a_table_for_a_person_and_json_for_a_program(shared: Home, namespace: str) -> None:
    """All sections, or one."""
    shared.run("add", "Count", "-n", namespace)
    table = shared.run("stats", "store")
    assert (table.code, table.errors) == (0, "")
    assert "traces" in table.out
    figures = json.loads(shared.run("stats", "--json").out)
    assert figures["store"]["namespaces"][namespace] == 1
    assert json.loads(shared.run("stats", "store", "--json").out)["store"]["namespaces"][namespace] == 1
    assert shared.run("stats").code == 0


def test_consolidate_shows_what_belongs_together_and_takes_it_back(fresh: Home) -> None:
    """For a person and for a program; the traces stay as they are."""
    for name in ("a", "b"):
        fresh.run("add", f"Mend kite {name}", "--lesson", "Glue [first].", "--outcome", "success", "--id", name)
    shown = fresh.run("consolidate")
    assert (shown.code, shown.errors) == (0, "1 group among 2 lessons; 0 episodes of 0 kinds\n")
    assert shown.out.splitlines() == ["equal", "  a (success): Glue [first].", "  b (success): Glue [first]."]
    (group,) = json.loads(fresh.run("consolidate", "--json").out)["groups"]
    assert [lesson["trace_id"] for lesson in group["lessons"]] == ["a", "b"]
    assert fresh.run("consolidate", "--undo").errors == "1 group of lessons taken back\n"
    assert json.loads(fresh.run("consolidate", "--json").out)["groups"] == []
    assert [trace["lessons"] for trace in exported(fresh, "default")] == [["Glue [first]."]] * 2


@pytest.mark.parametrize("command", ["questions", "forget", "export"])
def test_without_a_namespace_all_are_meant_and_the_help_says_so(shared: Home, namespace: str, command: str) -> None:
    """The namespace of the environment is for what is stored and searched."""
    for name in (namespace, f"{namespace} too"):
        shared.run("add", f"Two kites {namespace}", "--tag", namespace, "-n", name)
        shared.run("search", f"two kites {namespace}", "-n", name)
    options = {"questions": ("--matching", f"*{namespace}*"), "forget": ("--tag", namespace)}.get(command, ())
    told = shared.run(command, *options, variables={"TRACEBANK_NAMESPACE": namespace})
    assert sum(namespace in line for line in told.out.splitlines()) == 2
    assert "Only this one; default: all." in " ".join(shared.run(command, "--help", variables={"COLUMNS": "200"}).out.split())


def test_questions_are_shown_and_forgotten(fresh: Home) -> None:
    """What a person asked is as much in the list as what an agent did."""
    fresh.run("add", "Mend the [blue] kite")
    fresh.run("search", "the [blue] kite")
    assert fresh.run("questions").out == "1  default: the [blue] kite\n"
    assert json.loads(fresh.run("questions", "--json", "--matching", "*red*").out) == {"questions": []}
    assert fresh.run("questions", "--forget").errors == "1 question forgotten\n"
    assert fresh.run("questions").out == ""


def test_status_and_stop_start_nothing(fresh: Home) -> None:
    """Not even the directory is made."""
    state = json.loads(fresh.run("status", "--json").out)
    assert state == {"running": False, "data_dir": str(fresh.data_dir), "version": version("tracebank")}
    assert fresh.run("status").out == f"not running ({fresh.data_dir})\n"
    stopped = fresh.run("stop")
    assert (stopped.code, stopped.out, stopped.errors) == (0, "", "not running\n")
    assert not fresh.data_dir.exists()


def test_status_tells_of_the_engine_that_runs_and_stop_ends_it(fresh: Home) -> None:
    """The first command starts it, it goes on, and stop ends it."""
    fresh.run("add", "Start an engine")
    state = json.loads(fresh.run("status", "--json").out)
    assert state.keys() == STATUS
    assert (state["running"], state["traces"], state["sessions"], state["data_dir"]) == (True, 1, 0, str(fresh.data_dir))
    assert state["version"] == version("tracebank")
    assert f"process {state['pid']}, version {state['version']}, 0 clients, 1 trace in " in fresh.run("status").out
    assert json.loads(fresh.run("stats", "engine", "--json").out)["engine"]["pid"] == state["pid"]
    stopped = fresh.run("stop")
    assert (stopped.code, stopped.errors) == (0, f"stopped process {state['pid']}\n")
    assert json.loads(fresh.run("status", "--json").out)["running"] is False
    assert len(exported(fresh, "default")) == 1


def test_the_data_directory_of_the_flag_wins_over_the_environment(shared: Home, tmp_path: Path) -> None:
    """A relative one counts from where the command runs, and a tilde is the user's home."""
    state = json.loads(shared.run("--data-dir", str(tmp_path / "other"), "status", "--json").out)
    assert (state["running"], state["data_dir"]) == (False, str(tmp_path / "other"))
    relative = json.loads(shared.run("--data-dir", "somewhere", "status", "--json").out)
    assert relative["data_dir"] == str(Path.cwd() / "somewhere")
    at_home = json.loads(shared.run("--data-dir=~/somewhere", "status", "--json", variables={"HOME": str(tmp_path)}).out)
    assert at_home["data_dir"] == str(tmp_path / "somewhere")


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_data_directory_is_refused(shared: Home, empty: str) -> None:
    """A script whose variable is not set must not make a memory wherever it runs."""
    done = shared.run("--data-dir", empty, "add", "x")
    assert (done.code, done.out) == (2, "")
    assert "must not be empty: name a directory" in " ".join(done.errors.split())


def test_the_version_is_the_packages(shared: Home) -> None:
    """And needs no engine."""
    assert shared.run("version").out.strip() == version("tracebank")


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_printed_by_both_names(shared: Home, option: str) -> None:
    """On standard output, for a pager."""
    done = shared.run(option)
    assert (done.code, done.errors) == (0, "")
    assert "Usage: tracebank" in done.out


def test_metadata_is_asked_for_by_its_kind(shared: Home, namespace: str) -> None:
    """A number is no text that looks like one: quotes of its own make it text. What is no JSON is text as it stands."""
    values: dict[str, object] = {"number": 123, "text": "123", "true": True, "word": "true", "quoted": '"x"', "brackets": "[" * 3_000}
    lines = "".join(json.dumps({"task": "t", "trace_id": name, "metadata": {"x": value}}) + "\n" for name, value in values.items())
    assert shared.run("import", "-", "-n", namespace, given=lines.encode()).code == 0
    asked = {
        "x=123": "number", 'x="123"': "text", "x=true": "true", 'x="true"': "word", r'x="\"x\""': "quoted", "x=" + "[" * 3_000: "brackets",
    }  # fmt: skip
    for given, name in asked.items():
        found = json.loads(shared.run("search", "t", "-n", namespace, "-m", given, "--json").out)["results"]
        assert [result["trace_id"] for result in found] == [name]


@pytest.mark.parametrize("value", ["[" * 100_000, "1" * 5_000, "NaN", "1e999"], ids=["brackets", "digits", "NaN", "infinite"])
def test_metadata_that_cannot_be_is_told_in_a_line(shared: Home, namespace: str, value: str) -> None:
    """Never by a traceback."""
    done = shared.run("search", "t", "-n", namespace, "-m", f"x={value}")
    assert "Traceback" not in done.errors
    assert done.error.startswith("metadata")


def test_what_stands_in_a_memory_is_shown_and_not_obeyed(shared: Home) -> None:
    """Neither as markup, whatever brackets a name has, nor as commands to the terminal."""
    namespace = "[/ns]"
    done = shared.run("add", "Turn it \x1b[31mred\x07", "--id", "[id]", "--lesson", "Not \x9b2J.", "-n", namespace)
    assert (done.code, done.out) == (0, "created [id]\n")
    found = shared.run("search", "turn it red", "-n", namespace)
    assert "Turn it \\x1b[31mred\\x07" in found.out
    assert "• Not \\x9b2J." in found.out
    assert not {"\x1b", "\x07", "\x9b"} & set(found.out)
    told = shared.run("stats", "store")
    assert (told.code, told.errors) == (0, "")
    assert namespace in told.out
