"""SGLang's command line and environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from inference.sglang.host import has_cuda

LAUNCHER: Final = Path(__file__).with_name("launcher.py")
CPU_FLAGS: Final = (
    *("--device", "cpu"),
    *("--attention-backend", "torch_native"),
    *("--sampling-backend", "pytorch"),
    *("--dtype", "bfloat16"),
    *("--mem-fraction-static", "0.1"),
    *("--max-total-tokens", "16384"),
)
"""Plain PyTorch paths: the CPU engine of SGLang needs a kernel package that no registry has."""
FLAGS: Final = (
    "--enable-metrics",
    "--enable-cache-report",
    "--enable-priority-scheduling",
    "--sleep-on-idle",
)
"""Metrics and cached tokens are what the gateway reads, priority what it writes; without the last an
idle server burns a core."""
MODEL_FLAGS: Final = ("--tool-call-parser", "hermes", "--constrained-json-disable-any-whitespace")
"""The parser reads ``<tool_call>{...}</tool_call>``, which chat_template.jinja asks for, and binds the
answer to that form where a call is required; the second keeps a small model from filling JSON with white
space until its tokens are used up."""
NOTICE_CLIENT_S: Final = 1
"""How often SGLang looks whether the client of an answer that is not streamed is still there (its own
default is 4 s; whole seconds). Measured: generation ends within a second of the close."""
STRICT_TOOLS: Final = 2
"""Arguments of every call that is bound to a form follow the function's schema, as with ``strict``: left
free, a model this small makes up others (``ToolStrictLevel.PARAMETER`` of SGLang's environ.py)."""


def command(
    python: Path, model_dir: Path, port: int, served_name: str, *, max_queued: int | None = None
) -> tuple[list[str], dict[str, str]]:
    """Arguments and the variables to add to the environment, for 127.0.0.1:``port``.

    ``max_queued`` bounds the waiting queue (None: SGLang's default, no bound).
    """
    cuda = has_cuda()
    argv = [
        str(python),
        "-P",  # this folder's module names must not shadow anybody's
        str(LAUNCHER),
        *("--model-path", str(model_dir)),
        *("--host", "127.0.0.1"),
        *("--port", str(port)),
        *("--served-model-name", served_name),
        *FLAGS,
        *MODEL_FLAGS,
        *(() if cuda else CPU_FLAGS),
        *(() if max_queued is None else ("--max-queued-requests", str(max_queued))),
    ]
    environment = {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "SGLANG_REQUEST_STATE_WAIT_TIMEOUT": str(NOTICE_CLIENT_S),
        "SGLANG_TOOL_STRICT_LEVEL": str(STRICT_TOOLS),
    }
    if not cuda:
        environment |= {
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": str(min(8, os.cpu_count() or 1)),
            # Threads that spin while they wait take the cores of everything else here, and then of each
            # other: under load 12 tokens a second with this, less than 1 without.
            "OMP_WAIT_POLICY": "PASSIVE",
        }
    return argv, environment
