"""Access entries and admission records, in short words."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from gateway.bookkeeper.access import AccessEntry, event_of
from gateway.budget.admission import AdmissionRecord, Verdict
from gateway.contract.ids import HoldId, KeyId, OrgId, RegionName, RequestId
from gateway.events.event import Event
from gateway.sidecar import wire

ORG: Final = OrgId("acme")
START_MS: Final = 1_800_000_000_000


def record(**changes: Any) -> AdmissionRecord:
    """Of a metered request with a hold."""
    made = AdmissionRecord(
        decision=Verdict.METERED,
        request_id=RequestId("r-1"),
        org=ORG,
        key=KeyId("k1"),
        hold=HoldId("r-1"),
        endpoint="chat.completions",
        model="smollm2-135m",
        policy_version=3,
    )
    return dataclasses.replace(made, **changes)


def entry(**changes: Any) -> AccessEntry:
    """Of a request that went well."""
    made = AccessEntry(
        request_id="r-1",
        start_us=START_MS * 1000 + 7,
        duration_ms=120,
        first_byte_ms=30,
        method="POST",
        path="/v1/chat/completions",
        code=200,
        details="via_upstream",
        flags=(),
        upstream_host="127.0.0.1:30000",
        cluster="outbound|30000||sglang",
        route="sglang-json",
        attempts=1,
        bytes_received=300,
        bytes_sent=900,
        org=ORG,
        key="k1",
        record=record(),
    )
    return dataclasses.replace(made, **changes)


def access(number: int) -> Event:
    """The event of request ``number``."""
    return event_of(entry(request_id=f"r-{number}"), RegionName("local"))


def logged(
    *,
    code: int = 200,
    flags: tuple[str, ...] = (),
    upstream: str = "127.0.0.1",
    admitted: AdmissionRecord | None = None,
    principal: str = "",
    path: str = "/v1/chat/completions?api_key=secret#x",
    request_id: str = "r-1",
) -> Any:
    """The HTTPAccessLogEntry that Envoy would send."""
    made = wire.HTTPAccessLogEntry()
    common = made.common_properties
    common.start_time.FromMicroseconds(START_MS * 1000 + 7)
    common.duration.FromMilliseconds(120)
    common.time_to_first_upstream_rx_byte.FromMilliseconds(30)
    common.access_log_type = 6
    common.upstream_request_attempt_count = 1
    common.upstream_cluster, common.route_name = "outbound|30000||sglang", "sglang-json"
    if upstream:
        common.upstream_remote_address.socket_address.address = upstream
        common.upstream_remote_address.socket_address.port_value = 30000
    for flag in flags:
        setattr(common.response_flags, flag, True)
    if admitted is not None:
        common.metadata.filter_metadata["tidegate.admit"].update(admitted.to_fields())
    if principal:
        fields = {"principal": {"org": principal, "key": "k1", "models": ["*"]}}
        common.metadata.filter_metadata["envoy.filters.http.ext_authz"].update(fields)
    made.request.request_method = 3
    made.request.path, made.request.request_id = path, request_id
    made.request.request_body_bytes = 300
    made.request.request_headers["authorization"] = "Bearer tg-secret"
    made.response.response_code.value = code
    made.response.response_body_bytes = 900
    made.response.response_code_details = "via_upstream"
    return made


def message(*entries: Any, log_name: str | None = "tidegate") -> bytes:
    """One StreamAccessLogsMessage."""
    made = wire.StreamAccessLogsMessage()
    if log_name is not None:
        made.identifier.log_name = log_name
    for item in entries:
        made.http_logs.log_entry.append(item)
    return bytes(made.SerializeToString())
