"""StreamAccessLogs messages to access entries. The only file of the bookkeeper that knows protobuf."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.bookkeeper.access import AccessEntry
from gateway.budget.admission import AdmissionRecord, NotAnAdmission
from gateway.contract.headers import NS_ADMIT, NS_PRINCIPAL, PRINCIPAL_KEY
from gateway.sidecar import wire

LOG_NAME: Final = "tidegate"
"""log_name of mesh/base/access-log.yaml."""
FLAGS: Final[Mapping[str, str]] = {
    "failed_local_healthcheck": "LH",
    "no_healthy_upstream": "UH",
    "upstream_request_timeout": "UT",
    "local_reset": "LR",
    "upstream_remote_reset": "UR",
    "upstream_connection_failure": "UF",
    "upstream_connection_termination": "UC",
    "upstream_overflow": "UO",
    "no_route_found": "NR",
    "delay_injected": "DI",
    "fault_injected": "FI",
    "rate_limited": "RL",
    "unauthorized_details": "UAEX",
    "rate_limit_service_error": "RLSE",
    "downstream_connection_termination": "DC",
    "upstream_retry_limit_exceeded": "URX",
    "stream_idle_timeout": "SI",
    "invalid_envoy_request_headers": "IH",
    "downstream_protocol_error": "DPE",
    "upstream_max_stream_duration_reached": "UMSDR",
    "response_from_cache_filter": "RFCF",
    "no_filter_config_found": "NFCF",
    "duration_timeout": "DT",
    "upstream_protocol_error": "UPE",
    "no_cluster_found": "NC",
    "overload_manager": "OM",
    "dns_resolution_failure": "DF",
    "downstream_remote_reset": "DR",
}
"""Fields of ResponseFlags by the short names of Envoy's access log, %RESPONSE_FLAGS%."""
_FINISHED: Final = frozenset({0, 6})
"""AccessLogType NotSet and DownstreamEnd; others are of requests under way or of single tries."""


def read_message(data: bytes) -> tuple[str | None, tuple[AccessEntry, ...], int]:
    """Log name (only a stream's first message has one), finished requests, and how many entries were
    something else. Raises wire.DecodeError."""
    message = wire.StreamAccessLogsMessage.FromString(data)
    name = message.identifier.log_name if message.HasField("identifier") else None
    logged = message.http_logs.log_entry
    finished = tuple(
        _entry(entry)
        for entry in logged
        if entry.common_properties.access_log_type in _FINISHED
        and not entry.common_properties.intermediate_log_entry
    )
    return name, finished, len(logged) - len(finished)


def _entry(entry: Any) -> AccessEntry:
    common, request, response = entry.common_properties, entry.request, entry.response
    metadata = common.metadata.filter_metadata
    record = _record(metadata)
    org, key = (record.org, record.key) if record else _principal(metadata)
    first_byte = common.time_to_first_upstream_rx_byte
    return AccessEntry(
        request_id=request.request_id or common.stream_id,
        start_us=common.start_time.ToMicroseconds(),
        duration_ms=_duration_ms(common),
        first_byte_ms=first_byte.ToMilliseconds()
        if common.HasField("time_to_first_upstream_rx_byte")
        else -1,
        method=_method(request),
        path=request.path.partition("?")[0].partition("#")[0],
        code=response.response_code.value,
        details=response.response_code_details,
        flags=_flags(common.response_flags),
        upstream_host=_address(common.upstream_remote_address),
        cluster=common.upstream_cluster,
        route=common.route_name,
        attempts=common.upstream_request_attempt_count,
        bytes_received=request.request_body_bytes,
        bytes_sent=response.response_body_bytes,
        org=org,
        key=key,
        record=record,
    )


def _method(request: Any) -> str:
    number = request.request_method
    values = request.DESCRIPTOR.fields_by_name["request_method"].enum_type.values_by_number
    return str(values[number].name) if number in values else str(number)


def _duration_ms(common: Any) -> int:
    if common.HasField("duration"):
        return int(common.duration.ToMilliseconds())
    return int(common.time_to_last_downstream_tx_byte.ToMilliseconds())


def _flags(flags: Any) -> tuple[str, ...]:
    return tuple(sorted(FLAGS[field.name] for field, _ in flags.ListFields() if field.name in FLAGS))


def _address(address: Any) -> str:
    if address.HasField("pipe"):
        return str(address.pipe.path)
    if address.HasField("socket_address"):
        host, port = address.socket_address.address, address.socket_address.port_value
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return ""


def _record(metadata: Any) -> AdmissionRecord | None:
    if NS_ADMIT not in metadata:
        return None
    try:
        return AdmissionRecord.from_fields(_texts(metadata[NS_ADMIT]))
    except NotAnAdmission:
        return None


def _principal(metadata: Any) -> tuple[str, str]:
    """Org and key; empty where ext_authz knew nobody."""
    if NS_PRINCIPAL not in metadata:
        return "", ""
    fields = metadata[NS_PRINCIPAL].fields
    if PRINCIPAL_KEY not in fields:
        return "", ""
    texts = _texts(fields[PRINCIPAL_KEY].struct_value)
    return texts.get("org", ""), texts.get("key", "")


def _texts(struct: Any) -> dict[str, str]:
    """The string fields of a Struct."""
    return {
        name: text
        for name, value in struct.fields.items()
        if (text := value.string_value) or value.WhichOneof("kind") == "string_value"
    }
