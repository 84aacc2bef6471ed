"""Which finished requests leave an engine at work for nobody, and what it may call them."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.bookkeeper.access import Abort, abort_at_limit, abort_of
from gateway.bookkeeper.codec import read_message
from gateway.budget.admission import Verdict
from gateway.events.event import Event, EventType
from tests.unit.bookkeeper.entries import entry, logged, message, record
from tests.unit.mesh.policy import compiled, listener

ENGINE = "10.0.0.1:30000"


def abandoned(**changes: Any) -> Any:
    """A request whose client left before its answer began."""
    given = {"code": 0, "flags": ("DC",), "upstream_host": ENGINE, "first_byte_ms": -1}
    return entry(**{**given, **changes})


@pytest.mark.parametrize(
    ("code", "flags", "route"),
    [
        (0, ("DC",), "sglang-json"),
        (0, ("DR",), "sglang-stream"),
        (0, (), "sglang-json"),
        (504, ("UT",), "sglang-json"),  # the route's time-out
        (504, ("URX", "UT"), "sglang-stream"),  # the last perTryTimeout
        (408, ("DT",), "sglang-json"),
        (504, ("SI",), "other-pool-json"),
        (503, ("LR",), "sglang-json"),
    ],
)
def test_an_answer_that_never_began_is_aborted(code: int, flags: tuple[str, ...], route: str) -> None:
    assert abort_of(abandoned(code=code, flags=flags, route=route)) == Abort(engine=ENGINE, rids=("r-1",))


@pytest.mark.parametrize(
    "changes",
    [
        {"code": 200, "flags": (), "first_byte_ms": 30},  # complete
        {"code": 200, "flags": ("DC",), "first_byte_ms": 30},  # a stream: the engine sees it at once
        {"code": 503, "flags": (), "first_byte_ms": 3},  # the engine refused
        {"code": 503, "flags": ("UC",)},  # the engine cut
        {"code": 503, "flags": ("UR", "URX")},
        {"code": 503, "flags": ("UF", "URX")},  # no engine had it
        {"code": 502, "flags": ("UPE",)},
        {"upstream_host": ""},
        {"upstream_host": "/run/api.sock"},
        {"upstream_host": "@api"},
        {"upstream_host": "engine.example:30000"},
        {"upstream_host": "10.0.0.1:30000/x?"},
        {"route": "api"},
        {"route": ""},
        {"record": None},
        {"record": record(decision=Verdict.UNMETERED)},
        {"record": record(decision=Verdict.ANSWERED)},
        {"record": record(endpoint="embeddings")},
        {"record": record(endpoint="tokenize")},
        {"record": record(choices=2)},  # n > 1: ids that only the engine knows
    ],
)
def test_nothing_else_is_aborted(changes: dict[str, Any]) -> None:
    assert abort_of(abandoned(**changes)) is None


@pytest.mark.parametrize(("prompts", "last"), [(2, "r-1_1"), (10, "r-1_9"), (128, "r-1_9")])
def test_several_prompts_have_an_id_each(prompts: int, last: str) -> None:
    found = abort_of(abandoned(record=record(endpoint="completions", choices=prompts)))
    assert found is not None and (found.rids[0], found.rids[-1]) == ("r-1_0", last)
    every = [f"r-1_{number}" for number in range(prompts)]
    assert all(rid.startswith(found.rids) for rid in every), "the scheduler compares beginnings"


def test_an_entry_as_envoy_sends_it() -> None:
    left = logged(code=0, flags=("downstream_connection_termination",), upstream="::1", admitted=record())
    left.common_properties.ClearField("time_to_first_upstream_rx_byte")
    _, [found], _ = read_message(message(left))
    assert abort_of(found) == Abort(engine="[::1]:30000", rids=("r-1",))


def test_routes_to_engines_are_told_by_their_names() -> None:
    """What ``abort_of`` reads in a route's name is what mesh/base calls the routes that ask for a pool."""
    hosts = listener(compiled(), 8080)["route_config"]["virtual_hosts"]
    routes = [route for host in hosts for route in host["routes"]]
    assert {route["name"] for route in routes} == {"sglang-stream", "sglang-json", "api"}
    for route in routes:
        asks = [header["name"] for header in route["match"].get("headers", [])]
        told = abort_of(abandoned(route=route["name"])) is not None
        assert told == ("x-tidegate-pool" in asks), route["name"]


def at_limit(**changed: str) -> Event:
    """What the tap's settle of a stream past its max_tokens becomes in the books."""
    context = {
        "endpoint": "chat.completions",
        "detail.ended": "limit",
        "detail.upstream": ENGINE,
        "detail.choices": "1",
    }
    return Event(
        id="acme/1-1",
        type=EventType(changed.pop("type", "hold.settled")),
        at_ms=1,
        region="local",
        org="acme",
        request_id=changed.pop("request_id", "r-1"),
        context={**context, **{name.replace("__", "."): text for name, text in changed.items()}},
    )


def test_a_stream_past_its_limit_is_aborted() -> None:
    assert abort_at_limit(at_limit()) == Abort(engine=ENGINE, rids=("r-1",))
    assert abort_at_limit(at_limit(type="hold.corrected")) is not None, "it had expired before"
    two = abort_at_limit(at_limit(endpoint="completions", detail__choices="2"))
    assert two == Abort(engine=ENGINE, rids=("r-1_0", "r-1_1"))


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "hold.voided"},
        {"type": "access"},
        {"request_id": ""},
        {"endpoint": "embeddings"},
        {"endpoint": ""},
        {"detail__ended": "complete"},
        {"detail__upstream": ""},
        {"detail__upstream": "engine.example:30000"},
        {"detail__upstream": "/run/api.sock"},
        {"detail__choices": "2"},  # a chat's: ids that nobody knows
        {"detail__choices": "-1"},
        {"detail__choices": ""},
    ],
)
def test_other_events_abort_nothing(changes: dict[str, str]) -> None:
    assert abort_at_limit(at_limit(**changes)) is None
