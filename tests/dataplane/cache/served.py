"""A gateway with a cache rule for each org, and how tests ask it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import yaml
from openai import OpenAI

from ext_proc.cache.entry import Sealer
from ext_proc.cache.redis_store import RedisStore
from ext_proc.settings import load_secrets
from gateway.contract.clock import SystemClock
from mesh.local.layout import layout_of
from tests.harness.api_keys import sdk
from tests.harness.engines import Twin
from tests.harness.gateway import MODEL, ROOT, Gateway

BUDGETS: Final = """
version: 1
minimum_completion_tokens: 16
tiers:
  standard: {priority: 0, priority_class: standard, key: {}}
orgs:
  demo: {}
  other: {}
  judged: {}
  brief: {}
  uncached: {}
  reloaded: {}
  paid: {limits: [{micro_usd: 1000000, per: month}, {requests: 1000, per: month}]}
  free: {limits: [{micro_usd: 1000000, per: month}, {requests: 1000, per: month}]}
  broke-free: {limits: [{requests: 1, per: lifetime}]}
  broke-paid: {limits: [{requests: 1, per: lifetime}]}
"""
HIT_MICRO_USD: Final = 7
_EXACT: Final = {"mode": "all", "share": "org"}
_SIMILAR: Final = {**_EXACT, "profile": "strict", "verify_share": 0.001}
RULES: Final[Mapping[str, Mapping[str, Any]]] = {
    "strict": {"match": {"orgs": ["demo", "other", "free", "broke-free"]}, **_SIMILAR},
    "verified": {"match": {"orgs": ["judged"]}, **_SIMILAR, "profile": "verified"},
    "paid": {"match": {"orgs": ["paid", "broke-paid"]}, **_SIMILAR, "hit_micro_usd": HIT_MICRO_USD},
    "brief": {"match": {"orgs": ["brief"]}, **_SIMILAR, "ttl_seconds": 1},
    "off": {"match": {"orgs": ["uncached"]}, "mode": "off"},
    "reloaded": {"match": {"orgs": ["reloaded"]}, **_EXACT},
}
ORGS: Final = tuple(yaml.safe_load(BUDGETS)["orgs"])


def cache_policy(version: int, **changed: Mapping[str, Any]) -> str:
    """cache.yaml with RULES, those named in ``changed`` with other fields."""
    rules = [{"name": name, **rule, **changed.get(name, {})} for name, rule in RULES.items()]
    return yaml.safe_dump({"version": version, "rules": rules}, sort_keys=False)


def catalogue(revision: str) -> str:
    """The demo's models.yaml with another revision of the model."""
    document: dict[str, Any] = yaml.safe_load((ROOT / "mesh/base/policy/models.yaml").read_text())
    document["models"][0]["revision"] = revision
    return yaml.safe_dump(document)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """An answer as a client sees it."""

    status: int
    headers: Mapping[str, str]
    text: str
    body: dict[str, Any]

    @property
    def cache(self) -> str:
        """``hit canonical``, ``miss guard.number``, ``bypass no_store``: as the headers have it."""
        said = self.headers.get("x-tidegate-cache", "-")
        kind = self.headers.get("x-tidegate-cache-kind", self.headers.get("x-tidegate-cache-reason", ""))
        return f"{said} {kind}".strip()

    @property
    def entry(self) -> str:
        """Of a hit."""
        return self.headers["x-tidegate-cache-entry"]

    @property
    def content(self) -> str:
        """What the model said."""
        found: str = self.body["choices"][0]["message"]["content"]
        return found


@dataclass(slots=True, kw_only=True)
class Cached:
    """The gateway, its engine, and the overlay whose files it runs on."""

    gateway: Gateway
    engine: Twin
    mesh: Path
    keys: Mapping[str, str]
    version: int = 1

    def ask(self, text: str, *, org: str = "demo", control: str = "", **fields: Any) -> Said:
        """One chat completion. ``control``: the Cache-Control header; ``feedback`` and all others are fields
        of the body, but ``feedback``, which is a header."""
        headers = {"authorization": f"Bearer {self.keys[org]}"}
        headers |= {"cache-control": control} if control else {}
        feedback = fields.pop("feedback", "")
        headers |= {"x-tidegate-cache-feedback": f'wrong; entry="{feedback}"'} if feedback else {}
        messages = [{"role": "user", "content": text}]
        body = {"model": MODEL, "messages": messages, "max_tokens": 200, **fields}
        url = f"{self.gateway.base_url}/chat/completions"
        answer = httpx.post(url, json=body, headers=headers, timeout=30, trust_env=False)
        is_json = answer.headers.get("content-type", "").startswith("application/json")
        return Said(
            status=answer.status_code,
            headers=answer.headers,
            text=answer.text,
            body=answer.json() if is_json else {},
        )

    def peek(self, text: str, *, org: str = "demo", **fields: Any) -> Said:
        """Without asking the engine: 504 where there is no answer."""
        return self.ask(text, org=org, control="only-if-cached", **fields)

    def sdk(self, org: str = "demo") -> OpenAI:
        """The official client, without retries of its own."""
        return sdk(self.gateway, self.keys[org])

    def usage(self, org: str) -> dict[tuple[str, str], int]:
        """What the org has used this month or ever, by account and measure."""
        url, headers = f"{self.gateway.base_url}/usage", {"authorization": f"Bearer {self.keys[org]}"}
        windows = httpx.get(url, headers=headers, timeout=30, trust_env=False).json()["windows"]
        assert all(window["held"] == 0 for window in windows)
        return {
            (window["account"], window["measure"]): window["used"]
            for window in windows
            if window["account"] == "org"
        }

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all series of ``name`` that have ``labels``."""
        text = httpx.get(f"{self.gateway.operators_url}/metrics", trust_env=False).text
        found = re.findall(rf"^{name}(\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(float(value) for series, value in found if all(one in series for one in wanted))

    def set_policy(self, **changed: Mapping[str, Any]) -> None:
        """Another cache.yaml; in force soon."""
        self.version += 1
        (self.mesh / "cache.yaml").write_text(cache_policy(self.version, **changed))

    def store(self) -> RedisStore:
        """The gateway's store, for operators' calls; to be made and closed where an event loop runs."""
        seal = load_secrets(self.gateway.state / "secrets").entry_key()
        socket = layout_of(self.gateway.state).socket("cache")
        return RedisStore.connect(f"unix://{socket}", Sealer(seal), SystemClock())
