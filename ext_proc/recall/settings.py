"""Settings of the recall process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gateway.config.environment import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallSettings:
    """Read from the environment by gateway.config.environment.load."""

    listen: Path = setting("LISTEN", "Unix socket to serve on")
    policy_dir: Path = setting("POLICY_DIR", "directory with cache.yaml")
    secrets_dir: Path = setting(
        "SECRETS_DIR", "directory with pseudonym.key and cache_salt.key; embedder.key where an engine asks it"
    )
    cache_url: str = setting("CACHE_URL", "cache Valkey: unix:///path or redis://host:port/0")
    table_url: str = setting(
        "TABLE_URL", "where stored questions are kept: a directory, or an object store's URL"
    )
    models_dir: Path = setting("MODELS_DIR", "directory for the embedder's prepared model")
    embedder: str = setting(
        "EMBEDDER",
        "minilm, the path of an .onnx file (with tokenizer.json), or an http(s) URL before /v1/embeddings",
        default="minilm",
    )
    embedder_model: str = setting("EMBEDDER_MODEL", "name of the model at an http(s) URL", default="")
    embedder_revision: str = setting(
        "EMBEDDER_REVISION", "its revision: another one is another embedder", default=""
    )
    embedder_dimensions: int = setting(
        "EMBEDDER_DIMENSIONS", "numbers in a vector of a model that is not minilm", default=384
    )
    embedder_prefix: str = setting(
        "EMBEDDER_PREFIX", "put before every text of a model that is not minilm", default=""
    )
    embedder_languages: str = setting(
        "EMBEDDER_LANGUAGES",
        "ISO 639-1 codes with commas between, of a model that is not minilm; empty: any",
        default="",
    )
    gateway_url: str = setting(
        "GATEWAY_URL", "the gateway's own URL, for checks of hits; empty: nothing is checked", default=""
    )
    operator_key_file: str = setting(
        "OPERATOR_KEY_FILE", "file with the API key that pays for these checks", default=""
    )
    checks_dir: str = setting("CHECKS_DIR", "directory for what the checks have taught", default="")
    judge_model: str = setting(
        "JUDGE_MODEL", "who judges near misses; empty: the model that answered", default=""
    )
    ledger_url: str = setting(
        "LEDGER_URL", "ledger Valkey, which takes the events of these checks", default=""
    )
    log_level: str = setting("LOG_LEVEL", "debug, info, warning or error", default="info")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckSettings:
    """``gateway_url``: of the gateway itself; ``key_file``: holds the operator's API key; ``state_dir``: for
    what is learnt; ``judge_model``: who judges, empty: the model that answered."""

    gateway_url: str
    key_file: Path
    state_dir: Path
    judge_model: str = ""
