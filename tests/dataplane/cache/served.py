"""A gateway with a cache rule for each org, and how tests ask it."""

from __future__ import annotations

import re
import time
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
from tests.harness.gateway import MODEL, ROOT, Gateway, until
from tests.harness.patience import patient

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
  walled-a: {}
  walled-b: {}
  paid: {limits: [{micro_usd: 1000000, per: month}, {requests: 1000, per: month}]}
  free: {limits: [{micro_usd: 1000000, per: month}, {requests: 1000, per: month}]}
  broke-free: {limits: [{requests: 8, per: lifetime}]}
  broke-paid: {limits: [{requests: 8, per: lifetime}]}
"""
HIT_MICRO_USD: Final = 7
LATE: Final = ("unavailable", "recall_unavailable")
"""Reasons of a miss that say nothing about questions."""
LOOKS: Final = 20
"""At an answer that was just given, before it is asked for again: it is stored behind its last byte."""
_EXACT: Final = {"mode": "all", "share": "org"}
_SIMILAR: Final = {**_EXACT, "profile": "strict", "verify_share": 0.001}
RULES: Final[Mapping[str, Mapping[str, Any]]] = {
    "strict": {"match": {"orgs": ["demo", "other", "free", "broke-free"]}, **_SIMILAR},
    "verified": {"match": {"orgs": ["judged"]}, **_SIMILAR, "profile": "verified"},
    "paid": {"match": {"orgs": ["paid", "broke-paid"]}, **_SIMILAR, "hit_micro_usd": HIT_MICRO_USD},
    "walled": {"match": {"orgs": ["walled-a", "walled-b"]}, **_SIMILAR, "share": "user"},
    "brief": {"match": {"orgs": ["brief"]}, **_SIMILAR, "ttl_seconds": 3},
    "off": {"match": {"orgs": ["uncached"]}, "mode": "off"},
    "reloaded": {"match": {"orgs": ["reloaded"]}, **_EXACT},
}
ORGS: Final = tuple(yaml.safe_load(BUDGETS)["orgs"])


def cache_policy(version: int, **changed: Mapping[str, Any]) -> str:
    """cache.yaml with RULES, those named in ``changed`` with other fields."""
    rules = [{"name": name, **rule, **changed.get(name, {})} for name, rule in RULES.items()]
    return yaml.safe_dump({"version": version, "rules": rules}, sort_keys=False)


def _models() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "mesh/base/policy/models.yaml").read_text())
    return found


REVISION: Final[str] = _models()["models"][0]["revision"]


def catalogue(revision: str) -> str:
    """The demo's models.yaml with this revision of the model."""
    document = _models()
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
    def late(self) -> bool:
        """Whether the cache or recall was not there in time."""
        return self.headers.get("x-tidegate-cache-reason") in LATE

    @property
    def entry(self) -> str:
        """Of a hit."""
        return self.headers["x-tidegate-cache-entry"]

    @property
    def content(self) -> str:
        """What the model said; empty where there is no answer."""
        return str(self.body["choices"][0]["message"]["content"]) if "choices" in self.body else ""


def _said(answer: httpx.Response) -> Said:
    is_json = answer.headers.get("content-type", "").startswith("application/json")
    return Said(
        status=answer.status_code,
        headers=answer.headers,
        text=answer.text,
        body=answer.json() if is_json else {},
    )


@dataclass(slots=True, kw_only=True)
class Cached:
    """The gateway, its engine, and the overlay whose files it runs on."""

    gateway: Gateway
    engine: Twin
    mesh: Path
    keys: Mapping[str, str]
    version: int = 1

    def ask(
        self,
        text: str,
        *,
        org: str = "demo",
        control: str = "",
        feedback: str = "",
        late: bool = False,
        **fields: Any,
    ) -> Said:
        """One chat completion. ``control``: the Cache-Control header; ``feedback``: an entry, called wrong in
        a header; ``late``: whether an answer counts that says that something was late or gone, which else is
        a busy machine's and is asked for again; ``fields``: of the body."""
        headers = {"authorization": f"Bearer {self.keys[org]}"}
        headers |= {"cache-control": control} if control else {}
        headers |= {"x-tidegate-cache-feedback": f'wrong; entry="{feedback}"'} if feedback else {}
        messages = [{"role": "user", "content": text}]
        body = {"model": MODEL, "messages": messages, "max_tokens": 200, **fields}
        url = f"{self.gateway.base_url}/chat/completions"

        def send() -> Said | None:
            with patient(headers=headers) as client:
                said = _said(client.post(url, json=body))
            return said if late or not said.late else None

        return until(send, f"an answer to {text!r}")

    def peek(self, text: str, *, org: str = "demo", **fields: Any) -> Said:
        """Without asking the engine: 504 where there is no answer."""
        return self.ask(text, org=org, control="only-if-cached", **fields)

    def kept(self, text: str, **fields: Any) -> Said:
        """Ask until it is in the cache; the answer that is. What a late look-up or write costs is asked for
        again."""

        def keep() -> Said | None:
            said = self.ask(text, **fields)
            assert said.status == 200, said.text
            for _ in range(LOOKS):
                if self.peek(text, **fields).cache == "hit exact":
                    return said
                time.sleep(0.05)
            return None

        return until(keep, f"{text!r} in the cache")

    def found(self, text: str, cache: str, **fields: Any) -> Said:
        """Ask until the answer is found as ``cache`` says; recall may be too late on a busy machine."""

        seen: dict[str, str] = {}

        def look() -> Said | None:
            said = self.peek(text, **fields)
            seen[said.cache] = said.headers.get("x-tidegate-cache-trace", "")
            return said if said.cache == cache else None

        try:
            return until(look, f"{cache} for {text!r}")
        except AssertionError as error:
            error.add_note(f"seen: {seen}")
            raise

    def engine_calls(self) -> int:
        """Requests that reached the engine so far."""
        return len(self.engine.attempts())

    def reached_engine(self, said: Said) -> bool:
        """Whether the engine was asked for that answer."""
        return bool(self.engine.attempts(said.headers["x-request-id"]))

    def sdk(self, org: str = "demo") -> OpenAI:
        """The official client, without retries of its own."""
        return sdk(self.gateway, self.keys[org])

    def usage(self, org: str) -> dict[tuple[str, str], int]:
        """What the org has used this month or ever, by account and measure."""
        url, headers = f"{self.gateway.base_url}/usage", {"authorization": f"Bearer {self.keys[org]}"}
        with patient(headers=headers) as client:
            windows = client.get(url).json()["windows"]
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
