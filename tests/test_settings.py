"""Where a setting comes from, and what is said of a wrong one."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from tracebank.errors import SettingsError
from tracebank.places import default_data_dir
from tracebank.settings import Settings, load_settings

SAMPLE = Path(__file__).parents[1] / "config" / "tracebank.toml"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a data directory that is there but empty."""
    path = tmp_path / "data"
    path.mkdir()
    return path


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each source is asked in turn, also for single settings of one section."""
    (directory / "tracebank.toml").write_text('namespace = "file"\n[retrieval]\nk = 7\nmax_tokens = 700\ncandidates = 70\n')
    monkeypatch.setenv("TRACEBANK_RETRIEVAL__K", "8")
    monkeypatch.setenv("TRACEBANK_RETRIEVAL__MAX_TOKENS", "800")
    monkeypatch.setenv("TRACEBANK_NAMESPACE", "environment")
    settings = load_settings(directory, namespace="flag", retrieval={"k": 9})
    assert settings.namespace == "flag"
    assert (settings.retrieval.k, settings.retrieval.max_tokens, settings.retrieval.candidates) == (9, 800, 70)
    assert settings.retrieval.wait_ms == Settings.model_fields["retrieval"].default.wait_ms
    assert load_settings(directory).namespace == "environment"


def test_the_data_directory_comes_from_the_flag_else_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its file from there, too; the file cannot send us elsewhere."""
    named = tmp_path / "named"
    named.mkdir()
    (named / "tracebank.toml").write_text('namespace = "of named"\ndata_dir = "/elsewhere"\n')
    monkeypatch.setenv("TRACEBANK_DATA_DIR", str(named))
    assert default_data_dir() == str(named)
    assert (load_settings().data_dir, load_settings().namespace) == (named, "of named")
    assert (load_settings(tmp_path / "other").data_dir, load_settings(tmp_path / "other").namespace) == (tmp_path / "other", "default")


def test_without_a_name_the_data_directory_is_the_platforms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the user's data, by our name."""
    monkeypatch.delenv("TRACEBANK_DATA_DIR")
    assert Path(default_data_dir()).is_absolute()
    assert "tracebank" in Path(default_data_dir()).name


def _sections() -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, BaseModel):
            yield name, type(field.default)


def test_the_sample_file_holds_exactly_the_defaults(directory: Path) -> None:
    """Copied as it is, it changes nothing."""
    (directory / "tracebank.toml").write_text(SAMPLE.read_text(encoding="utf-8"), encoding="utf-8")
    with_file = load_settings(directory).model_dump()
    (directory / "tracebank.toml").unlink()
    assert with_file == load_settings(directory).model_dump()


def test_the_sample_file_has_every_setting_and_explains_it() -> None:
    """A setting without its line in the file, or its comment above, is not documented."""
    written = tomllib.loads(SAMPLE.read_text(encoding="utf-8"))
    expected = {name: set(section.model_fields) for name, section in _sections()}
    top = set(Settings.model_fields) - set(expected) - {"data_dir"}
    assert {name for name, value in written.items() if not isinstance(value, dict)} == top
    assert {name: set(value) for name, value in written.items() if isinstance(value, dict)} == expected
    for block in re.split(r"\n\s*\n", SAMPLE.read_text(encoding="utf-8")):
        lines = [line for line in block.splitlines() if not line.startswith("[")]
        assert lines[0].startswith("#"), block


def test_every_setting_is_described_in_the_code() -> None:
    """The description is what `--help` and the documentation say."""
    for _, section in _sections():
        assert all(field.description for field in section.model_fields.values()), section


def test_the_list_of_tools_is_a_comma_list_in_the_environment(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blanks and an empty end do not matter; in the file it is a list."""
    monkeypatch.setenv("TRACEBANK_TOOLS", "add_trace, retrieve,")
    assert load_settings(directory).tools == ("add_trace", "retrieve")
    monkeypatch.setenv("TRACEBANK_TOOLS", "")
    assert load_settings(directory).tools == ()
    monkeypatch.delenv("TRACEBANK_TOOLS")
    (directory / "tracebank.toml").write_text('tools = ["stats"]')
    assert load_settings(directory).tools == ("stats",)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("TRACEBANK_RETRIEVAL__K", "51", "setting retrieval.k: Input should be less than or equal to 50, not '51' (set in TRACEBANK"),
        ("TRACEBANK_RETRIEVAL__K", "many", "setting retrieval.k: Input should be a valid integer"),
        ("TRACEBANK_LOG_LEVEL", "loud", "setting log_level: Input should be 'debug', 'info', 'warning' or 'error', not 'loud'"),
        ("TRACEBANK_NAMESPACE", "", "setting namespace: String should have at least 1 character, not ''"),
        ("TRACEBANK_RETRIEVAL__SPEED", "9", "setting retrieval.speed: there is no such setting: take it out of TRACEBANK_RETRIEVAL__SPEED"),
        ("TRACEBANK_RETRIEVAL", "fast", 'error parsing value for field "retrieval"'),
        ("TRACEBANK_NAMESPACE", "*", "setting namespace: '*' stands for all namespaces when searching; give it a name of its own"),
        ("TRACEBANK_NAMESPACE", "a\nb", "setting namespace: must be one line without control characters"),
        ("TRACEBANK_RETREIVAL__K", "3", "setting retreival: there is no such section (it is in TRACEBANK_RETREIVAL__K); the sections"),
        ("TRACEBANK_NAMESPACE__X", "3", "setting namespace: there is no such section (it is in TRACEBANK_NAMESPACE__X)"),
        ("TRACEBANK_LLM__DAILY_USD", "inf", "setting llm.daily_usd: Input should be a finite number, not 'inf'"),
        ("TRACEBANK_LLM__DAILY_USD", "1e300", "setting llm.daily_usd: Input should be less than or equal to 1000000000, not '1e300'"),
        ("TRACEBANK_EMBEDDING__CACHE_DIR", "~nosuchuser/x", "setting embedding.cache_dir: begins with the home directory of a user who"),
        ("TRACEBANK_COMPRESSION__TOKEN_MODEL", "~nosuchuser/x", "setting compression.token_model: begins with the home directory of"),
        ("TRACEBANK_LLM__PROVIDERS", '[{"model": "m", "ca_file": "~nosuchuser/x"}]', "setting llm.providers.0.ca_file: begins"),
        ("TRACEBANK_INDEX__CHUNK_OVERLAP_TOKENS", "80", "setting index.chunk_overlap_tokens: must be at most 56, half of chunk"),
    ],
)  # fmt: skip
def test_an_error_names_the_setting_its_value_and_where_it_is_set(
    directory: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    """So that it can be put right without a look into the code."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=r"^" + re.escape(message)):
        load_settings(directory)


@pytest.mark.parametrize("text", [b"namespace = ", b"namespace = '\xff'", b"namespace = 1\nnamespace = 2"])
def test_a_file_that_is_no_toml_is_named(directory: Path, text: bytes) -> None:
    """Whether it is badly written or no text at all."""
    (directory / "tracebank.toml").write_bytes(text)
    with pytest.raises(SettingsError, match=r"tracebank\.toml is not valid TOML"):
        load_settings(directory)


@pytest.mark.parametrize("text", ["x = " + "[" * 3_000, None, '[embedding]\ncache_dir = "a\\u0000b"'])
def test_a_file_that_cannot_have_an_effect_is_refused(directory: Path, text: str | None) -> None:
    """Somebody wrote it because he meant it."""
    file = directory / "tracebank.toml"
    file.mkdir() if text is None else file.write_text(text)
    with pytest.raises(SettingsError, match=r"tracebank\.toml"):
        load_settings(directory)


def test_what_is_wrong_outside_the_file_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A home directory that nobody has, and brackets without an end."""
    with pytest.raises(SettingsError, match=r"^setting data_dir: .* ~nosuchuser/x"):
        load_settings(Path("~nosuchuser/x"))
    monkeypatch.setenv("TRACEBANK_LLM", "[" * 100_000)
    with pytest.raises(SettingsError, match="too many brackets"):
        load_settings()


def test_every_whole_number_is_one_that_a_database_can_hold(directory: Path) -> None:
    """What it cannot fails later, and for ever."""
    for section, model in _sections():
        for name, field in model.model_fields.items():
            if field.annotation is int:
                (directory / "tracebank.toml").write_text(f"[{section}]\n{name} = {2**63}\n")
                with pytest.raises(SettingsError, match=rf"setting {section}\.{name}: Input should be less than or equal to"):
                    load_settings(directory)


def test_what_belongs_to_the_environment_only_is_no_unknown_setting(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are variables of others that begin as ours do."""
    for name in (
        "TRACEBANK_ENGINE",
        "TRACEBANK_TRANSPORT",
        "TRACEBANK_HTTP_TOKEN",
        "TRACEBANK_OF_A_PLUGIN",
        "TRACEBANK_MYPLUGIN__KEY",
        "OTHER__NAME",
    ):
        monkeypatch.setenv(name, "tcp")
    assert load_settings(directory).namespace == "default"


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
def test_every_number_is_finite(directory: Path, value: str) -> None:
    """What is none breaks somewhere later: it is no amount, and no time, but for two that may be for ever."""
    for section, model in _sections():
        for name, field in model.model_fields.items():
            if field.annotation is float and value == "inf" and (section, name) in {("daemon", "idle_s"), ("llm", "cache_ttl_s")}:
                (directory / "tracebank.toml").write_text(f"[{section}]\n{name} = {value}\n")
                assert getattr(getattr(load_settings(directory), section), name) == float("inf")
            elif field.annotation is float:
                (directory / "tracebank.toml").write_text(f"[{section}]\n{name} = {value}\n")
                with pytest.raises(SettingsError, match=rf"setting {section}\.{name}: "):
                    load_settings(directory)


def test_all_wrong_settings_are_told_at_once(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One attempt shows all that is to be put right."""
    monkeypatch.setenv("TRACEBANK_CASHE__SKY", "blue")
    (directory / "tracebank.toml").write_text('colour = "red"\n[cache]\nresults = -1\n[index]\nchunk_tokens = 50\n')
    with pytest.raises(SettingsError) as caught:
        load_settings(directory)
    for name in ("cashe", "colour", "cache.results", "index.chunk_overlap_tokens"):
        assert f"setting {name}: " in str(caught.value)


KEY = "sk-secret"
PROVIDER = '[[llm.providers]]\nmodel = "m"\n'


@pytest.mark.parametrize(
    "text",
    [
        f'[[llm.providers]]\nkey_variable = "{KEY}"',
        f'{PROVIDER}api_key = "{KEY}"',
        f'{PROVIDER}name = "{KEY * 10}"',
        f'{PROVIDER}model = ["{KEY}"]'.replace('model = "m"\n', ""),
        f'{PROVIDER}protocol = "{KEY}"',
        f'{PROVIDER}context_tokens = "{KEY}"',
        f'{PROVIDER}context_tokens = 300\nca_file = "{KEY}"',
        f'{PROVIDER}base_url = "http://far.example"\nkey_variable = "{KEY.replace("-", "_")}"',
        f'{PROVIDER}ca_file = "{KEY}"\n{PROVIDER}',
        f'[llm.providers]\nmodel = "m"\nkey_variable = "{KEY}"',
        f'[llm]\nproviders = "{KEY}"',
        f'[llm]\nproviders = ["{KEY}"]',
        f'[llm]\napi_key = "{KEY}"',
        f'llm = "{KEY}"',
        f'llm = ["{KEY}"]',
    ],
)
def test_no_error_repeats_a_key_from_the_file(directory: Path, text: str) -> None:
    """Wherever somebody has put one by mistake: errors go to logs, terminals and agents."""
    (directory / "tracebank.toml").write_text(text)
    with pytest.raises(SettingsError, match=r"^setting llm") as caught:
        load_settings(directory)
    assert not {KEY, KEY.replace("-", "_")} & set(re.findall(r"sk.secret", str(caught.value)))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TRACEBANK_LLM__PROVIDERS", KEY),
        ("TRACEBANK_LLM__PROVIDERS", f'{{"model": "m", "api_key": "{KEY}"}}'),
        ("TRACEBANK_LLM__PROVIDERS", f'[{{"key_variable": "{KEY}"}}]'),
        ("TRACEBANK_LLM__PROVIDERS__0__API_KEY", KEY),
        ("TRACEBANK_LLM", KEY),
        ("TRACEBANK_LLM", f'"{KEY}"'),
    ],
)
def test_no_error_repeats_a_key_from_the_environment(directory: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    """As in the file."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        load_settings(directory)
    assert KEY not in str(caught.value)


def test_the_variable_that_an_error_names_is_one_that_works(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entries of a list have none of their own."""
    (directory / "tracebank.toml").write_text("tools = [3]\n[index]\ncompression = 3\n[[llm.providers]]\ncontext_tokens = 3\n")
    with pytest.raises(SettingsError) as caught:
        load_settings(directory)
    assert set(re.findall(r"TRACEBANK_\w+\S*", str(caught.value))) == {
        "TRACEBANK_TOOLS", "TRACEBANK_INDEX__COMPRESSION", "TRACEBANK_LLM__PROVIDERS",
    }  # fmt: skip
    assert "context_tokens: Input should be greater than or equal to 256, not 3 (set in TRACEBANK_LLM__PROVIDERS or" in str(caught.value)
    (directory / "tracebank.toml").unlink()
    monkeypatch.setenv("TRACEBANK_LLM__PROVIDERS", '[{"model": "m"}]')
    assert [provider.model for provider in load_settings(directory).llm.providers] == ["m"]
    monkeypatch.delenv("TRACEBANK_LLM__PROVIDERS")
    monkeypatch.setenv("TRACEBANK_LLM__PROVIDERS__0__MODEL", "m")
    with pytest.raises(SettingsError, match=r"must be a list.* as JSON in the variable .*set in TRACEBANK_LLM__PROVIDERS or"):
        load_settings(directory)
