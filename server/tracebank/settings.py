"""All settings, typed. Order of precedence: flag > environment (TRACEBANK_…) > tracebank.toml > default.

`tracebank.toml` lies in the data directory, because what it says (model, index, caches) belongs to that directory.
Nested settings are reached from the environment with two underscores: TRACEBANK_RETRIEVAL__K=3.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource
from pydantic_settings.exceptions import SettingsError as UnreadableVariable

from tracebank.errors import SettingsError
from tracebank.records import ENCODINGS

CONFIG_NAME = "tracebank.toml"
DATA_DIR_VARIABLE = "TRACEBANK_DATA_DIR"


def default_data_dir() -> Path:
    """Return the directory from the environment, else the platform's place for a user's data."""
    if named := os.environ.get(DATA_DIR_VARIABLE):
        return Path(named).expanduser().absolute()
    from platformdirs import user_data_path  # only where it is needed: the front starts without it

    return user_data_path("tracebank", appauthor=False)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EmbeddingSettings(_Section):
    """The model that turns text into vectors."""

    model: str = Field("", description="sentence-transformers model name or path; empty: the bundled all-MiniLM-L6-v2")
    device: str = Field("auto", description="auto, cpu, cuda, mps")
    engine: Literal["auto", "onnx", "torch"] = Field("auto", description="ONNX Runtime where the model can be exported, else torch")
    precision: Literal["auto", "int8", "fp32"] = Field("auto", description="auto: int8 where its vectors passed a check, else fp32")
    cache_dir: str = Field("", description="where exported models are kept; empty: models/ in the data directory")
    batch_tokens: int = Field(2_048, ge=64, le=1_000_000, description="padded tokens in one batch of the model")


class IndexSettings(_Section):
    """How traces are cut into chunks and written to the indexes."""

    chunk_words: int = Field(80, ge=10, le=1_000, description="words in a chunk")
    chunk_overlap_words: int = Field(20, ge=0, le=500, description="words that neighbouring chunks share")
    batch_chunks: int = Field(128, ge=1, le=5_000, description="chunks embedded and written to the indexes at a time")
    linger_ms: int = Field(40, ge=0, le=10_000, description="how long a new trace waits for company before it is indexed")

    @field_validator("chunk_overlap_words")
    @classmethod
    def _less_than_a_chunk(cls, overlap: int, info: ValidationInfo) -> int:
        if overlap >= info.data.get("chunk_words", overlap + 1):
            raise ValueError("must be less than chunk_words")
        return overlap


class RetrievalSettings(_Section):
    """What `retrieve` does when the caller does not say."""

    k: int = Field(5, ge=1, le=50, description="results")
    max_tokens: int = Field(2_000, ge=50, le=100_000, description="token budget of the text")
    candidates: int = Field(200, ge=10, le=5_000, description="chunks taken from each index before fusion")
    wait_ms: int = Field(1_500, ge=0, le=60_000, description="how long a search waits for the caller's own writes to be indexed")


class CacheSettings(_Section):
    """The in-process caches (LRU, with an age limit)."""

    results: int = Field(1_000, ge=0, le=1_000_000, description="answers kept")
    results_ttl_s: float = Field(3_600, gt=0, description="seconds that an answer is kept")
    query_vectors: int = Field(2_000, ge=0, le=1_000_000, description="query embeddings kept")


class TokenSettings(_Section):
    """How tokens are counted."""

    encoding: str = Field("o200k_base", description="tiktoken encoding")
    timeout_s: float = Field(5.0, ge=0, le=120, description="how long to wait for its tables before estimating")

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ENCODINGS:
            raise ValueError(f"encoding must be one of {', '.join(ENCODINGS)}")
        return value


class CompressionSettings(_Section):
    """What `compress_prompt` does when the caller does not say."""

    ratio: float = Field(0.7, gt=0, le=1, description="fraction of the tokens kept")
    head_ratio: float = Field(0.6, ge=0, le=1, description="share of the budget for the beginning when the middle is cut")
    head_share: float = Field(0.2, ge=0, le=1, description="share of the budget that instructions at the beginning may take")
    originals_bytes: int = Field(64 * 1_048_576, ge=0, description="bytes of whole prompts that are kept for `keep_original`")
    originals_age_s: float = Field(7 * 86_400.0, gt=0, description="seconds that a whole prompt is kept after its last use")
    tail_share: float = Field(0.2, ge=0, le=1, description="share of the budget that the request at the end may take")


class DaemonSettings(_Section):
    """The engine as a process of its own."""

    idle_s: float = Field(900.0, gt=0, description="seconds without a client after which the engine leaves")


class Settings(BaseSettings):
    """Every setting of one data directory and its engine."""

    model_config = SettingsConfigDict(
        env_prefix="TRACEBANK_", env_nested_delimiter="__", extra="forbid", frozen=True, nested_model_default_partial_update=True
    )

    data_dir: Path = Field(default_factory=default_data_dir, description="where everything is kept")
    namespace: str = Field("default", min_length=1, max_length=200, description="where a client's traces go when it does not say")
    tools: Annotated[tuple[str, ...], NoDecode] = Field((), description="tools offered; empty: all")
    log_level: Literal["debug", "info", "warning", "error"] = Field("warning", description="what goes to the log")
    embedding: EmbeddingSettings = EmbeddingSettings()
    index: IndexSettings = IndexSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    cache: CacheSettings = CacheSettings()
    tokens: TokenSettings = TokenSettings()
    compression: CompressionSettings = CompressionSettings()
    daemon: DaemonSettings = DaemonSettings()

    @field_validator("tools", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        # An environment variable holds "add_trace, retrieve"; a TOML file holds a list.
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then the environment, then the file."""
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls))


def load_settings(data_dir: Path | None = None, **flags: Any) -> Settings:
    """Return the settings of a data directory. `flags` win over everything else.

    Raises: SettingsError, naming the setting, its value and where to change it.
    """
    directory = (data_dir or default_data_dir()).expanduser().absolute()
    file = directory / CONFIG_NAME

    class SettingsOfDirectory(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    try:
        return SettingsOfDirectory(data_dir=directory, **flags)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} is not valid TOML: {error}") from error
    except UnreadableVariable as error:
        raise SettingsError(f"{error}: set its parts, such as TRACEBANK_RETRIEVAL__K=3") from error
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(item, file) for item in error.errors())) from error


def _explain(item: Any, file: Path) -> str:
    name = ".".join(str(part) for part in item["loc"])
    variable = "TRACEBANK_" + "__".join(str(part).upper() for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"setting {name}: there is no such setting (it is in {variable} or {file})"
    problem = item["msg"].removeprefix("Value error, ")
    return f"setting {name}: {problem}, not {item['input']!r} (set in {variable} or {file})"
