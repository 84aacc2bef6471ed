"""Envoy's messages that we read or write, from ``wire.binpb``, in a private descriptor pool.

Private, because a second ``google.rpc.Status`` in the default pool would clash with other packages'
stubs, and a generated ``envoy`` package with the one that brings the binary (design decision D3).

Each name below is a protobuf message class, typed Any: protobuf's dynamic classes end at the codecs,
which turn them into our dataclasses. Names in the .proto files are Envoy's, numbers too; a test holds
them against the descriptors inside the Envoy binary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError as DecodeError
from google.protobuf.message_factory import GetMessageClass


def _loaded() -> tuple[DescriptorPool, tuple[str, ...]]:
    pool = DescriptorPool()
    files = descriptor_pb2.FileDescriptorSet.FromString((Path(__file__).parent / "wire.binpb").read_bytes())
    for file in files.file:  # protoc writes them with imports first
        pool.AddSerializedFile(file.SerializeToString())
    return pool, tuple(file.name for file in files.file)


POOL, FILES = _loaded()
"""The private pool, and the names of the files in it."""


def message(full_name: str) -> Any:
    """The class of the message ``full_name``. Raises KeyError."""
    return GetMessageClass(POOL.FindMessageTypeByName(full_name))


Struct: Final = message("google.protobuf.Struct")
Status: Final = message("google.rpc.Status")
HttpStatus: Final = message("envoy.type.v3.HttpStatus")

HeaderValue: Final = message("envoy.config.core.v3.HeaderValue")
HeaderValueOption: Final = message("envoy.config.core.v3.HeaderValueOption")
HeaderMap: Final = message("envoy.config.core.v3.HeaderMap")
Metadata: Final = message("envoy.config.core.v3.Metadata")
OVERWRITE_IF_EXISTS_OR_ADD: Final = 2
"""HeaderAppendAction; Envoy's default is to append, which would leave a caller's value in place."""

CheckRequest: Final = message("envoy.service.auth.v3.CheckRequest")
CheckResponse: Final = message("envoy.service.auth.v3.CheckResponse")
DeniedHttpResponse: Final = message("envoy.service.auth.v3.DeniedHttpResponse")
OkHttpResponse: Final = message("envoy.service.auth.v3.OkHttpResponse")
AUTH_CHECK: Final = "/envoy.service.auth.v3.Authorization/Check"

ProcessingRequest: Final = message("envoy.service.ext_proc.v3.ProcessingRequest")
ProcessingResponse: Final = message("envoy.service.ext_proc.v3.ProcessingResponse")
HttpHeaders: Final = message("envoy.service.ext_proc.v3.HttpHeaders")
HttpBody: Final = message("envoy.service.ext_proc.v3.HttpBody")
HttpTrailers: Final = message("envoy.service.ext_proc.v3.HttpTrailers")
HeadersResponse: Final = message("envoy.service.ext_proc.v3.HeadersResponse")
BodyResponse: Final = message("envoy.service.ext_proc.v3.BodyResponse")
CommonResponse: Final = message("envoy.service.ext_proc.v3.CommonResponse")
HeaderMutation: Final = message("envoy.service.ext_proc.v3.HeaderMutation")
BodyMutation: Final = message("envoy.service.ext_proc.v3.BodyMutation")
ImmediateResponse: Final = message("envoy.service.ext_proc.v3.ImmediateResponse")
EXT_PROC_PROCESS: Final = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"

StreamAccessLogsMessage: Final = message("envoy.service.accesslog.v3.StreamAccessLogsMessage")
HTTPAccessLogEntry: Final = message("envoy.data.accesslog.v3.HTTPAccessLogEntry")
STREAM_ACCESS_LOGS: Final = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"

HealthCheckRequest: Final = message("grpc.health.v1.HealthCheckRequest")
HealthCheckResponse: Final = message("grpc.health.v1.HealthCheckResponse")
HEALTH_CHECK: Final = "/grpc.health.v1.Health/Check"
HEALTH_SERVING, HEALTH_NOT_SERVING, HEALTH_SERVICE_UNKNOWN = 1, 2, 3
"""HealthCheckResponse.ServingStatus."""
