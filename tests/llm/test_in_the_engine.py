"""The engine's language models: off unless configured, told by `stats`, closed at the end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from llm.conftest import KEY, files_with_the_key, provider_settings
from llm.provider import Held, serving
from samples import TinyModel, settings_of

from tracebank.engine import Engine
from tracebank.errors import LlmOffError, SettingsError
from tracebank.llm import Request
from tracebank.reporting import report
from tracebank.settings import load_settings


@pytest.mark.anyio
@pytest.mark.parametrize(("head_ratio", "begins", "ends"), [(1.0, True, False), (0.0, False, True)])
async def test_a_prompt_that_is_cut_in_its_middle_keeps_the_share_that_is_set(
    tmp_path: Path, tiny: TinyModel, head_ratio: float, begins: bool, ends: bool
) -> None:
    """One that has no unit which fits, such as one endless line."""
    async with serving() as provider:
        settings = settings_of(tmp_path, llm={"providers": [provider_settings(provider)]}, compression={"head_ratio": head_ratio})
        async with Engine.open(settings) as engine:
            line = "-".join(str(number) for number in range(10_000, 14_000))
            await engine.llm.query(Request(prompt=line, max_prompt_tokens=300))
        prompt = provider.calls[-1].prompt
        assert (prompt.startswith("10000-"), prompt.endswith("-13999")) == (begins, ends)


@pytest.mark.anyio
async def test_kept_answers_are_forgotten_with_memories(tmp_path: Path, tiny: TinyModel) -> None:
    """They may quote them."""
    async with serving() as provider:
        settings = settings_of(tmp_path, llm={"providers": [provider_settings(provider)], "cache": 10})
        async with Engine.open(settings) as engine:
            await engine.add({"task": "secret"}, engine.session())
            await engine.llm.query(Request(prompt="what is the secret?"))
            assert (await engine.llm.query(Request(prompt="what is the secret?"))).cached
            await engine.forget(lambda db: [1])
            assert not (await engine.llm.query(Request(prompt="what is the secret?"))).cached
            gate = asyncio.Event()
            provider.meets(Held(gate))
            asked = asyncio.create_task(engine.llm.query(Request(prompt="once more")))
            await provider.until(3)
            engine.llm.forget()
            gate.set()
            await asked
            assert not (await engine.llm.query(Request(prompt="once more"))).cached


OFF = """
import asyncio, socket, sys
from pathlib import Path
from tracebank.engine import Engine
from tracebank.errors import LlmOffError
from tracebank.llm import Request
from tracebank.reporting import report
from tracebank.settings import load_settings

async def main():
    settings = load_settings(Path(sys.argv[1]))
    opened = {name for name in sys.modules if name in ("httpx", "h2", "tenacity", "jsonschema")}
    async with Engine.open(settings) as engine:
        try:
            await engine.llm.query_with_fallback(Request(prompt="x"))
        except LlmOffError:
            print("off", (await engine.llm.report()), sorted(opened), "tracebank.llm.pool" in sys.modules)

asyncio.run(main())
"""


def test_without_configuration_nothing_is_loaded_nor_asked(tmp_path: Path) -> None:
    """Importing the engine brings no HTTP client, and using it opens none."""
    done = subprocess.run([sys.executable, "-c", OFF, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "off {'configured': False} [] False"


@pytest.mark.anyio
async def test_a_configured_model_answers_is_told_and_keeps_its_account(
    tmp_path: Path, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the file's settings and the environment's key, over a restart; long prompts go through the compressor."""
    monkeypatch.setenv("MY_KEY", KEY)
    async with serving(tls=True) as provider:
        about = provider_settings(provider, key_variable="MY_KEY", context_tokens=1_000, max_output_tokens=300)
        settings = settings_of(tmp_path, llm={"providers": [about]})
        for run in (1, 2):
            async with Engine.open(settings) as engine:
                assert (await report(engine, "llm"))["llm"]["providers"] == {"tiny": {"model": "tiny", "answered": {"count": 0}}}
                long = " ".join(f"word{i}" for i in range(5_000))
                completion = await engine.llm.query_with_fallback(Request(prompt=long))
                assert 500 < len(provider.calls[-1].prompt) < len(long) / 2
                assert completion.provider == "tiny"
                figures = (await report(engine, "llm"))["llm"]
                assert figures["spending"]["tokens"] == 15 * run
                assert figures["providers"]["tiny"]["answered"]["count"] == 1
                advice = (await report(engine, "advice"))["advice"]
                assert any("Language model tiny has no prices" in line for line in advice)
            await provider.until_no_connection()
        assert provider.calls[0].headers["authorization"] == f"Bearer {KEY}"
    assert not files_with_the_key(tmp_path)


@pytest.mark.anyio
async def test_the_engine_works_without_its_key_and_says_what_is_missing(tmp_path: Path, tiny: TinyModel) -> None:
    """A memory does not fail because a language model does."""
    provider = {"model": "tiny", "key_variable": "NOT_SET_ANYWHERE"}
    async with Engine.open(settings_of(tmp_path, llm={"providers": [provider]})) as engine:
        await engine.add({"task": "mend the upload"}, engine.session())
        advice = (await report(engine, "advice"))["advice"]
        assert any("Language model tiny has no key: set NOT_SET_ANYWHERE" in line for line in advice)


@pytest.mark.anyio
async def test_off_is_off_in_every_way(tmp_path: Path, tiny: TinyModel) -> None:
    """The engine has a client, and the client has nobody to ask."""
    async with Engine.open(settings_of(tmp_path)) as engine:
        assert (await report(engine, "llm")) == {"llm": {"configured": False}}
        with pytest.raises(LlmOffError):
            await engine.llm.batch_query(["x"])


@pytest.mark.parametrize(
    ("about", "says"),
    [
        ({"base_url": "http://models.example/v1", "key_variable": "K"}, "base_url must be https where a key is sent"),
        ({"base_url": "https://user:secret@models.example/v1"}, "must be an http or https address without user, password or query"),
        ({"base_url": "models.example/v1"}, "must be an http or https address"),
        ({"base_url": "http://127.0.0.1:114344/v1"}, "a port of 1 to 65535"),
        ({"base_url": "http://127.0.0.1:secret/v1"}, "a port of 1 to 65535"),
        ({"base_url": "http://ä..b/v1"}, "must have a host, of parts of 1 to 63 characters"),
        ({"base_url": "http://:80/v1"}, "must have a host, of parts of 1 to 63 characters"),
        ({"base_url": "http://[::1/v1"}, "must have a host, of parts of 1 to 63 characters"),
        ({"context_tokens": 1_000, "max_output_tokens": 1_000}, "max_output_tokens must be less than context_tokens"),
        ({"protocol": "grpc"}, "Input should be 'chat', 'responses' or 'messages' (set in TRACEBANK_LLM__PROVIDERS"),
        ({"api_key": "sk-secret"}, "there is no such setting"),
        ({"key_variable": "sk-secret"}, "String should match pattern"),
        ({"key_variable": "TRACEBANK_LLM_KEY"}, "must not begin with TRACEBANK_"),
    ],
)
def test_a_wrong_provider_is_told(tmp_path: Path, about: dict[str, Any], says: str) -> None:
    """With the place of the setting, before anything starts."""
    with pytest.raises(SettingsError) as caught:
        load_settings(tmp_path, llm={"providers": [{"model": "tiny", **about}]})
    assert says in str(caught.value)
    assert "setting llm.providers.0" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_two_providers_need_two_names(tmp_path: Path) -> None:
    """The model's name is theirs unless they have one."""
    with pytest.raises(SettingsError, match="two providers are called tiny: give each a name of its own"):
        load_settings(tmp_path, llm={"providers": [{"model": "tiny"}, {"model": "tiny", "protocol": "messages"}]})


def test_providers_can_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As JSON, and from the file as tables."""
    monkeypatch.setenv("TRACEBANK_LLM__PROVIDERS", '[{"model": "tiny", "base_url": "http://127.0.0.1:11434/v1/"}]')
    assert load_settings(tmp_path).llm.providers[0].base_url == "http://127.0.0.1:11434/v1"
    monkeypatch.delenv("TRACEBANK_LLM__PROVIDERS")
    (tmp_path / "tracebank.toml").write_text('[llm]\nattempts = 2\n[[llm.providers]]\nmodel = "a"\n[[llm.providers]]\nmodel = "b"\n')
    assert [provider.model for provider in load_settings(tmp_path).llm.providers] == ["a", "b"]
