"""VirtualService ``corsPolicy`` to Envoy's cors filter and its route config.

Source of names and defaults: Istio 1.31, pilot/pkg/networking/core/route/route.go, TranslateCORSPolicy.
Stricter than Istio: the deprecated ``allowOrigin`` is unknown here, no value may be empty, and what lets
every site act with a user's credentials is refused. Istio puts the filter behind ext_authz; mesh/base
inserts one more before it (``REPEATABLE``), because a preflight carries no key and a browser shows a page
only those refusals that have passed the filter.
"""

from __future__ import annotations

import re
import warnings
from decimal import Decimal
from typing import Any, Final

from mesh.compile.resources import Fields, seconds

CORS_NAME: Final = "envoy.filters.http.cors"
_TYPES: Final = "type.googleapis.com/envoy.extensions.filters.http.cors.v3"
CORS_FILTER: Final[dict[str, Any]] = {"name": CORS_NAME, "typed_config": {"@type": f"{_TYPES}.Cors"}}
"""Does nothing on a route without a policy."""
REPEATABLE: Final = (CORS_NAME,)
"""Filters that may stand twice: both read the same route config and set the same headers."""
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "*")
MAX_AGE_S: Final = 86_400
"""No browser believes a preflight for longer (Firefox; Chromium two hours)."""
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
"""RFC 9110 section 5.6.2; ``*`` is one."""
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s?#@]+|null|\*")
"""RFC 6454 section 6.2: scheme, host and port, without a path; what a browser sends in Origin."""
_PREFIX: Final = re.compile(r"[a-z][a-z0-9+.-]*://([^/\s?#@]+:)?")
"""A host with its colon, or a scheme alone."""
_KINDS: Final = {"exact": "exact", "prefix": "prefix", "regex": "safe_regex"}
_MATCHED_BY_NO_ORIGIN: Final = "*"
"""Envoy asks the matchers for this text: one that takes it takes every origin."""


def cors_policy(fields: Fields) -> dict[str, Any]:
    """The value of ``typed_per_filter_config[CORS_NAME]``. Raises PolicyError."""
    policy: dict[str, Any] = {
        "@type": f"{_TYPES}.CorsPolicy",
        "allow_origin_string_match": [_origin(item) for item in fields.items("allowOrigins")],
        "filter_enabled": {"default_value": {"numerator": 100, "denominator": "HUNDRED"}},
    }
    for ours, theirs in (
        ("allowMethods", "allow_methods"),
        ("allowHeaders", "allow_headers"),
        ("exposeHeaders", "expose_headers"),
    ):
        if fields.has(ours):
            policy[theirs] = ",".join(_words(fields, ours))
    if fields.has("maxAge"):
        policy["max_age"] = str(_whole_seconds(fields))
    if fields.has("allowCredentials"):
        policy["allow_credentials"] = fields.truth("allowCredentials")
        if policy["allow_credentials"] and any(map(_takes_any, policy["allow_origin_string_match"])):
            fields.refuse(
                "allowCredentials",
                "would let every site act as the user: allowOrigins takes any origin",
                "name the origins",
            )
    wanted = "FORWARD"  # Istio's default
    if fields.has("unmatchedPreflights"):
        wanted = fields.text("unmatchedPreflights", ["UNSPECIFIED", "FORWARD", "IGNORE"])
    policy["forward_not_matching_preflights"] = wanted != "IGNORE"
    fields.done()
    return policy


def _origin(item: Fields) -> dict[str, Any]:
    """One StringMatch of ``allowOrigins`` as Envoy's StringMatcher."""
    kind = item.one_of(*_KINDS)
    text = item.text(kind)
    item.done()
    if kind == "exact" and not _ORIGIN.fullmatch(text):
        item.refuse(kind, "is no origin", "scheme, host and port without a path: https://app.example:8443")
    if kind == "prefix" and not _PREFIX.fullmatch(text):
        item.refuse(
            kind,
            "takes foreign hosts too: https://app.example is how https://app.example.evil.test begins",
            "end it in a colon, for any port of one host, or name the origins",
        )
    if kind == "regex":
        _check_regex(item, kind, text)
        return {"safe_regex": {"regex": text}}
    return {_KINDS[kind]: text}


def _check_regex(item: Fields, kind: str, text: str) -> None:
    """Refuse what Python cannot compile, and what it warns of: it reads that otherwise than RE2."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            re.compile(text)
    except (re.error, OverflowError, RecursionError, Warning) as error:
        item.refuse(kind, f"is no regular expression: {error}", "write it in RE2's syntax")


def _takes_any(matcher: dict[str, Any]) -> bool:
    if "safe_regex" in matcher:
        return re.fullmatch(matcher["safe_regex"]["regex"], _MATCHED_BY_NO_ORIGIN) is not None
    return _MATCHED_BY_NO_ORIGIN in matcher.values() or matcher.get("prefix", "").endswith("://")


def _words(fields: Fields, name: str) -> list[str]:
    words = fields.texts(name)
    for word in words:
        if name == "allowMethods" and word not in METHODS:
            fields.refuse(name, f"{word!r} is no method here", f"known: {', '.join(METHODS)}")
        if not _TOKEN.fullmatch(word):
            fields.refuse(name, f"{word!r} is no name of a header", "one name for each item")
        if word == "*" and len(words) > 1:
            fields.refuse(name, "'*' beside other items means itself to Envoy", "let it stand alone")
    return words


def _whole_seconds(fields: Fields) -> int:
    fields.duration("maxAge")
    span = seconds(fields.text("maxAge")) or Decimal(0)
    if span % 1 or not 1 <= span <= MAX_AGE_S:
        fields.refuse("maxAge", f"must be whole seconds, from 1s to {MAX_AGE_S}s", "such as 10m")
    return int(span)
