"""``python exec_bound.py PARENT_PID COMMAND...``: becomes COMMAND, bound to end when the parent does and
never to leave a core file: prompts and keys are in the memory of every part.

A program of its own because code between fork and exec (preexec_fn) is not safe in a process with
threads. The kernel keeps the setting over exec (prctl(2), PR_SET_PDEATHSIG).
"""

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        sys.exit("the supervisor is gone")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")
