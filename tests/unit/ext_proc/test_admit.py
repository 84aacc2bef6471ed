"""admit: what is decided, what the engine is told, what a refusal looks like."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from ext_proc.observations import ObserveAdmission
from ext_proc.phases.admit import Admit, AdmitStage
from ext_proc.prompt_bound import BYTES_PER_TOKEN_MAX
from ext_proc.vocabulary import (
    CacheAnswered,
    Continue,
    Effect,
    HoldAnswered,
    Note,
    Phase,
    ReplyNow,
    Reserve,
    Void,
)
from gateway.budget.admission import AdmissionRecord, CacheStatus, Verdict
from gateway.budget.ledger import Refused
from gateway.budget.window import UNLIMITED
from gateway.contract.errors import LedgerEmptied, LedgerUnavailable
from gateway.contract.units import Millis, UnixMillis
from gateway.path import BODY_BYTES_MAX
from tests.unit.ext_proc.asked import (
    GONE,
    NOW,
    PRINCIPAL,
    RULES,
    SAY,
    admitted,
    body,
    budgets,
    granted,
    headers,
    none,
    only,
    shown_error,
    standing,
)


def written(reply: Continue | ReplyNow) -> AdmissionRecord:
    return AdmissionRecord.from_fields(reply.metadata["tidegate.admit"])


def refusal(*events: Any) -> ReplyNow:
    machine = Admit(RULES)
    effects: tuple[Effect, ...] = ()
    for event in events:
        effects = machine.receive(event)
    assert machine.stage is AdmitStage.DECIDED
    assert none(Reserve, effects)
    return only(ReplyNow, effects)


# --- by the headers ---


@pytest.mark.parametrize(
    ("changed", "status", "code"),
    [
        ({"method": "GET"}, 405, "method_not_allowed"),
        ({"method": "PUT", "path": "/v1/embeddings?x=1"}, 405, "method_not_allowed"),
        ({"content_type": "text/plain"}, 415, "unsupported_media_type"),
        ({"content_type": ""}, 415, "unsupported_media_type"),
        ({"content_type": "application/json,text/plain"}, 415, "unsupported_media_type"),
        ({"content_type": "application/json; charset=utf-16"}, 415, "unsupported_media_type"),
        ({"content_encoding": "gzip"}, 415, "unsupported_media_type"),
        ({"x_request_id": ""}, 503, "admission_unavailable"),
        ({"x_request_id": "a{b}"}, 503, "admission_unavailable"),
    ],
)
def test_refused_by_headers(changed: dict[str, Any], status: int, code: str) -> None:
    reply = refusal(headers(**changed))
    assert (reply.status, shown_error(reply)["code"]) == (status, code)
    assert reply.headers["x-tidegate-refusal"] == code
    assert ("allow" in reply.headers) == (status == 405)


@pytest.mark.parametrize(
    "value", ["application/json", "Application/JSON; charset=UTF-8", "application/json;"]
)
def test_json_in_all_its_spellings(value: str) -> None:
    machine = Admit(RULES)
    assert machine.receive(headers(content_type=value)) == (Continue(phase=Phase.REQUEST_HEADERS),)


def test_nobody_is_never_allowed() -> None:
    nobody: list[dict[str, object] | None] = [
        None,
        {},
        {**PRINCIPAL, "org": "UPPER"},
        {**PRINCIPAL, "key": 7},
    ]
    for principal in nobody:
        reply = refusal(headers(principal=principal, path="/v1/models", method="GET", end=True))
        assert (reply.status, shown_error(reply)["code"]) == (503, "identity_unavailable")
        assert reply.metadata == {}


def test_a_body_over_the_bound_is_refused_though_envoy_let_it_pass() -> None:
    machine = Admit(RULES)
    machine.receive(headers())
    reply = only(ReplyNow, machine.receive(body(b" " * (BODY_BYTES_MAX + 1))))
    assert reply.status == 413


def test_an_empty_body_is_refused_at_once() -> None:
    assert refusal(headers(end=True)).status == 400


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/usage", "/v1/chat/completions/", "/V1/chat/completions", "/abort", "/"]
)
def test_everything_else_goes_to_the_api_unmetered(path: str) -> None:
    machine = Admit(RULES)
    effects = machine.receive(headers(path=path, method="GET", content_type="", end=True))
    reply = only(Continue, effects)
    assert reply.phase is Phase.REQUEST_HEADERS
    assert reply.set_headers["x-tidegate-pool"] == "api"
    assert orjson.loads(reply.set_headers["x-tidegate-principal"]) == PRINCIPAL
    assert "authorization" in reply.remove_headers
    assert reply.clear_route_cache
    assert written(reply).decision is Verdict.UNMETERED
    assert only(Note, effects).kind == "request.unmetered"
    assert only(ObserveAdmission, effects).verdict == "unmetered"


def test_an_unmetered_body_is_decided_in_its_own_reply_and_never_read() -> None:
    machine = Admit(RULES)
    first = machine.receive(headers(path="/v1/files", content_type="multipart/form-data"))
    assert first == (Continue(phase=Phase.REQUEST_HEADERS),)
    reply = only(Continue, machine.receive(body(b"\x00 not json")))
    assert reply.phase is Phase.REQUEST_BODY
    assert reply.body is None
    assert written(reply).decision is Verdict.UNMETERED


# --- by the body ---


@pytest.mark.parametrize(
    ("ids", "limit", "refused"), [(500, 500, 0), (500, 501, 1), (999, 1, 0), (1000, 1, 1)]
)
def test_token_ids_and_the_completion_must_fit_the_context(ids: int, limit: int, refused: int) -> None:
    machine = Admit(RULES)
    machine.receive(headers(path="/v1/completions"))
    effects = machine.receive(body({"model": "chat", "prompt": [[7], [7] * ids], "max_tokens": limit}))
    if not refused:
        assert only(Reserve, effects).request.fixed > ids
        return
    error = shown_error(only(ReplyNow, effects))
    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")
    assert f"{ids + limit} tokens ({ids} in your prompt; {limit} for the completion)" in error["message"]


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        (b"", 400, "invalid_json"),
        (b"{", 400, "invalid_json"),
        ({**SAY, "model": "none"}, 404, "model_not_found"),
        ({**SAY, "model": "secret"}, 403, "model_not_allowed"),
        ({**SAY, "model": "embed"}, 400, "model_not_supported"),
        ({**SAY, "max_tokens": 601}, 400, "context_length_exceeded"),
        ({**SAY, "surprise": 1}, 400, None),
        (
            {**SAY, "messages": [{"role": "user", "content": "x" * (1000 * BYTES_PER_TOKEN_MAX + 1)}]},
            400,
            "context_length_exceeded",
        ),
        (
            {
                **SAY,
                "messages": [{"role": "user", "content": "x" * 500 * BYTES_PER_TOKEN_MAX}],
                "max_tokens": 501,
            },
            400,
            "context_length_exceeded",
        ),
    ],
)
def test_refused_by_the_body(fields: Any, status: int, code: str | None) -> None:
    reply = refusal(headers(), body(fields))
    assert reply.status == status
    assert code is None or shown_error(reply)["code"] == code
    assert reply.headers["x-request-id"] == "r-1"
    assert written(reply).decision is Verdict.REFUSED


def test_a_prompt_of_more_bytes_than_the_context_has_tokens_is_the_engines_to_judge() -> None:
    _, request = admitted(messages=[{"role": "user", "content": "x" * 2000}])
    assert request.fixed > 2000
    assert request.units_wanted == 256


def test_a_tier_or_org_without_a_budget_is_refused() -> None:
    for changed in ({"tier": "gold"}, {"org": "other"}):
        reply = refusal(headers(principal={**PRINCIPAL, **changed}), body())
        assert reply.status == 403


def test_a_refusal_is_noted_without_a_word_of_the_prompt() -> None:
    machine = Admit(RULES)
    machine.receive(headers())
    note = only(Note, machine.receive(body({**SAY, "model": "none"})))
    assert note.kind == "request.refused"
    assert note.context["code"] == "model_not_found"
    assert "hello" not in str(note)


# --- the hold ---


def test_what_is_asked_of_the_ledger() -> None:
    _, request = admitted(max_tokens=50, user="someone@example.com")
    assert (request.hold, request.org) == ("r-1", "acme")
    assert [account.id for account in request.accounts] == ["org", "key/k1"]
    assert (request.units_wanted, request.choices, request.policy_version) == (50, 1, 3)
    assert request.context["model"] == "chat"
    texts = " ".join(request.context.values())
    assert "alice" not in texts
    assert "example.com" not in texts
    assert len(request.context["user"]) == len(request.context["end_user"]) == 32


def test_what_the_engine_is_told() -> None:
    machine, request = admitted(model="gpt-4o", max_completion_tokens=50, rid="mine", priority=9, user="u")
    effects = machine.receive(granted(request))
    reply = only(Continue, effects)
    assert reply.body is not None
    told = orjson.loads(reply.body)
    assert told["model"] == "chat"
    assert told["max_tokens"] == 50
    assert "max_completion_tokens" not in told
    assert "user" not in told
    assert (told["rid"], told["priority"]) == ("r-1", 5)
    assert told["cache_salt"] == RULES.secrets.engine_salt(machine._planned().principal)
    assert reply.set_headers["content-length"] == str(len(reply.body))
    assert reply.set_headers["accept-encoding"] == "identity"
    assert reply.set_headers["x-tidegate-pool"] == "sglang"
    assert reply.set_headers["x-tidegate-stream"] == "false"
    assert reply.set_headers["x-tidegate-priority"] == "normal"
    assert reply.set_headers["x-tidegate-hold"] == "r-1"
    assert {"authorization", "cookie", "content-encoding"} <= set(reply.remove_headers)
    assert reply.clear_route_cache
    found = written(reply)
    assert (found.decision, found.hold, found.completion_max) == (Verdict.METERED, "r-1", 50)
    assert (found.clamp, found.cache) == ("", CacheStatus.BYPASS)
    assert (found.limit_tokens, found.reset_tokens, found.admitted_at_ms) == ("10000", "6s", NOW)
    assert found.usage_max == 2000, "prompt and answer, 1000 of context each"
    assert orjson.loads(found.event_context) == request.context


def test_streams_are_metered_whether_usage_was_asked_or_not() -> None:
    machine, request = admitted(stream=True, stream_options={"include_usage": True})
    reply = only(Continue, machine.receive(granted(request)))
    told = orjson.loads(reply.body or b"")
    assert told["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert reply.set_headers["x-tidegate-stream"] == "true"
    assert (written(reply).stream, written(reply).usage_asked) == (True, True)


def test_a_clamp_is_told() -> None:
    machine, request = admitted(max_tokens=50)
    reply = only(Continue, machine.receive(granted(request, units=20)))
    assert orjson.loads(reply.body or b"")["max_tokens"] == 20
    assert written(reply).clamp == "20"


def test_no_limit_no_headers() -> None:
    machine, request = admitted()
    reply = only(Continue, machine.receive(granted(request, limit=UNLIMITED)))
    assert written(reply).limit_tokens == ""


def refused(*, needed: int = 50, retry_after: int = 62_500, **changed: Any) -> HoldAnswered:
    answer = Refused(
        standing=standing(**{"resets_at": UnixMillis(NOW + 63_000), **changed}),
        needed=needed,
        retry_after=Millis(retry_after),
    )
    return HoldAnswered(answer=answer, at_ms=NOW)


@pytest.mark.parametrize(
    ("event", "code", "retry_after", "should_retry"),
    [
        (refused(), "rate_limit_exceeded", "63", None),
        (refused(span="month"), "insufficient_quota", "63", "false"),
        (refused(needed=101), "rate_limit_exceeded", None, "false"),
    ],
)
def test_refused_by_the_ledger(
    event: HoldAnswered, code: str, retry_after: str | None, should_retry: str | None
) -> None:
    machine, _ = admitted()
    effects = machine.receive(event)
    reply = only(ReplyNow, effects)
    assert (reply.status, shown_error(reply)["code"]) == (429, code)
    assert reply.headers.get("retry-after") == retry_after
    assert reply.headers.get("x-should-retry") == should_retry
    assert reply.headers["x-ratelimit-limit-tokens"] == "100"
    assert reply.headers["x-ratelimit-remaining-tokens"] == "20"
    assert reply.headers.get("x-ratelimit-reset-tokens") == ("1m3s" if retry_after else None)
    assert none(Note, effects), "the ledger has written its own event"
    assert none(Void, effects)
    assert written(reply).hold == ""


@pytest.mark.parametrize("error", [LedgerUnavailable("x"), LedgerEmptied("x")])
def test_a_silent_ledger_closes_and_what_it_may_have_held_is_released(error: LedgerUnavailable) -> None:
    machine, request = admitted()
    effects = machine.receive(HoldAnswered(answer=error, at_ms=NOW))
    reply = only(ReplyNow, effects)
    assert (reply.status, shown_error(reply)["code"]) == (503, error.code)
    assert only(Void, effects).hold == request.hold
    assert written(reply).hold == request.hold, "so that the access log may release it, too"


def test_a_client_that_leaves_while_the_ledger_works_holds_nothing() -> None:
    machine, request = admitted()
    assert machine.receive(GONE) == ()
    assert only(Void, machine.receive(granted(request))).hold == request.hold
    machine, request = admitted()
    machine.receive(GONE)
    assert machine.receive(refused()) == ()


def test_a_delivered_decision_is_never_taken_back() -> None:
    machine, request = admitted()
    machine.receive(granted(request))
    assert machine.receive(GONE) == ()


def test_a_grant_that_cannot_be_written_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a bug")

    machine, request = admitted()
    monkeypatch.setattr("ext_proc.phases.decision.metered", broken)
    with pytest.raises(RuntimeError):
        machine.receive(granted(request))
    assert not machine.decided
    assert only(Void, machine.receive(GONE)).hold == request.hold


def test_a_request_is_judged_by_one_snapshot() -> None:
    machine = Admit(replace(RULES, budgets=budgets(per_minute=5)))
    machine.receive(headers())
    machine.receive(body())
    request = only(Reserve, machine.receive(CacheAnswered(lookup=None, at_ms=NOW))).request
    assert request.accounts[0].windows[0].limit == 5
