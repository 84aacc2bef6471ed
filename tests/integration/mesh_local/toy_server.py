"""``toy_server.py SOCKET [WORD...]``: answers 200 on a Unix socket.

Words: ``die`` (exit 3 at once), ``refuse`` (says why and how to mend it),
``deaf`` (never listens), ``stubborn`` (ignores SIGTERM), ``child``
(starts a child that ignores SIGTERM and prints its pid), ``wiped-child`` (the same with an empty
environment), ``progress`` (prints a progress line and waits before it listens), ``hold=PORT`` (listens
on 127.0.0.1:PORT as well).
"""

import contextlib
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

STATS = b"cluster.sglang.membership_healthy: 1\ncluster.sglang.membership_total: 1\n"
"""What Envoy's admin says, for the toy that stands in for it."""
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (len(STATS), STATS)
path, words = sys.argv[1], set(sys.argv[2:])
SLEEPER = [
    sys.executable,
    "-I",
    "-S",
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(120)",
]

print("toy: here I am", flush=True)
if "die" in words:
    print("toy: the reason why", flush=True)
    sys.exit(3)
if "refuse" in words:
    print("refused: no room for it: free 4 GiB", flush=True)
    sys.exit(1)
if "stubborn" in words:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "child" in words:
    print("child", subprocess.Popen(SLEEPER).pid, flush=True)
if "wiped-child" in words:
    print("child", subprocess.Popen(SLEEPER, env={}).pid, flush=True)
for word in words:
    if word.startswith("hold="):
        holder = socket.socket()
        holder.bind(("127.0.0.1", int(word.removeprefix("hold="))))
        holder.listen()
if "progress" in words:
    print("progress: reading 1 of 2", flush=True)
    time.sleep(0.5)
if "deaf" in words:
    time.sleep(120)
Path(path).unlink(missing_ok=True)
server = socket.socket(socket.AF_UNIX)
server.bind(path)
server.listen(8)
while True:
    connection, _ = server.accept()
    with connection, contextlib.suppress(OSError):  # a probe may go when it has the status
        connection.recv(4096)
        connection.sendall(ANSWER)
