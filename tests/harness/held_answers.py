"""A relay before a worker's Unix socket that keeps back what the worker says: the worker is in time, and
whoever waits for it gives it up."""

from __future__ import annotations

import socket
import threading
from contextlib import closing, suppress
from pathlib import Path

CHUNK_BYTES = 65_536


class _Line:
    """One connection, and the one to the worker that serves it."""

    def __init__(self, caller: socket.socket, worker: socket.socket) -> None:
        self.caller, self.worker = caller, worker
        self.flows = threading.Event()
        """Whether what the worker says goes on."""
        self.flows.set()

    def run(self) -> None:
        """Until both sides are done."""
        asking = threading.Thread(target=self._ask, daemon=True)
        asking.start()
        with closing(self.worker), closing(self.caller):
            with suppress(OSError):
                while data := self.worker.recv(CHUNK_BYTES):
                    self.flows.wait()
                    self.caller.sendall(data)
            with suppress(OSError):
                self.caller.shutdown(socket.SHUT_RDWR)
            asking.join()

    def _ask(self) -> None:
        with suppress(OSError):
            while data := self.caller.recv(CHUNK_BYTES):
                self.worker.sendall(data)
        with suppress(OSError):
            self.worker.shutdown(socket.SHUT_RDWR)


class HeldAnswers:
    """Takes the worker's place at ``path``, for connections that are made from now on."""

    def __init__(self, path: Path) -> None:
        """Nothing is kept back yet."""
        self._path = path
        self._worker = path.rename(path.with_suffix(".worker"))
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(path))
        self._server.listen()
        self._lines: list[_Line] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def hold(self) -> None:
        """On every connection there is; a later one (a health check) is answered."""
        for line in list(self._lines):
            line.flows.clear()

    def release(self) -> None:
        """What was kept back goes on, and all that follows."""
        for line in list(self._lines):
            line.flows.set()

    def close(self) -> None:
        """Ends every connection; the worker has its place again."""
        self.release()
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._server.close()
        self._worker.rename(self._path)
        for line in self._lines:
            with suppress(OSError):
                line.worker.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                caller, _ = self._server.accept()
                worker = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                try:
                    worker.connect(str(self._worker))
                except OSError:
                    caller.close()
                    continue
                self._lines.append(_Line(caller, worker))
                threading.Thread(target=self._lines[-1].run, daemon=True).start()
