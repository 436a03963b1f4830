"""`tracebank serve`: streamable HTTP by the same engine, with the real client over a real socket."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tracebank.errors import EngineError, SettingsError
from tracebank.http import HttpSettings
from tracebank.serving import http_token, token_source

COMMAND = str(shutil.which("tracebank", path=str(Path(sys.executable).parent)))
WAIT_S = 60
HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}
HEADERS = {"content-type": "application/json", "accept": "application/json, text/event-stream"}


@dataclass(frozen=True, slots=True)
class Served:
    """A running `tracebank serve`."""

    url: str
    token: str
    data_dir: Path
    environment: dict[str, str]
    process: subprocess.Popen[str]

    def post(self, body: object = HELLO, **headers: str) -> httpx2.Response:
        """Post a message with the token, unless the headers say otherwise."""
        sent = {**HEADERS, "authorization": f"Bearer {self.token}", **headers}
        return httpx2.post(self.url, content=json.dumps(body), headers=sent, timeout=WAIT_S)


def environment_of(data_dir: Path) -> dict[str, str]:
    """Return an environment for processes on a data directory of their own, with no model: words are enough here."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRACEBANK_")}
    return {**kept, "TRACEBANK_DATA_DIR": str(data_dir), "TRACEBANK_EMBEDDING__MODEL": str(data_dir / "no-model")}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return subprocess.run([COMMAND, *arguments], env=environment, capture_output=True, encoding="utf-8", timeout=WAIT_S, check=False)


@contextmanager
def serving(environment: dict[str, str], *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run `tracebank serve` on a free port, and in the end stop it and its engine."""
    process = subprocess.Popen(
        [COMMAND, "serve", "--port", "0", *options],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8",
        # A shell's background job ignores the interrupt; a person's terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            process.terminate()
    run(environment, "stop")


def told_url(process: subprocess.Popen[str]) -> str:
    """Return the address that it prints next."""
    assert process.stdout is not None
    return process.stdout.readline().split()[-1]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve on a free port for all tests of this module."""
    data_dir = tmp_path_factory.mktemp("http")
    environment = environment_of(data_dir)
    with serving(environment) as process:
        url = told_url(process)
        yield Served(url, (data_dir / "http.token").read_text(), data_dir, environment, process)


def test_a_real_client_stores_and_finds_over_http(served: Served) -> None:
    """What a client stores over HTTP is found over HTTP, and by the command line, because the engine is the same."""

    async def use() -> list[str]:
        http = httpx2.AsyncClient(headers={"authorization": f"Bearer {served.token}"}, timeout=WAIT_S)
        async with http, Client(streamable_http_client(served.url, http_client=http)) as client:
            await client.call_tool("add_trace", {"trace_id": "over-http", "task": "Rotate the signing key of the gateway"})
            found = await client.call_tool("retrieve", {"query": "signing key"})
        assert found.structured_content is not None
        return [result["trace_id"] for result in found.structured_content["results"]]

    assert anyio.run(use) == ["over-http"]
    exported = run(served.environment, "export").stdout
    assert [json.loads(line)["trace_id"] for line in exported.splitlines()] == ["over-http"]


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer wrong", "Basic dXNlcjpwYXNz"])
def test_nobody_comes_in_without_the_token(served: Served, authorization: str) -> None:
    """A missing or wrong token is answered 401, and the answer says what kind of token is wanted."""
    response = served.post(authorization=authorization)
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Bearer")


def test_the_token_is_its_owners_alone(served: Served) -> None:
    """The file that holds the token can be read by its owner only."""
    assert stat.S_IMODE((served.data_dir / "http.token").stat().st_mode) == 0o600


def test_an_empty_token_file_counts_as_none(tmp_path: Path) -> None:
    """A kill can leave one behind, and its token would let everybody in. The new one is its owner's alone, and stays."""
    file = tmp_path / "http.token"
    file.touch(0o644)
    token = http_token(str(tmp_path))
    assert len(token) > 40
    assert file.read_text() == token
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert http_token(str(tmp_path)) == token


def test_a_token_file_that_can_only_be_read_is_enough(tmp_path: Path) -> None:
    """Whoever runs many of them brings the token along."""
    (tmp_path / "http.token").write_text("brought\n")
    (tmp_path / "http.token").chmod(0o400)
    assert http_token(str(tmp_path)) == "brought"


def test_the_token_of_the_environment_comes_first_unless_it_is_blank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blanks around it are nobody's intention."""
    monkeypatch.setenv("TRACEBANK_HTTP_TOKEN", " mine\n")
    assert (http_token(str(tmp_path)), token_source(str(tmp_path))) == ("mine", "TRACEBANK_HTTP_TOKEN")
    monkeypatch.setenv("TRACEBANK_HTTP_TOKEN", " ")
    assert len(http_token(str(tmp_path))) > 40
    assert token_source(str(tmp_path)) == f"the file {tmp_path / 'http.token'}"


def test_a_token_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """With the file and the variable that can stand in for it."""
    (tmp_path / "http.token").mkdir()
    with pytest.raises(EngineError, match=r"http\.token cannot be written: .*; set TRACEBANK_HTTP_TOKEN"):
        http_token(str(tmp_path))


@pytest.mark.parametrize("content", [b"schl\xfcssel", b"two words"])
def test_a_token_that_no_header_can_carry_is_refused(tmp_path: Path, content: bytes) -> None:
    """In words that say where it is, and not what it is."""
    (tmp_path / "http.token").write_bytes(content)
    with pytest.raises(SettingsError, match=r"remove http\.token") as caught:
        HttpSettings(host="0.0.0.0", token=http_token(str(tmp_path)))
    assert "schl" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_an_empty_token_is_refused(host: str) -> None:
    """Wherever it comes from: it would let everybody in."""
    with pytest.raises(SettingsError, match="the token must be"):
        HttpSettings(host=host, token="")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.2", "memory.example"])
def test_whoever_can_be_reached_by_others_needs_a_token(host: str) -> None:
    """Every address among them."""
    with pytest.raises(SettingsError, match="without a token only this machine may connect"):
        HttpSettings(host=host)


def test_on_every_address_clients_come_by_any_name_with_the_token(tmp_path: Path) -> None:
    """By what name they reach us cannot be known; without the token nobody comes in."""
    environment = environment_of(tmp_path)
    with serving(environment, "--host", "0.0.0.0") as process:
        url = told_url(process).replace("0.0.0.0", "127.0.0.1")
        served = Served(url, (tmp_path / "http.token").read_text(), tmp_path, environment, process)
        assert served.post(host="192.0.2.2:7999").status_code == 200
        assert served.post(host="memory.example").status_code == 200
        assert served.post(host="memory.example", authorization="Bearer wrong").status_code == 401


@pytest.mark.parametrize(
    ("host", "names"),
    [("127.0.0.2", ["127.0.0.2", "localhost"]), ("0:0:0:0:0:0:0:1", ["[0:0:0:0:0:0:0:1]", "[::1]"])],
    ids=["IPv4", "IPv6"],
)
def test_the_address_that_is_told_is_one_that_answers(tmp_path: Path, host: str, names: list[str]) -> None:
    """However it is written: as it was given, and as clients write it."""
    environment = environment_of(tmp_path)
    with serving(environment, "--host", host) as process:
        served = Served(told_url(process), (tmp_path / "http.token").read_text(), tmp_path, environment, process)
        assert names[0] in served.url
        assert [served.post().status_code, *(served.post(host=f"{name}:7333").status_code for name in names)] == [200] * 3


def test_the_name_of_the_tokens_scheme_counts_whatever_its_case(served: Served) -> None:
    """RFC 9110 says so; the token is as it is."""
    assert served.post(authorization=f"bearer  {served.token}").status_code == 200
    assert served.post(authorization=f"BEARER {served.token}").status_code == 200
    assert served.post(authorization=f"Bearer {served.token.swapcase()}").status_code == 401


@pytest.mark.parametrize("headers", [{"host": "127.0.0.1"}, {"host": "localhost", "origin": "http://localhost"}])
def test_a_port_that_is_the_schemes_own_may_be_left_out(served: Served, headers: dict[str, str]) -> None:
    """Clients do so where the port is 80, or another program passes their requests on."""
    assert served.post(**headers).status_code == 200


@pytest.mark.parametrize(("header", "status"), [("host", 421), ("origin", 403)])
def test_a_page_of_another_site_is_turned_away(served: Served, header: str, status: int) -> None:
    """A foreign Host (DNS rebinding) or Origin is refused, although the token is right."""
    assert served.post(**{header: "evil.example" if header == "host" else "http://evil.example"}).status_code == status


def test_an_oversized_request_is_refused_and_the_next_is_served(served: Served) -> None:
    """A body over the bound is answered 413; it does not harm the server."""
    assert served.post({**HELLO, "padding": "x" * 9_000_000}).status_code == 413
    assert served.post().status_code == 200


def test_without_a_token_only_loopback_may_be_served(tmp_path: Path) -> None:
    """To be reached by others without a token is refused, in one line."""
    environment = environment_of(tmp_path)
    refused = run(environment, "serve", "--host", "0.0.0.0", "--port", "0", "--no-token")
    run(environment, "stop")
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1] == "tracebank: without a token only this machine may connect: 0.0.0.0 needs one"


def test_a_port_that_is_taken_is_told(served: Served) -> None:
    """A second server on the same port is refused in one line that says what to do; the first one goes on."""
    port = served.url.split(":")[2].split("/")[0]
    refused = run(served.environment, "serve", "--port", port)
    assert refused.returncode == 1
    assert "choose another --port" in refused.stderr
    assert served.post().status_code == 200


def test_a_host_that_there_is_not_is_told(served: Served) -> None:
    """Another port would not help."""
    refused = run(served.environment, "serve", "--host", "no-such-host.invalid", "--port", "0")
    assert refused.returncode == 1
    assert "choose another --host" in refused.stderr.splitlines()[-1]


def test_an_interrupt_ends_serving_and_not_the_engine(tmp_path: Path) -> None:
    """After Ctrl-C nobody listens any more, while the engine goes on for the other clients."""
    environment = environment_of(tmp_path)
    with serving(environment, "--no-token") as process:
        url = told_url(process)
        assert httpx2.post(url, content=json.dumps(HELLO), headers=HEADERS, timeout=WAIT_S).status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 130
        assert json.loads(run(environment, "status", "--json").stdout)["running"] is True
        # The engine has let go of the port once it has ended what the interrupted command had asked for.
        assert run(environment, "stop").returncode == 0
    with pytest.raises(httpx2.ConnectError):
        httpx2.post(url, content=json.dumps(HELLO), headers=HEADERS, timeout=WAIT_S)


def test_an_engine_that_dies_is_followed_by_one_at_the_same_address(tmp_path: Path) -> None:
    """Which knows what the former had acknowledged. `tracebank stop` ends serving, without an error."""
    environment = environment_of(tmp_path)
    with serving(environment, "--no-token") as process:
        url = told_url(process)
        assert run(environment, "add", "a task that outlives the engine").returncode == 0
        os.kill(json.loads(run(environment, "status", "--json").stdout)["pid"], signal.SIGKILL)
        assert told_url(process) == url
        assert httpx2.post(url, content=json.dumps(HELLO), headers=HEADERS, timeout=WAIT_S).status_code == 200
        assert "outlives" in run(environment, "search", "outlives").stdout
        assert run(environment, "stop").returncode == 0
        assert process.wait(WAIT_S) == 0
