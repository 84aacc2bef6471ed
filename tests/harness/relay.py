"""A relay before an engine that makes it as deaf as SGLang: while it has not begun to answer, the engine
does not see that its caller has gone."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

CHUNK_BYTES = 65_536


class _Pair:
    """One connection of a caller, and the one to the engine that serves it."""

    def __init__(self, caller: socket.socket, engine: socket.socket) -> None:
        self.caller, self.engine = caller, engine
        self.answering = threading.Event()
        """Whether the engine has begun to answer the newest request; true also before the first one."""
        self.answering.set()

    def run(self) -> None:
        """Until both sides are done."""
        asking = threading.Thread(target=self._ask, daemon=True)
        asking.start()
        with closing(self.engine), closing(self.caller):
            self._answer()
            with suppress(OSError):
                self.caller.shutdown(socket.SHUT_RDWR)
            asking.join()

    def _ask(self) -> None:
        with suppress(OSError):
            while data := self.caller.recv(CHUNK_BYTES):
                self.answering.clear()
                self.engine.sendall(data)
        # The caller has gone. SGLang sees that at once while it writes a stream, or between requests.
        self.answering.wait()
        with suppress(OSError):
            self.engine.shutdown(socket.SHUT_RDWR)

    def _answer(self) -> None:
        with suppress(OSError):
            while data := self.engine.recv(CHUNK_BYTES):
                self.answering.set()
                with suppress(OSError):  # nobody there: the engine goes on until it is told
                    self.caller.sendall(data)
        self.answering.set()


@contextmanager
def deaf(port: int) -> Iterator[int]:
    """The port of a relay to ``port``."""
    pairs: list[_Pair] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with suppress(OSError):  # closed below
                while True:
                    caller, _ = server.accept()
                    try:
                        engine = socket.create_connection(("127.0.0.1", port))
                    except OSError:
                        caller.close()
                        continue
                    pairs.append(_Pair(caller, engine))
                    threading.Thread(target=pairs[-1].run, daemon=True).start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield int(server.getsockname()[1])
        finally:
            server.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for pair in pairs:
                with suppress(OSError):
                    pair.engine.shutdown(socket.SHUT_RDWR)
