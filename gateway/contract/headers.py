"""Every header and dynamic-metadata name that crosses a border, and who owns it.

Names under ``x-tidegate-`` that a client sends are removed at the edge (mesh/base, filter
``tidegate.strip``), except WORKFLOW.
"""

from __future__ import annotations

from typing import Final

# --- dynamic metadata ---
NS_PRINCIPAL: Final = "envoy.filters.http.ext_authz"
"""ext_authz writes the Principal here (Envoy fixes this namespace)."""
NS_ADMIT: Final = "tidegate.admit"
"""admit writes the admission record here, only in its deciding reply; the second gate reads it."""
NS_TAP: Final = "tidegate.tap"
"""tap writes what it metered here, for the access log."""
PRINCIPAL_KEY: Final = "principal"
"""Field of NS_PRINCIPAL that holds the Principal struct; the first gate demands ``principal.org``."""

# --- set by admit for the route (clear_route_cache), stripped from clients ---
POOL: Final = "x-tidegate-pool"
"""Which pool of pods the VirtualService picks: the catalogue entry's ``pool``, or ``api``."""
STREAM: Final = "x-tidegate-stream"
"""``true`` or ``false``: streams and JSON answers have different timeouts and retries."""
PRIORITY: Final = "x-tidegate-priority"
"""Priority class, from the Principal's tier."""
HOLD: Final = "x-tidegate-hold"
"""Hold id, sent on to the engine's log; never trusted on the way in."""
PRINCIPAL: Final = "x-tidegate-principal"
"""JSON of the Principal, for gateway/api only (a Unix socket behind the gates)."""

# --- sent by clients ---
WORKFLOW: Final = "x-tidegate-workflow"
"""Name of the workflow or session whose budget the request counts under, beside the others."""
WORKFLOW_KEPT: Final = "tidegate-workflow"
"""What ``tidegate.strip`` renames it to, so that one rule removes all of ours that clients send; no engine
sees it."""

CACHE_FEEDBACK: Final = "x-tidegate-cache-feedback"
"""``wrong; entry="<id>"``: the cached answer of that entry was wrong for the question in the body."""

# --- seen by clients ---
REQUEST_ID: Final = "x-request-id"
"""Envoy makes it (use_remote_address, no preserving of the client's)."""
CACHE: Final = "x-tidegate-cache"
"""``hit``, ``miss`` or ``bypass``."""
CACHE_AGE: Final = "age"
"""Seconds since a cached answer was stored (RFC 9111 section 5.1)."""
CLAMP: Final = "x-tidegate-clamped-max-tokens"
"""The max_tokens the engine was told, present only when it is lower than what was asked."""
RATE_LIMIT_TOKENS: Final = "x-ratelimit-limit-tokens"
RATE_REMAINING_TOKENS: Final = "x-ratelimit-remaining-tokens"
RATE_RESET_TOKENS: Final = "x-ratelimit-reset-tokens"
"""As OpenAI's: a duration such as ``6s`` or ``1m3s``."""
RATE_LIMIT_REQUESTS: Final = "x-ratelimit-limit-requests"
RATE_REMAINING_REQUESTS: Final = "x-ratelimit-remaining-requests"
RATE_RESET_REQUESTS: Final = "x-ratelimit-reset-requests"
REMAINING_MICRO_USD: Final = "x-tidegate-remaining-micro-usd"
"""Whole micro-USD that are left of the tightest limit of money."""
BUDGET_WARNING: Final = "x-tidegate-budget-warning"
"""Soft limits that this request stands above: a list (RFC 9651) of levels with parameters."""
REFUSAL: Final = "x-tidegate-refusal"
"""Machine-readable reason of a refusal: the error's code."""

# --- gRPC metadata from Envoy to ext_proc ---
FILTER_ROLE: Final = "tidegate-filter"
"""``admit`` or ``tap``: which of the two filters opened this stream (EnvoyFilter initial_metadata)."""
ATTEMPT_COUNT: Final = "x-envoy-attempt-count"
"""Envoy's count of tries, 1 for the first (include_request_attempt_count)."""
