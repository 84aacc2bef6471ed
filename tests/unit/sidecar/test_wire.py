"""Our subset of Envoy's messages against the Envoy binary; the descriptor set against its source."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import descriptor_pool

from gateway.sidecar import wire
from gateway.sidecar.wire import build
from mesh import descriptors
from mesh.envoy_binary import envoy_path


def _messages(messages: Any) -> list[Any]:
    found = []
    for message in messages:
        found.append(message)
        found.extend(_messages(message.nested_types))
    return found


OURS = [
    message
    for name in wire.FILES
    if not name.startswith("google/protobuf/")
    for message in _messages(wire.POOL.FindFileByName(name).message_types_by_name.values())
]


def _shape(field: Any) -> tuple[object, ...]:
    kind = field.message_type or field.enum_type
    oneof = field.containing_oneof.name if field.containing_oneof else None
    return field.number, field.type, field.is_repeated, kind.full_name if kind else None, oneof


def test_checked_in_descriptor_set_is_fresh() -> None:
    assert build.TARGET.read_bytes() == build.compiled(), "run: python -m gateway.sidecar.wire.build"


@pytest.mark.parametrize("ours", OURS, ids=lambda message: str(message.full_name))
def test_message_agrees_with_envoy(ours: Any) -> None:
    if ours.full_name.startswith("grpc.health."):
        assert [field.number for field in ours.fields] == [1]  # gRPC's own protocol, not among Envoy's files
        return
    envoys = descriptors.message_descriptor(ours.full_name)
    for field in ours.fields:
        assert field.name in envoys.fields_by_name, f"{ours.full_name}.{field.name}: Envoy has no such field"
        assert _shape(field) == _shape(envoys.fields_by_name[field.name]), f"{ours.full_name}.{field.name}"
    for enum in ours.enum_types:
        theirs = {value.name: value.number for value in envoys.enum_types_by_name[enum.name].values}
        for value in enum.values:
            assert theirs[value.name] == value.number, f"{enum.full_name}.{value.name}"


def test_top_level_enums_agree_with_envoy() -> None:
    pool = descriptors.envoy_pool(envoy_path())
    for name in wire.FILES:
        if name.startswith("google/protobuf/"):
            continue
        for enum in wire.POOL.FindFileByName(name).enum_types_by_name.values():
            theirs = {value.name: value.number for value in pool.FindEnumTypeByName(enum.full_name).values}
            for value in enum.values:
                assert theirs[value.name] == value.number, f"{enum.full_name}.{value.name}"


def test_methods_are_those_of_envoys_services() -> None:
    pool = descriptors.envoy_pool(envoy_path())
    for path in (wire.AUTH_CHECK, wire.EXT_PROC_PROCESS, wire.STREAM_ACCESS_LOGS):
        service, method = path.strip("/").split("/")
        assert method in pool.FindServiceByName(service).methods_by_name


def test_default_pool_stays_free_of_our_messages() -> None:
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("envoy.service.auth.v3.CheckRequest")


def test_every_embedded_file_resolves() -> None:
    pool = descriptors.envoy_pool(envoy_path())
    files = descriptors.embedded_files(envoy_path())
    assert len(files) > 400
    for name in files:
        pool.FindFileByName(name)


def test_unknown_message_is_named() -> None:
    with pytest.raises(descriptors.DescriptorsMissing, match=r"envoy\.no\.Such"):
        descriptors.message_descriptor("envoy.no.Such")


def test_struct_behaves_like_the_well_known_type() -> None:
    struct = wire.Struct()
    struct.update({"principal": {"org": "demo", "models": ["*"]}})
    assert wire.Struct.FromString(struct.SerializeToString())["principal"]["org"] == "demo"
