"""What a finished request means: for its hold, and in the books."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from gateway.bookkeeper.access import (
    ANONYMOUS_RATE,
    TEXT_CHARS_MAX,
    AnonymousAllowance,
    SettleUnknown,
    Void,
    event_of,
    resolution_in,
    resolution_of,
)
from gateway.bookkeeper.codec import FLAGS, read_message
from gateway.budget.admission import AdmissionRecord
from gateway.budget.measure import Amounts
from gateway.contract.clock import ManualClock
from gateway.contract.ids import HoldId, RegionName
from gateway.events.codec import decode, encode
from gateway.sidecar import wire
from tests.unit.bookkeeper.entries import ORG, START_MS, entry, logged, message, record

LOCAL = RegionName("local")
VOID = Void(org=ORG, hold=HoldId("r-1"))
UNKNOWN = SettleUnknown(org=ORG, hold=HoldId("r-1"))


@pytest.mark.parametrize(
    ("code", "flags", "upstream", "expected"),
    [
        (200, (), "10.0.0.1:30000", None),
        (200, ("DC",), "10.0.0.1:30000", None),  # the tap has seen the end
        (200, ("UC",), "10.0.0.1:30000", None),
        (400, (), "10.0.0.1:30000", VOID),
        (429, (), "", VOID),
        (503, ("UF", "URX"), "10.0.0.1:30000", VOID),
        (504, ("UT",), "10.0.0.1:30000", UNKNOWN),  # our side gave up; the engine had worked until then
        (504, ("URX", "UT"), "10.0.0.1:30000", UNKNOWN),
        (504, ("SI",), "10.0.0.1:30000", UNKNOWN),
        (408, ("DT",), "10.0.0.1:30000", UNKNOWN),
        (503, ("LR",), "10.0.0.1:30000", UNKNOWN),
        (504, ("UT",), "", VOID),  # no engine had it
        (503, ("UC", "URX"), "10.0.0.1:30000", VOID),  # the engine's side failed
        (503, ("UO",), "10.0.0.1:30000", VOID),
        (502, (), "10.0.0.1:30000", VOID),
        (503, ("DC",), "10.0.0.1:30000", VOID),
        (0, ("DC",), "", VOID),  # gone before any engine had it
        (0, ("DC",), "10.0.0.1:30000", UNKNOWN),  # an engine worked on it, nobody saw how much
        (0, ("DR",), "10.0.0.1:30000", UNKNOWN),
        (0, (), "10.0.0.1:30000", UNKNOWN),
        (302, (), "10.0.0.1:30000", None),
    ],
)
def test_how_a_hold_ends(code: int, flags: tuple[str, ...], upstream: str, expected: object) -> None:
    found = entry(code=code, flags=flags, upstream_host=upstream)
    assert resolution_of(found) == expected


@pytest.mark.parametrize(("code", "flags"), [(503, ()), (504, ("UT",)), (0, ("DC",))])
def test_a_hold_out_of_a_lease_is_resolved_with_its_draw(code: int, flags: tuple[str, ...]) -> None:
    leased = record(lease=HoldId("l-1"), held=Amounts.of(5, 7), event_context='{"team":"red"}')
    found = resolution_of(entry(code=code, flags=flags, record=leased))
    assert found is not None
    assert found.draw is not None
    assert (found.draw.lease, found.draw.amounts) == ("l-1", Amounts.of(5, 7))
    strange = resolution_of(entry(code=code, flags=flags, record=record(lease=HoldId("{"))))
    assert strange is not None
    assert strange.draw is None


def test_requests_without_a_hold_resolve_nothing() -> None:
    for code, flags in itertools.product((0, 200, 404, 503), ((), ("DC",))):
        assert resolution_of(entry(code=code, flags=flags, record=None)) is None
        assert resolution_of(entry(code=code, flags=flags, record=record(hold=HoldId("")))) is None


@pytest.mark.parametrize(("code", "flags"), [(503, ()), (0, ("DC",))])
def test_a_hold_of_a_filter_that_was_killed_before_its_decision_is_released(
    code: int, flags: tuple[str, ...]
) -> None:
    """The ledger may have held; no record says so, and nothing has passed the gate."""
    undecided = entry(code=code, flags=flags, upstream_host="", record=None)
    assert resolution_of(undecided) == VOID
    assert resolution_of(dataclasses.replace(undecided, org="")) is None


@pytest.mark.parametrize("upstream", ["", "10.0.0.1:30000"])
@pytest.mark.parametrize(
    "admitted",
    [
        None,
        record(),
        record(hold=HoldId("")),
        record(
            lease=HoldId("l-1"),
            lease_windows=("org|month|0",),
            held=Amounts.of(5, 7),
            event_context='{"key":"k1","model":"smollm2-135m"}',
        ),
        record(lease=HoldId("{")),
    ],
)
def test_an_event_says_of_its_hold_what_its_entry_said(
    upstream: str, admitted: AdmissionRecord | None
) -> None:
    """Who finds it after a crash has not seen the entry."""
    codes, flags = (0, 200, 302, 404, 503, 504), ((), ("DC",), ("DC", "UT"), ("UC", "URX"))
    for code, found, org in itertools.product(codes, flags, (ORG, "") if admitted is None else (ORG,)):
        finished = entry(code=code, flags=found, upstream_host=upstream, record=admitted, org=org)
        assert resolution_in(event_of(finished, LOCAL)) == resolution_of(finished)


def test_the_event_of_an_entry() -> None:
    event = event_of(entry(flags=("DC", "UC")), LOCAL)
    assert decode(encode(event)) == event
    assert event.id == f"access/r-1/{START_MS * 1000 + 7}"
    assert (event.at_ms, event.org, event.hold, event.verdict) == (START_MS + 120, ORG, "r-1", "200")
    assert (event.attempt, event.policy_version, event.reason) == ("1", "3", "via_upstream")
    assert event.context is not None
    assert event.context["flags"] == "DC,UC" and event.context["model"] == "smollm2-135m"


def test_what_a_stranger_sends_is_cut() -> None:
    event = event_of(entry(path="/" + "a" * 9999, details="d" * 9999, request_id="r" * 9999), LOCAL)
    assert event.context is not None
    lengths = [len(event.context["path"]), len(event.reason), len(event.request_id)]
    assert lengths == [TEXT_CHARS_MAX] * 3


def test_an_entry_as_envoy_sends_it() -> None:
    name, [found], other = read_message(message(logged(admitted=record())))
    assert (name, other) == ("tidegate", 0)
    assert found == entry()


def test_neither_query_nor_header_is_kept() -> None:
    _, [found], _ = read_message(message(logged(admitted=record(), principal="acme")))
    assert found.path == "/v1/chat/completions"
    assert b"secret" not in encode(event_of(found, LOCAL))


def test_an_entry_without_admission_is_the_principals() -> None:
    _, [found, nobody], _ = read_message(
        message(logged(code=401, upstream="", principal="acme"), logged(code=401))
    )
    assert (found.org, found.key, found.record, found.upstream_host) == ("acme", "k1", None, "")
    assert (nobody.org, nobody.key) == ("", "")


def test_a_record_of_another_version_is_no_record() -> None:
    strange = logged(code=503, admitted=record())
    strange.common_properties.metadata.filter_metadata["tidegate.admit"].update({"v": "9"})
    _, [found], _ = read_message(message(strange))
    assert found.record is None and resolution_of(found) is None


def test_requests_under_way_and_single_tries_are_something_else() -> None:
    under_way, one_try = logged(), logged()
    under_way.common_properties.intermediate_log_entry = True
    one_try.common_properties.access_log_type = 9
    name, finished, other = read_message(message(under_way, one_try, log_name=None))
    assert (name, finished, other) == (None, (), 2)


@pytest.mark.parametrize("data", [b"\xff\xff", b"\x0a\x05ab"])
def test_bytes_that_are_no_message(data: bytes) -> None:
    with pytest.raises(wire.DecodeError):
        read_message(data)


def test_every_flag_has_its_name() -> None:
    fields = wire.HTTPAccessLogEntry().common_properties.response_flags.DESCRIPTOR.fields
    assert {field.name for field in fields} == set(FLAGS)
    assert len(set(FLAGS.values())) == len(FLAGS)
    _, [found], _ = read_message(message(logged(flags=("upstream_overflow", "downstream_remote_reset"))))
    assert found.flags == ("DR", "UO")


def test_a_pipe_is_an_upstream_too() -> None:
    piped = logged(upstream="")
    piped.common_properties.upstream_remote_address.pipe.path = "/run/api.sock"
    _, [found], _ = read_message(message(piped))
    assert found.upstream_host == "/run/api.sock"


def test_strangers_cannot_fill_the_books() -> None:
    clock = ManualClock()
    allowance = AnonymousAllowance(clock)
    taken = sum(allowance.take() for _ in range(100_000))
    assert taken == 60 * ANONYMOUS_RATE
    clock.advance_ms(1000)
    assert sum(allowance.take() for _ in range(1000)) == ANONYMOUS_RATE
