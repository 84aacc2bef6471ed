"""What the client libraries talk to: a gateway with more models and accounts than the demo has."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, OpenAI

from gateway.contract.clock import SystemClock
from mesh.local.credentials import mint_jwt
from tests.harness.gateway import MODEL, ROOT, Gateway, overlay
from tests.harness.patience import AsyncSdkPatient, SdkClient

PLAIN_MODEL = "plain"
EMBEDDER = "embedder"
TWIN_MODELS = (MODEL, PLAIN_MODEL, EMBEDDER)
CLIENT_TIMEOUT_S = 120.0
"""A real engine on a CPU that is busy with other tests takes seconds for its first token."""

BUDGETS = """
version: 1
minimum_completion_tokens: 16
tiers:
  standard: {priority: 0, priority_class: standard, key: {}}
orgs:
  demo: {tokens_per_minute: 50000000}
  minute: {tokens_per_minute: 300}
  month: {tokens_per_month: 300}
"""
"""``minute`` and ``month`` have room for a few short requests."""


def catalogue() -> str:
    """The demo's models.yaml with a model that can do less and one that embeds, both of the twin only."""
    document: dict[str, Any] = yaml.safe_load((ROOT / "mesh/base/policy/models.yaml").read_text())
    demo = document["models"][0]
    demo["capabilities"]["tools"] = True
    plain = copy.deepcopy(demo)
    del plain["aliases"]
    plain.update(name=PLAIN_MODEL, served_name=PLAIN_MODEL, revision="plain-1")
    plain["capabilities"].update(tools=False, logprobs=False, json_schema=False, n_max=1)
    embedder = {
        "name": EMBEDDER,
        "revision": "embedder-1",
        "context_tokens": demo["context_tokens"],
        "max_completion_tokens": 0,
        "template_tokens_base": 0,
        "template_tokens_per_message": 0,
        "endpoints": ["embeddings"],
        "capabilities": {"batch_max": 32},
    }
    document["models"] += [plain, embedder]
    return yaml.safe_dump(document)


def policy(directory: Path) -> Path:
    """The overlay that the gateways of this tier run on."""
    files = {"models.yaml": catalogue(), "budgets.yaml": BUDGETS}
    return overlay(directory, files)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A gateway in front of ``engine`` (``twin`` or ``sglang``)."""

    gateway: Gateway
    engine: str

    def sdk(self, **options: Any) -> OpenAI:
        """The official client as an application makes it; no retries unless asked for, so that a first
        failure is seen, but a busy machine's."""
        return OpenAI(**{**self._options(), "http_client": SdkClient(), **options})

    def async_sdk(self, **options: Any) -> AsyncOpenAI:
        """The same, for asyncio."""
        client = DefaultAsyncHttpxClient(transport=AsyncSdkPatient(verify=False))
        return AsyncOpenAI(**{**self._options(), "http_client": client, **options})

    def jwt(self, org: str) -> str:
        """A token for user alice of ``org``."""
        return mint_jwt(self.gateway.state / "secrets", SystemClock(), org=org)

    def used(self) -> int:
        """Tokens charged to the org this month, once nothing is held."""
        return int(self.gateway.settled()[("org", "month")]["used"])

    def _options(self) -> dict[str, Any]:
        return {
            "base_url": self.gateway.base_url,
            "api_key": self.gateway.api_key,
            "max_retries": 0,
            "timeout": CLIENT_TIMEOUT_S,
        }


def ask(text: str, *, max_tokens: int = 12, **more: Any) -> dict[str, Any]:
    """Arguments of ``chat.completions.create`` for one user message."""
    messages = [{"role": "user", "content": text}]
    return {"model": MODEL, "messages": messages, "max_tokens": max_tokens, **more}
