"""Before its engine is up the front answers what an engine wrote down, and the session is the same afterwards."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from clients import ENVELOPE, HELLO, Client, Era, RefusedError, front_with
from mcp.types.version import HANDSHAKE_PROTOCOL_VERSIONS
from places import SETTINGS, Place, place, wait_for_file, written

from tracebank import __version__, link, shipped
from tracebank.early import answers_path, written_down

# What a client of each era begins with, in this order.
FIRST: dict[Era, tuple[tuple[str, dict[str, Any]], ...]] = {
    "legacy": (("initialize", HELLO), ("tools/list", {})),
    "modern": (("server/discover", {}), ("tools/list", {})),
}


@pytest.fixture(scope="module")
def engine_words(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, Any]]:
    """Return what an engine wrote down, and what it says itself."""
    with place(tmp_path_factory.mktemp("answers")) as here, Client(here) as client:
        client.greet()
        said: dict[str, Any] = {"initialize": {}, "legacy": {}, "modern": {}}
        for version in HANDSHAKE_PROTOCOL_VERSIONS:
            with direct(here) as request:
                said["initialize"][version] = request("initialize", {**HELLO, "protocolVersion": version})
                said["legacy"]["tools/list"] = request("tools/list", {})
        with direct(here) as request:
            for method in ("server/discover", "tools/list"):
                said["modern"][method] = request(method, {"_meta": ENVELOPE})
        wait_for_file(written(here))
        return written(here).read_bytes(), said


@pytest.fixture
def answers(engine_words: tuple[bytes, dict[str, Any]]) -> bytes:
    """Return what an engine wrote down."""
    return engine_words[0]


@pytest.fixture
def known(here: Place, answers: bytes) -> Place:
    """Return a place where an engine has been, which has written down its answers."""
    written(here).parent.mkdir(parents=True)
    written(here).write_bytes(answers)
    return here


@pytest.fixture
def shipped_words() -> dict[str, Any]:
    """Return the answers that come with the package, where they were made with the SDK that is installed here."""
    with open(shipped.FILE, encoding="utf-8") as file:
        contents: dict[str, Any] = json.load(file)
    made, here = contents["made_with"], shipped.made_with(sys.path) or {}
    if any(made[package] != here.get(package) for package in shipped.PACKAGES):
        pytest.skip("made with another release of mcp or pydantic, so no front says it: `make fix` writes it anew")
    answers: dict[str, Any] = contents["answers"]
    return answers


@pytest.fixture
def new(here: Place) -> Place:
    """Return a place where no engine has been, with no settings but where it is."""
    here.expected_errors.append("the model runs on torch")
    return replace(here, environment={name: value for name, value in here.environment.items() if name not in SETTINGS})


@contextmanager
def held_up(here: Place) -> Iterator[None]:
    """Make the next engine wait, before it does anything, until the block ends."""
    gate = here.site / "gate"
    os.mkfifo(gate)
    here.sabotage(f"open({str(gate)!r}).read()")
    try:
        yield
    finally:
        with gate.open("w"):  # it has come, and goes on
            here.make_peace()
            gate.unlink()


@contextmanager
def direct(here: Place) -> Iterator[Callable[[str, dict[str, Any]], Any]]:
    """Yield a function that asks the engine on its own socket, without a front."""
    connection = link.connect(str(here.data_dir), "mcp")
    assert connection is not None

    def request(method: str, params: dict[str, Any]) -> Any:
        connection.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n")
        return json.loads(connection.receive())["result"]

    yield request
    connection.close()


def early(data_dir: Path, params: dict[str, Any] = HELLO, *, method: str = "initialize") -> Any:
    """Return what a front would answer before its engine is up."""
    return written_down(str(data_dir), {"method": method, "params": params})


def test_all_tools_and_those_of_the_settings_are_two_choices(here: Place) -> None:
    """An empty variable asks for all, though the settings offer few; without the variable these hold."""
    here.data_dir.mkdir(parents=True)
    (here.data_dir / "tracebank.toml").write_text('tools = ["stats"]')
    with Client(here) as few, Client(here, TRACEBANK_TOOLS="") as everything:
        few.greet()
        everything.greet()
        wait_for_file(written(here))
        wait_for_file(written(here, ""))
    tools = [json.loads(written(here, choice).read_text(encoding="utf-8"))["legacy"]["tools/list"]["tools"] for choice in (None, "")]
    assert [tool["name"] for tool in tools[0]] == ["stats"]
    assert len(tools[1]) > 1


def test_a_client_is_answered_before_its_engine_is_up_and_goes_on_with_it(known: Place, era: Era) -> None:
    """Its handshake is repeated to the engine, and not answered twice."""
    with Client(known, era) as client:
        with held_up(known):
            for method, params in FIRST[era]:
                assert client.request(method, params)
                if method == "initialize":
                    client.notify("notifications/initialized")
            call = client.begin_call("add_trace", task="as soon as the engine is there", trace_id="t")
            assert link.connect(str(known.data_dir), "status") is None
            assert not client.answers(call)
        assert client.result(call)
        assert client.add("after") == "after"
    assert known.exported() == {"t", "after"}


def test_what_is_written_down_is_what_the_engine_says(engine_words: tuple[bytes, dict[str, Any]]) -> None:
    """In every version of the protocol, of both eras."""
    answers, said = engine_words
    assert json.loads(answers) == said


def test_the_front_says_what_is_written_down(known: Place, answers: bytes, era: Era) -> None:
    """Nothing is added, and nothing left out."""
    wanted = json.loads(answers)
    with Client(known, era) as client, held_up(known):
        first, listed = (client.request(method, params) for method, params in FIRST[era])
        assert first == (wanted["initialize"]["2025-11-25"] if era == "legacy" else wanted["modern"]["server/discover"])
        assert listed == wanted[era]["tools/list"]


def test_what_comes_with_the_package_is_what_the_engine_says(
    engine_words: tuple[bytes, dict[str, Any]], shipped_words: dict[str, Any]
) -> None:
    """In every version of the protocol, of both eras, by what is installed; where not, `make fix` writes it anew."""
    assert shipped_words == engine_words[1]
    assert shipped.answers() == engine_words[1]


def test_in_a_new_directory_a_client_is_answered_with_what_comes_with_the_package(
    new: Place, shipped_words: dict[str, Any], era: Era
) -> None:
    """Before the very first engine is up, which says the same; its handshake is repeated to it, and not answered twice."""
    with Client(new, era) as client:
        with held_up(new):
            first, listed = (client.request(method, params) for method, params in FIRST[era])
            assert first == (shipped_words["initialize"]["2025-11-25"] if era == "legacy" else shipped_words["modern"]["server/discover"])
            assert listed == shipped_words[era]["tools/list"]
            if era == "legacy":
                client.notify("notifications/initialized")
            assert link.connect(str(new.data_dir), "status") is None
        assert client.add("t") == "t"
        assert client.request("tools/list") == listed
    assert new.exported() == {"t"}


def test_a_new_directory_with_settings_is_left_to_the_engine(new: Place) -> None:
    """It may offer other tools, or refuse what is set."""
    new.data_dir.mkdir()
    (new.data_dir / "tracebank.toml").write_text('tools = ["stats"]')
    with Client(new) as client:
        client.greet()
        assert [tool["name"] for tool in client.request("tools/list")["tools"]] == ["stats"]
    elsewhere = {"TRACEBANK_DATA_DIR": str(new.site / "other")}
    with Client(new, **elsewhere, TRACEBANK_RETRIEVAL__K="0") as client, pytest.raises(RefusedError, match=r"setting retrieval\.k"):
        client.request("initialize", HELLO)


def test_a_client_with_a_choice_of_tools_is_answered_with_that_choice(here: Place) -> None:
    """Before and after the engine is up."""
    with Client(here, TRACEBANK_TOOLS="stats") as client:
        client.greet()
        wait_for_file(written(here, "stats"))
    here.run("stop")
    with Client(here, TRACEBANK_TOOLS="stats") as client:
        with held_up(here):
            client.request("initialize", HELLO)
            assert [tool["name"] for tool in client.request("tools/list")["tools"]] == ["stats"]
        client.call("stats")
        assert [tool["name"] for tool in client.request("tools/list")["tools"]] == ["stats"]


@pytest.mark.parametrize(
    "elsewhere",
    ["9.9.9-default/+setting.json", f"{__version__}-1234-56/+setting.json", f"{__version__}-default/stats.json"],
    ids=["version", "settings", "tools"],
)
def test_what_was_written_down_for_others_is_not_used(tmp_path: Path, answers: bytes, elsewhere: str) -> None:
    """Another version, other settings, another choice of tools may answer otherwise."""
    file = tmp_path / "answers" / elsewhere
    file.parent.mkdir(parents=True)
    file.write_bytes(answers)
    assert early(tmp_path) is None
    Path(answers_path(str(tmp_path), None, "default")).parent.mkdir(exist_ok=True)
    Path(answers_path(str(tmp_path), None, "default")).write_bytes(answers)
    assert early(tmp_path) == json.loads(answers)["initialize"]["2025-11-25"]


def test_no_two_choices_of_tools_share_a_file() -> None:
    """Whatever signs are in them, and however much they have in common; a file's name is bounded."""
    long = ",".join(f"tool_number_{number}" for number in range(100))
    choices = [None, "", "setting", "+setting", "stats", "stats,", " stats", "stats-", long, f"{long},more", "größe" * 60]
    paths = {answers_path("", choice, "default") for choice in choices}
    assert len(paths) == len(choices)
    assert max(len(os.fsencode(Path(path).name)) for path in paths) < 255


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"\xff", b'{"initialize": []}', b'{"initialize": {"2025-11-25": null}}'])
def test_garbage_that_was_written_down_is_not_used(tmp_path: Path, content: bytes) -> None:
    """The engine will answer, and write it down anew."""
    file = Path(answers_path(str(tmp_path), None, "default"))
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    assert early(tmp_path) is None


@pytest.mark.parametrize("params", [{}, {**HELLO, "protocolVersion": "1999-01-01"}, {**HELLO, "protocolVersion": []}, {"_meta": 7}])
def test_what_nobody_wrote_an_answer_for_is_left_to_the_engine(tmp_path: Path, answers: bytes, params: dict[str, Any]) -> None:
    """It knows what to say to another version of the protocol, and to nonsense."""
    file = Path(answers_path(str(tmp_path), None, "default"))
    file.parent.mkdir(parents=True)
    file.write_bytes(answers)
    assert early(tmp_path, params) is None


@pytest.mark.parametrize("version", ["2099-01-01", "2025-11-25", "", 7, [], None])
def test_a_version_that_nobody_asked_the_engine_in_is_left_to_it(tmp_path: Path, answers: bytes, version: object) -> None:
    """It knows which it can speak, in the era where each call says its version, too."""
    file = Path(answers_path(str(tmp_path), None, "default"))
    file.parent.mkdir(parents=True)
    file.write_bytes(answers)
    for method in ("server/discover", "tools/list"):
        assert early(tmp_path, {"_meta": ENVELOPE}, method=method) == json.loads(answers)["modern"][method]
        assert early(tmp_path, {"_meta": {**ENVELOPE, "io.modelcontextprotocol/protocolVersion": version}}, method=method) is None


def test_what_was_written_down_before_the_settings_changed_is_not_used(known: Place) -> None:
    """The settings in the data directory may choose the tools."""
    (known.data_dir / "tracebank.toml").write_text('tools = ["retrieve"]')
    with Client(known) as client:
        client.greet()
        assert [tool["name"] for tool in client.request("tools/list")["tools"]] == ["retrieve"]
        wait_for_file(written(known))
    assert [path.name for path in (known.data_dir / "answers").iterdir()] == [written(known).parent.name]


def test_an_engine_with_former_settings_writes_nothing_down_for_the_present_ones(here: Place) -> None:
    """It goes on with those that it was started with, whatever the file says when the first client comes."""
    assert here.run("stats").returncode == 0
    former = written(here)
    (here.data_dir / "tracebank.toml").write_text('tools = ["retrieve"]')
    with Client(here) as client:
        client.greet()
        wait_for_file(former)
    assert not written(here).exists()


def test_what_was_written_down_for_other_variables_is_not_used(known: Place) -> None:
    """A language model that the environment names brings a tool with it."""
    model = {"TRACEBANK_LLM__PROVIDERS": '[{"model": "tiny", "base_url": "http://127.0.0.1:1/v1"}]'}
    with Client(known, **model) as client:
        client.greet()
        listed = {tool["name"] for tool in client.request("tools/list")["tools"]}
        wait_for_file(written(known, **model))
    assert "reason" in listed
    known.run("stop")
    with Client(known, **model) as client, held_up(known):
        client.request("initialize", HELLO)
        assert {tool["name"] for tool in client.request("tools/list")["tools"]} == listed


def test_an_engine_that_cannot_write_its_answers_down_serves_all_the_same(here: Place) -> None:
    """They are a convenience."""
    here.data_dir.mkdir()
    (here.data_dir / "answers").write_text("in the way")
    with Client(here) as client:
        client.greet().add("t")
    assert len(here.starts) == 1


def test_a_client_answered_early_hears_at_its_first_call_that_the_engine_cannot_start(known: Place) -> None:
    """What the engine said; and its session works when the cause is gone."""
    known.expected_errors.append("is not a SQLite file")
    store = known.data_dir / "tracebank.sqlite3"
    store.write_bytes(b"a shopping list")
    with Client(known, command=front_with("front.PAUSE_S = 0")) as client:
        with held_up(known):
            client.request("initialize", HELLO)
            client.notify("notifications/initialized")
        with pytest.raises(RefusedError, match="is not a SQLite file"):
            client.call("stats")
        store.unlink()
        assert client.add("t") == "t"
