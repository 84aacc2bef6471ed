"""The admission record: what is written is read, also of the version before; nothing else is."""

from __future__ import annotations

import pytest

from gateway.budget.admission import AdmissionRecord, NotAnAdmission, Verdict
from gateway.budget.measure import Amounts
from gateway.contract.ids import HoldId, KeyId, OrgId, RequestId
from gateway.contract.units import Tokens, UnixMillis

WHOLE = AdmissionRecord(
    decision=Verdict.METERED,
    request_id=RequestId("r-1"),
    org=OrgId("acme"),
    key=KeyId("k1"),
    hold=HoldId("r-1"),
    held=Amounts.of(80, 20, micro_usd=7),
    hold_expires_at=UnixMillis(9),
    price="20,10,80,7",
    lease=HoldId("lease-1"),
    lease_windows=("org|minute|60000", "key/k1|micro_usd|month|0"),
    prompt_bound=Tokens(80),
    completion_max=Tokens(10),
    choices=2,
    clamp="10",
    cache_reason="absent",
    limit_requests="60",
    over="team;limit=1;used=2",
    policy_version=3,
    event_context='{"model":"chat"}',
)
OF_VERSION_1 = {
    "v": "1",
    "decision": "metered",
    "request_id": "r-1",
    "org": "acme",
    "key": "k1",
    "hold": "r-1",
    "amount": "100",
    "prompt_bound": "80",
    "completion_max": "10",
    "choices": "2",
    "endpoint": "chat.completions",
    "model": "chat",
    "revision": "r1",
    "stream": "true",
    "usage_asked": "false",
    "continuous_usage_asked": "false",
    "cache": "miss",
    "cache_key": "",
    "clamp": "",
    "limit_tokens": "1000",
    "remaining_tokens": "900",
    "reset_tokens": "6s",
    "policy_version": "3",
    "usage_max": "2000",
    "admitted_at_ms": "5",
    "event_context": "{}",
}


def test_what_is_written_is_read() -> None:
    assert AdmissionRecord.from_fields(WHOLE.to_fields()) == WHOLE


def test_a_record_of_an_admit_that_gave_no_reason_is_read() -> None:
    older = WHOLE.to_fields()
    del older["cache_reason"]
    assert AdmissionRecord.from_fields(older).cache_reason == ""


def test_a_draw_says_what_the_lease_paid_for() -> None:
    draw = WHOLE.draw()
    assert draw is not None
    assert (draw.lease, draw.hold, draw.windows) == ("lease-1", "r-1", WHOLE.lease_windows)
    assert (draw.amounts, draw.units, draw.expires_at, draw.policy_version) == (WHOLE.held, 10, 9, 3)
    assert draw.context == {"model": "chat"}


def test_a_record_of_the_version_before_is_read_without_a_lease_or_a_price() -> None:
    record = AdmissionRecord.from_fields(OF_VERSION_1)
    assert (record.amount, record.held) == (100, Amounts(tokens=Tokens(100)))
    assert (record.price, record.draw(), record.limit_requests, record.over) == ("", None, "", "")
    assert (record.usage_max, record.admitted_at_ms, record.reset_tokens) == (2000, 5, "6s")
    older = {name: text for name, text in OF_VERSION_1.items() if name not in ("usage_max", "admitted_at_ms")}
    assert AdmissionRecord.from_fields(older).usage_max == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"v": "3"},
        {"v": ""},
        {"decision": "perhaps"},
        {"held": "1,2,3"},
        {"held": "1,2,3,-4"},
        {"held": "many"},
        {"choices": 2},
    ],
)
def test_what_admit_has_not_written_is_no_record(changed: dict[str, object]) -> None:
    with pytest.raises(NotAnAdmission, match=r"tidegate\.admit"):
        AdmissionRecord.from_fields({**WHOLE.to_fields(), **changed})
    with pytest.raises(NotAnAdmission):
        AdmissionRecord.from_fields({})
