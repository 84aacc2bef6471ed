"""The table of errors through real Envoy, as the ``openai`` SDK raises them: class, status, code, type,
param, request id, Retry-After. What engines do is in test_errors_engine.py, malformed HTTP too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import openai
import pytest

from gateway.contract.error_cases import ERROR_CASES, FIELD, WINDOW, ErrorCase, Origin
from gateway.contract.ids import KeyId
from gateway.contract.units import UnixMillis
from gateway.keys.key_file import revoke_api_key
from tests.harness.api_keys import key_for, sdk, verdicts
from tests.harness.gateway import MODEL, Gateway, until
from tests.harness.openai_schema import validate

BUDGETS = """
version: 1
minimum_completion_tokens: 16
tiers:
  standard: {priority: 0, priority_class: standard, key: {}}
orgs:
  demo: {}
  minute: {tokens_per_minute: 300}
  month: {tokens_per_month: 300}
  tiny: {tokens_per_minute: 20}
  few: {limits: [{requests: 1, per: minute}]}
  short: {request: {prompt_tokens_max: 10}}
"""
HELLO: list[Any] = [{"role": "user", "content": "hello"}]
BODY: dict[str, Any] = {"model": MODEL, "messages": HELLO, "max_tokens": 60}
CHAT = "/chat/completions"


@dataclass(frozen=True)
class Ask:
    """What to send; ``key``: name of a key, or the credential's text with ``Bearer``."""

    code: str
    status: int
    body: Any = None
    path: str = CHAT
    headers: dict[str, str] = field(default_factory=dict)
    org: str = "demo"
    content: bytes | None = None
    param: str | None = None
    times: int = 1
    method: str = "post"
    origin: Origin = Origin.ADMIT


def wrong(code: str, param: str | None, **changes: Any) -> Ask:
    """A 400 of admit for a chat body with ``changes``; ``...`` leaves a field out."""
    body = {name: value for name, value in {**BODY, **changes}.items() if value is not ...}
    return Ask(code, 400, body=body, param=param)


def raw(code: str, content: bytes, **more: Any) -> Ask:
    """A body as it stands."""
    return Ask(code, more.pop("status", 400), content=content, **more)


def denied(code: str, authorization: str) -> Ask:
    """A 401 for this Authorization header."""
    headers = {"authorization": authorization}
    return Ask(code, 401, body=BODY, headers=headers, origin=Origin.EXT_AUTHZ)


ASKED = (
    denied("missing_credential", ""),
    denied("malformed_credential", "Basic dXNlcjpwYXNz"),
    denied("several_credentials", "Bearer a, Bearer b"),
    denied("invalid_api_key", "Bearer sk-proj-nobodys"),
    denied("token_too_large", "Bearer " + "a" * 8193),
    denied("forbidden_algorithm", "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0."),
    Ask("api_key_revoked", 401, body=BODY, org="revoked", origin=Origin.EXT_AUTHZ),
    Ask("api_key_expired", 401, body=BODY, org="expired", origin=Origin.EXT_AUTHZ),
    wrong("missing_required_parameter", "messages", messages=...),
    wrong("unknown_parameter", "no_such_parameter", no_such_parameter=1),
    wrong("invalid_type", "temperature", temperature="hot"),
    wrong("invalid_value", "messages[0].role", messages=[{"role": "wizard", "content": "x"}]),
    wrong("integer_below_min_value", "max_tokens", max_tokens=-1),
    wrong("integer_above_max_value", "n", n=100_000),
    wrong("decimal_below_min_value", "temperature", temperature=-1),
    wrong("decimal_above_max_value", "temperature", temperature=9),
    wrong("empty_array", "messages", messages=[]),
    wrong("array_above_max_length", "stop", stop=["a", "b", "c", "d", "e"]),
    wrong("invalid_cache_tags", "metadata.cache_tags", metadata={"cache_tags": "two words"}),
    wrong("unsupported_parameter", "modalities", modalities=["text", "audio"]),
    wrong("context_length_exceeded", "messages", messages=[{"role": "user", "content": "word " * 300_000}]),
    raw("invalid_json", b'{"model": '),
    raw("duplicate_key", b'{"model": "a", "model": "b"}'),
    raw("body_too_complex", b'{"model": "a", "messages": ' + b"[" * 100 + b"]" * 100 + b"}"),
    raw("unsupported_media_type", b"a=b", status=415, headers={"content-type": "text/plain"}),
    raw("content_too_large", b" " * (17 << 20), status=413, origin=Origin.ENVOY),
    Ask("model_not_found", 404, body={**BODY, "model": "gpt-4o"}, param="model"),
    Ask("model_not_supported", 400, path="/embeddings", body={"model": MODEL, "input": "x"}, param="model"),
    Ask("model_not_allowed", 403, body=BODY, org="hidden", param="model"),
    Ask("org_not_allowed", 403, body=BODY, org="poor"),
    Ask("tier_not_allowed", 403, body=BODY, org="platinum"),
    Ask("rate_limit_exceeded", 429, body=BODY, org="minute", times=30),
    Ask("rate_limit_exceeded", 429, body=BODY, org="tiny"),
    Ask("rate_limit_exceeded", 429, body=BODY, org="few", times=3),
    Ask("prompt_tokens_above_limit", 400, body=BODY, org="short", param="messages"),
    Ask(
        "invalid_workflow",
        400,
        body=BODY,
        headers={"x-tidegate-workflow": "w" * 129},
        param="x-tidegate-workflow",
    ),
    Ask("insufficient_quota", 429, body=BODY, org="month", times=30),
    Ask("not_cached", 504, body=BODY, headers={"cache-control": "only-if-cached"}),
    Ask("method_not_allowed", 405, method="get"),
    Ask("method_not_allowed", 405, path="/models", body={}, origin=Origin.API),
    Ask("unknown_url", 404, path="/fine_tuning/jobs", body={}, origin=Origin.API),
    Ask("model_not_found", 404, path="/models/gpt-4o", method="get", param="model", origin=Origin.API),
)
ELSEWHERE = {
    # Signed tokens of every kind: tests/dataplane/test_bad_tokens.py, with an issuer of its own.
    *("invalid_signature", "token_expired", "token_not_yet_valid", "wrong_issuer", "wrong_audience"),
    *("unknown_key", "forbidden_header", "invalid_claims"),
    # Every field and bound: tests/unit/openai/test_request_refusals.py.
    *("empty_string", "string_above_max_length", "array_below_min_length", "object_above_max_properties"),
    *("object_above_max_size", "invalid_json_schema", "invalid_function_parameters"),
    # Filters and ledger broken: tests/dataplane/test_traps.py, test_side_calls.py, test_money.py.
    *("identity_unavailable", "admission_unavailable", "budget_unavailable", "budget_closed"),
    # Envoy without gateway/api: tests/integration/mesh/test_local_replies.py.
    "service_unavailable",
    # The engine's words for it: tests/unit/contract/test_error_cases.py.
    "engine_loading",
    # By its handler: tests/unit/api/test_application.py.
    "internal_error",
    # By an operator's command: tests/dataplane/test_budgets.py.
    "billing_hard_limit_reached",
    # No test sets the overload manager's heap to its bound on a shared machine.
    "gateway_overloaded",
}
"""Codes of rows that are met in other tests, or cannot be provoked from outside."""


@pytest.fixture(scope="module")
def asked(started_with: Callable[[str], Gateway]) -> Gateway:
    return started_with(BUDGETS)


@pytest.fixture(scope="module")
def keys(asked: Gateway) -> dict[str, str]:
    """A key for each way to be refused, by its name in ASKED."""
    made = {org: key_for(asked, org) for org in ("demo", "minute", "month", "tiny", "few", "short", "poor")}
    made["hidden"] = key_for(asked, "demo", key="k-hidden", models=("another-model",))
    made["platinum"] = key_for(asked, "demo", key="k-platinum", tier="platinum")
    made["expired"] = key_for(asked, "demo", key="k-expired", expires_ms=UnixMillis(1))
    made["revoked"] = key_for(asked, "demo", key="k-revoked")
    assert revoke_api_key(asked.state / "secrets" / "api_keys.json", KeyId("k-revoked"))
    return made


def raised(gateway: Gateway, key: str, ask: Ask) -> openai.APIStatusError:
    """The exception; ``times``: at the latest with so many requests."""
    with sdk(gateway, key) as client:
        for number in range(ask.times):
            try:
                send(client, ask, number)
            except openai.APIStatusError as error:
                return error
    raise AssertionError("no error")


def send(client: openai.OpenAI, ask: Ask, number: int) -> None:
    """Once; ``number`` tells apart those that are sent several times."""
    if ask.method == "get":
        client.get(ask.path, cast_to=object, options={"headers": ask.headers})
    elif ask.content is not None:
        headers = {"content-type": "application/json", **ask.headers}
        client.post(ask.path, cast_to=object, content=ask.content, options={"headers": headers})
    else:
        body = {**ask.body, "seed": number} if ask.times > 1 else ask.body
        client.post(ask.path, cast_to=object, body=body, options={"headers": ask.headers})


def assert_told(error: openai.APIStatusError, case: ErrorCase, param: str | None) -> None:
    """All that the row promises."""
    assert type(error).__name__ == case.sdk_class
    assert (error.status_code, error.code, error.type) == (case.status, case.code, case.type)
    assert error.param == param
    assert (error.param is not None) == bool(case.param)
    assert case.param in ("", FIELD, error.param)
    headers = error.response.headers
    assert error.request_id and error.request_id == headers["x-request-id"]
    assert headers["x-tidegate-refusal"] == case.code
    assert headers["content-type"] == "application/json"
    validate("error", error.response.json())
    if case.retry_after == WINDOW:
        assert int(headers["retry-after"]) >= 1
    else:
        assert headers.get("retry-after", "") == case.retry_after
    if case.status == 405:
        assert headers["allow"]
    if case.status == 401:
        assert headers["www-authenticate"].startswith("Bearer")


def rows_of(ask: Ask) -> list[ErrorCase]:
    return [
        case
        for case in ERROR_CASES
        if (case.origin, case.status, case.code) == (ask.origin, ask.status, ask.code)
    ]


@pytest.mark.parametrize("ask", ASKED, ids=lambda ask: f"{ask.status}-{ask.code}-{ask.org}")
def test_each_row_is_raised_as_the_table_says(asked: Gateway, keys: dict[str, str], ask: Ask) -> None:
    if ask.org == "revoked":
        until(lambda: verdicts(asked, keys["revoked"]) == {ask.code}, "refused by every worker")
    error = raised(asked, keys[ask.org], ask)
    advised = {"minute": WINDOW, "month": WINDOW, "few": WINDOW}.get(ask.org, "")
    told = (error.type, advised)
    (row,) = [row for row in rows_of(ask) if ask.status != 429 or (row.type, row.retry_after) == told]
    assert_told(error, row, ask.param)


def test_nothing_was_reserved_or_asked_of_an_engine_for_what_was_refused(asked: Gateway) -> None:
    assert asked.settled()[("org", "month")]["held"] == 0
