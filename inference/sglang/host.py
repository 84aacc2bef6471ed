"""What this machine has that SGLang could run on."""

from __future__ import annotations

import shutil
from pathlib import Path


def has_cuda() -> bool:
    """Whether an NVIDIA driver is here: its control device, or its tool on the path."""
    return Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi") is not None
