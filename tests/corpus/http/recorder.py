"""A relay before an engine that keeps every byte Envoy sends it, and another reader's word on them.

h11 reads them, strictly and knowing nothing of Envoy: what it finds is what an engine's server finds.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field

import h11

_PIECE_BYTES = 65_536


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One request as the engine had it; header names in lower case, trailers among them."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def request_id(self) -> str:
        """Envoy's."""
        return dict(self.headers).get("x-request-id", "")


@dataclass
class Recorder:
    """``port`` is where Envoy connects; ``asked`` what each connection carried toward the engine."""

    port: int
    asked: list[bytearray] = field(default_factory=list)

    def requests(self) -> list[Seen]:
        """Every request but health checks. Raises h11.RemoteProtocolError where the bytes are none."""
        found = [seen for data in list(self.asked) for seen in _read(bytes(data))]
        return [seen for seen in found if seen.target != "/ready"]


def _read(data: bytes) -> Iterator[Seen]:
    while data:
        reading = h11.Connection(h11.SERVER)
        reading.receive_data(data)
        head = reading.next_event()
        if not isinstance(head, h11.Request):
            assert head is h11.NEED_DATA, head  # a request on its way
            return
        body, headers = b"", list(head.headers)
        event = reading.next_event()
        while isinstance(event, h11.Data):
            body += bytes(event.data)
            event = reading.next_event()
        if not isinstance(event, h11.EndOfMessage):
            return
        yield Seen(
            method=head.method.decode(),
            target=head.target.decode(),
            headers=[(name.decode(), value.decode("latin-1")) for name, value in [*headers, *event.headers]],
            body=body,
        )
        data = reading.trailing_data[0]


def _carry(source: socket.socket, sink: socket.socket, kept: bytearray | None) -> None:
    with suppress(OSError):
        while data := source.recv(_PIECE_BYTES):
            if kept is not None:
                kept += data
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _serve(caller: socket.socket, engine_port: int, kept: bytearray) -> None:
    with closing(caller), socket.create_connection(("127.0.0.1", engine_port)) as engine:
        asking = threading.Thread(target=_carry, args=(caller, engine, kept), daemon=True)
        asking.start()
        _carry(engine, caller, None)
        with suppress(OSError):
            caller.shutdown(socket.SHUT_RD)
        asking.join()


@contextmanager
def recorder(engine_port: int) -> Iterator[Recorder]:
    """A relay to the engine at this port of the same machine."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        found = Recorder(port=int(listening.getsockname()[1]))

        def accept() -> None:
            while True:
                try:
                    caller, _ = listening.accept()
                except OSError:
                    return
                found.asked.append(bytearray())
                arguments = (caller, engine_port, found.asked[-1])
                threading.Thread(target=_serve, args=arguments, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield found
        finally:
            listening.shutdown(socket.SHUT_RDWR)
