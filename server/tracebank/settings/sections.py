"""Every setting, with its type, its bounds and what it says; those of a part in a section of its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from tracebank.errors import InputError
from tracebank.places import default_data_dir
from tracebank.records import ENCODINGS, Limits, check_id


def _is_reachable(address: str) -> bool:
    """Return whether host and port of an address are such that somebody could be there."""
    try:
        parts = urlsplit(address)
        # To ask for the port is to check it, and to resolve a name begins with its form for DNS.
        return parts.port != 0 and (parts.hostname or "").encode("idna") != b""
    except ValueError:
        return False


def _with_a_home(path: str) -> str:
    """Return a path whose beginning, ~ or ~user, stands for a directory. Raises: ValueError."""
    try:
        Path(path).expanduser()
    except RuntimeError:
        raise ValueError("begins with the home directory of a user who is not known") from None
    if "\0" in path:
        raise ValueError("must have no null character")
    return path


PathText = Annotated[str, AfterValidator(_with_a_home)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class EmbeddingSettings(_Section):
    """The model that turns text into vectors."""

    model: str = Field("", description="sentence-transformers model name or path; empty: the bundled all-MiniLM-L6-v2")
    revision: str = Field("", description="branch, tag or commit of a model on the hub; empty: its newest")
    device: str = Field("auto", description="auto (questions on the processor, many documents on an accelerator), cpu, cuda, mps")
    engine: Literal["auto", "onnx", "torch"] = Field("auto", description="ONNX Runtime where the model can be exported, else torch")
    precision: Literal["auto", "int8", "fp32"] = Field("auto", description="auto: int8 where its vectors passed a check, else fp32")
    cache_dir: PathText = Field("", description="where exported models are kept; empty: models/ in the data directory")
    batch_tokens: int = Field(0, ge=0, le=1_000_000, description="padded tokens in one batch; 0: what suits the device")
    query_prompt: str = Field("", max_length=2_000, description="put before a question; empty: the model's own")
    query_prompt_name: str = Field("", description="which of the model's own prompts that is; empty: its query prompt, if any")
    document_prompt: str = Field("", max_length=2_000, description="put before a stored text; empty: the model's own")
    document_prompt_name: str = Field("", description="which of the model's own prompts that is; empty: its document prompt, if any")
    truncate_dim: int = Field(0, ge=0, le=100_000, description="keep so many numbers of a Matryoshka model's vectors; 0: all")


class IndexSettings(_Section):
    """How traces are cut into chunks and written to the indexes."""

    chunk_tokens: int = Field(112, ge=16, le=8_192, description="most tokens of the embedding model in a chunk")
    chunk_overlap_tokens: int = Field(28, ge=0, le=4_096, description="most tokens that neighbouring chunks share")
    batch_chunks: int = Field(
        128, ge=1, le=5_000, description="chunks embedded and written to the indexes at a time; eight times as many that need no embedding"
    )
    compression: Literal["off", "auto"] | Annotated[int, Field(ge=8, le=100_000)] = Field(
        "auto", description="numbers of a vector in the index of a large namespace; auto: a quarter, if that finds as much; off: all"
    )
    compression_from: int = Field(50_000, ge=200, le=1_000_000_000, description="texts that make a namespace large")
    linger_ms: int = Field(40, ge=0, le=10_000, description="how long a new trace waits for company before it is indexed")

    @field_validator("chunk_overlap_tokens")
    @classmethod
    def _at_most_half_a_chunk(cls, overlap: int, info: ValidationInfo) -> int:
        if overlap > (most := info.data.get("chunk_tokens", 2 * overlap) // 2):
            raise ValueError(f"must be at most {most}, half of chunk_tokens")
        return overlap


class ChromaSettings(_Section):
    """Where Chroma is: in the engine, or a server."""

    mode: Literal["embedded", "http"] = Field(
        "embedded", description="embedded: in the engine, its files in the data directory; http: a server"
    )
    host: str = Field("127.0.0.1", min_length=1, description="the server's name or address")
    port: int = Field(8_000, ge=1, le=65_535, description="the server's port")
    ssl: bool = Field(False, description="whether it speaks https")
    prefix: str = Field(
        "",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,99})?$",
        description="what the names of our collections begin with; empty: the data directory's own",
    )


class RetrievalSettings(_Section):
    """What `retrieve` does when the caller does not say."""

    k: int = Field(5, ge=1, le=50, description="results")
    max_tokens: int = Field(2_000, ge=50, le=100_000, description="token budget of the text")
    candidates: int = Field(100, ge=10, le=5_000, description="chunks taken from each index before fusion; all of a small namespace")
    wait_ms: int = Field(1_500, ge=0, le=60_000, description="how long a search waits for the caller's own writes to be indexed")
    reranker: str = Field("", description="sentence-transformers CrossEncoder, name or path, that reads the best again; empty: none")


class CacheSettings(_Section):
    """The in-process caches (LRU, with an age limit)."""

    results: int = Field(1_000, ge=0, le=1_000_000, description="answers kept")
    results_bytes: int = Field(16_777_216, ge=0, le=2**40, description="memory for them")
    results_ttl_s: float = Field(86_400, gt=0, description="seconds that an answer is kept")
    query_vectors_bytes: int = Field(4_194_304, ge=0, le=2**40, description="memory for the vectors of questions")
    disk_bytes: int = Field(8_388_608, ge=0, le=2**40, description="size of each file that keeps them over a restart; 0: none")
    warm: int = Field(50, ge=0, le=1_000, description="answers prepared in idle time, the likeliest to be asked again; 0: none")
    idle_s: float = Field(5.0, gt=0, le=86_400, description="seconds without a call that are idle time")


class TokenSettings(_Section):
    """How tokens are counted."""

    encoding: str = Field("o200k_base", description="whose tokens budgets are counted in, by tiktoken's name")

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
    model_wait_s: float = Field(5.0, ge=0, le=120, description="how long a cut waits for a model that is still loading")
    token_model: PathText = Field("", description="directory of a token classifier (LLMLingua-2) that says which words can go; empty: none")
    originals_bytes: int = Field(64 * 1_048_576, ge=0, le=2**40, description="bytes of whole prompts that are kept for `keep_original`")
    originals_age_s: float = Field(
        7 * 86_400.0, gt=0, le=3_153_600_000, description="seconds that a whole prompt is kept after its last use"
    )
    tail_share: float = Field(0.2, ge=0, le=1, description="share of the budget that the request at the end may take")


class ProviderSettings(_Section):
    """One language model that can be asked, and where."""

    name: str = Field("", max_length=64, description="what errors and `stats` call it; empty: the model's name")
    protocol: Literal["chat", "responses", "messages"] = Field(
        "chat", description="chat: OpenAI-compatible chat completions; responses: OpenAI Responses; messages: Anthropic Messages"
    )
    base_url: str = Field(
        "", description="address up to and with the version, such as http://127.0.0.1:11434/v1; empty: the protocol's own"
    )
    model: str = Field(min_length=1, description="the model, in the provider's words")
    key_variable: str = Field(
        "", pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$", description="environment variable that holds the key; empty: none is sent"
    )
    ca_file: PathText = Field("", description="file of certificates (PEM) to trust besides the public ones")
    context_tokens: int = Field(
        32_000, ge=256, le=1_000_000_000, description="what the model reads and writes at most; a longer prompt is compressed"
    )
    max_output_tokens: int = Field(2_000, ge=1, le=1_000_000_000, description="what an answer may have")
    json_schema: bool = Field(True, description="whether the provider takes a JSON schema; else the prompt asks for it")
    usd_per_million_tokens_in: float = Field(0.0, ge=0, le=1_000_000, description="price of what it reads; 0: free, such as a local model")
    usd_per_million_tokens_out: float = Field(0.0, ge=0, le=1_000_000, description="price of what it writes")

    @field_validator("key_variable")
    @classmethod
    def _not_ours(cls, value: str) -> str:
        # What begins so is a setting: clients send theirs to the engine, and are told where they differ.
        if value.upper().startswith("TRACEBANK_"):
            raise ValueError("must not begin with TRACEBANK_")
        return value

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, value: str) -> str:
        if value and (not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s@?#]*)?", value)):
            raise ValueError("must be an http or https address without user, password or query")
        if value and not _is_reachable(value):
            raise ValueError("must have a host, of parts of 1 to 63 characters, and a port of 1 to 65535 where there is one")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        host = urlsplit(self.base_url).hostname
        if self.key_variable and self.base_url.startswith("http:") and host not in {"localhost", "127.0.0.1", "::1"}:
            raise ValueError("base_url must be https where a key is sent: over plain http everybody on the way can read it")
        if self.max_output_tokens >= self.context_tokens:
            raise ValueError("max_output_tokens must be less than context_tokens")
        return self


class LlmSettings(_Section):
    """Language models. Without a provider there are none, and nothing is ever sent."""

    providers: tuple[ProviderSettings, ...] = Field((), description="in the order in which they are asked; empty: off")
    daily_tokens: int = Field(1_000_000, ge=0, le=2**50, description="tokens in and out that all of them may use in one day (UTC)")
    daily_usd: float = Field(5.0, ge=0, le=1_000_000_000, description="US dollars that all of them may cost in one day (UTC)")
    attempts: int = Field(4, ge=1, le=10, description="how often a provider is asked before the next one is")
    backoff_s: float = Field(0.5, gt=0, le=60, description="the first pause between attempts is up to this long, each next up to twice")
    max_wait_s: float = Field(30.0, ge=0, le=600, description="longest pause, also where the provider asks for more")
    connect_timeout_s: float = Field(5.0, gt=0, description="seconds for a connection")
    read_timeout_s: float = Field(90.0, gt=0, description="seconds without a byte")
    write_timeout_s: float = Field(30.0, gt=0, description="seconds without a byte taken")
    pool_timeout_s: float = Field(60.0, gt=0, description="seconds of waiting for one of the connections to be free")
    attempt_timeout_s: float = Field(180.0, gt=0, description="seconds for one attempt as a whole, however slowly bytes come")
    connections: int = Field(10, ge=1, le=100, description="connections kept open to each provider")
    breaker_failures: int = Field(5, ge=1, le=1_000_000, description="failures in a row after which a provider is left alone")
    breaker_pause_s: float = Field(30.0, gt=0, description="seconds for which it is left alone")
    cache: int = Field(0, ge=0, le=1_000_000, description="answers kept for equal prompts; 0: none")
    cache_ttl_s: float = Field(3_600, gt=0, allow_inf_nan=True, description="seconds that an answer is kept")

    @field_validator("providers", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        if not isinstance(value, list | tuple):
            raise ValueError("must be a list: [[llm.providers]] in the file, or all of it as JSON in the variable")  # noqa: TRY004 - pydantic's
        return value

    @field_validator("providers")
    @classmethod
    def _one_of_each_name(cls, value: tuple[ProviderSettings, ...]) -> tuple[ProviderSettings, ...]:
        names = [provider.name or provider.model for provider in value]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two providers are called {', '.join(twice)}: give each a name of its own")
        return value


class LearningSettings(_Section):
    """Episodes, and what is learned from them."""

    flush_steps: int = Field(50, ge=1, le=10_000, description="logged steps that are stored together at the latest")
    flush_s: float = Field(5.0, gt=0, le=3_600, description="seconds after which a logged step is stored, with all others by then")
    abandon_after_s: float = Field(
        86_400.0, gt=0, le=31_536_000, description="seconds without a step after which an episode is closed as unknown"
    )
    reflection_timeout_s: float = Field(8.0, gt=0, le=600, description="seconds that each part of a completion may take")
    waiting_actions: tuple[str, ...] = Field(
        ("ask_user", "ask_human", "human_input", "wait_for_user", "request_approval", "request_user_input"),
        description="actions that wait for a person: no effort of the agent",
    )
    feedback_half_life_days: float = Field(180.0, gt=0, le=36_500, description="days after which feedback counts half")
    age_half_life_days: float = Field(365.0, gt=0, le=36_500, description="days after which a memory has lost half of what age can cost it")
    consolidate: bool = Field(True, description="whether equal and contrary lessons are brought together in idle time")
    consolidate_after_s: float = Field(60.0, ge=0, le=86_400, description="seconds without a call that are idle time")


class ReasoningSettings(_Section):
    """What `reason` does when the caller does not say, and its bounds."""

    iterations: int = Field(3, ge=1, le=10, description="drafts that an attempt may take until the judge is content")
    candidates: int = Field(1, ge=1, le=8, description="attempts side by side")
    memory_tokens: int = Field(1_500, ge=50, le=20_000, description="tokens of memories that an attempt is given")
    timeout_s: float = Field(300.0, gt=0, le=3_600, description="seconds after which the best draft so far is the answer")


class DaemonSettings(_Section):
    """The engine as a process of its own."""

    idle_s: float = Field(900.0, gt=0, allow_inf_nan=True, description="seconds without a client after which the engine leaves")


class Settings(BaseSettings):
    """Every setting of one data directory and its engine."""

    model_config = SettingsConfigDict(
        env_prefix="TRACEBANK_", env_nested_delimiter="__", extra="forbid", frozen=True, nested_model_default_partial_update=True
    )

    data_dir: Path = Field(default_factory=lambda: Path(default_data_dir()), description="where everything is kept")
    namespace: str = Field("default", min_length=1, max_length=200, description="where a client's traces go when it does not say")
    tools: Annotated[tuple[str, ...], NoDecode] = Field((), description="tools offered; empty: all")
    log_level: Literal["debug", "info", "warning", "error"] = Field("warning", description="what goes to the log")
    embedding: EmbeddingSettings = EmbeddingSettings()
    index: IndexSettings = IndexSettings()
    chroma: ChromaSettings = ChromaSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    cache: CacheSettings = CacheSettings()
    tokens: TokenSettings = TokenSettings()
    compression: CompressionSettings = CompressionSettings()
    llm: LlmSettings = LlmSettings()
    learning: LearningSettings = LearningSettings()
    reasoning: ReasoningSettings = ReasoningSettings()
    daemon: DaemonSettings = DaemonSettings()

    @property
    def models_dir(self) -> Path:
        """Where exported models are kept."""
        return Path(self.embedding.cache_dir).expanduser() if self.embedding.cache_dir else self.data_dir / "models"

    @field_validator("namespace")
    @classmethod
    def _name(cls, value: str) -> str:
        try:
            return check_id("namespace", value, Limits())
        except InputError as error:
            # The value is told with the setting.
            raise ValueError(error.problem.rpartition(", not ")[0] or error.problem) from None

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
