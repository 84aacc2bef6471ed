"""cache.yaml: read, held against its schema (policy.schema.json) and its rules, and made a snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from ext_proc.cache.detectors import DETECTORS
from ext_proc.cache.policy import CacheMode, CachePolicy, CacheRule, Group, Match, Profile, Share
from ext_proc.cache.policy_problems import policy_problems
from gateway.config.document import Document, PolicyError, read_document, validate
from gateway.contract.ids import OrgId
from gateway.contract.units import MicroUsd
from gateway.openai.terms import Endpoint

_SAME_NAME = ("ttl_seconds", "freshness", "actions", "tool_results", "false_hit_slo", "verify_share")


@cache
def schema() -> Mapping[str, Any]:
    """The published JSON Schema."""
    found: dict[str, Any] = orjson.loads(Path(__file__).with_name("policy.schema.json").read_bytes())
    return found


def load_cache_policy(file: Path) -> CachePolicy:
    """The policy in ``file``, or that without a file where there is none: policies of earlier versions had
    none. Raises PolicyError, which names file, line and path."""
    return read_cache_policy(read_document(file, shown_as=file.name)) if file.exists() else CachePolicy()


def read_cache_policy(document: Document) -> CachePolicy:
    """The snapshot of a document. Raises PolicyError with every problem."""
    validate(document, schema())
    problems = policy_problems(document)
    if problems:
        raise PolicyError(sorted(problems, key=lambda problem: problem.line))
    groups = {name: _group(name, data) for name, data in document.data.get("groups", {}).items()}
    return CachePolicy(
        version=int(document.data["version"]),
        rules=tuple((_match(rule), _rule(rule, groups)) for rule in document.data.get("rules", ())),
    )


def _group(name: str, data: Mapping[str, Any]) -> Group:
    return Group(
        name=name,
        org=OrgId(data["org"]),
        teams=frozenset(data.get("teams", ())),
        users=frozenset(data.get("users", ())),
    )


def _match(rule: Mapping[str, Any]) -> Match:
    data = rule.get("match", {})
    return Match(
        orgs=frozenset(data.get("orgs", ())),
        teams=frozenset(data.get("teams", ())),
        models=frozenset(data.get("models", ())),
        endpoints=frozenset(Endpoint(name) for name in data.get("endpoints", ())),
    )


def _rule(data: Mapping[str, Any], groups: Mapping[str, Group]) -> CacheRule:
    usual = CacheRule(name=data["name"])
    plain = {name: data.get(name, getattr(usual, name)) for name in _SAME_NAME}
    return CacheRule(
        name=data["name"],
        mode=CacheMode(data.get("mode", usual.mode) or CacheMode.OFF),
        profile=Profile(data.get("profile", usual.profile) or Profile.OFF),
        share=Share(data.get("share", usual.share)),
        group=groups[data["group"]] if "group" in data else None,
        tags=tuple(data.get("tags", ())),
        hit_micro_usd=MicroUsd(int(data.get("hit_micro_usd", usual.hit_micro_usd))),
        personal_data=frozenset(data.get("personal_data", DETECTORS)),
        judge_per_minute=int(data.get("judge_per_minute", usual.judge_per_minute)),
        **plain,
    )
