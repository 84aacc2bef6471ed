"""Starts SGLang's server where PyPI's packages do not quite fit a machine without GPU.

Run by the interpreter of SGLang's own environment, never imported by Tidegate. Everything stands at
module level because the scheduler and detokenizer are started with multiprocessing "spawn", which
imports this file again: a shim under ``__main__`` would not reach them. Each shim detects that it is
needed, so the same file starts the full CUDA install.
"""

import importlib.machinery
import importlib.util
import sys
import types
from pathlib import Path

import torch


def _teach_torchvision_ops() -> None:
    """PyPI's torchvision is a CUDA build. Beside a CPU torch its C++ ops do not load, and then its own
    import fails because it registers fakes for two of them."""
    spec = importlib.util.find_spec("torchvision")
    folder = Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
    for library in sorted(folder.glob("_C*.so")) if folder else []:
        try:
            torch.ops.load_library(library)
        except OSError:
            for op in ("nms", "qnms"):
                torch.library.define(
                    f"torchvision::{op}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                )


def _stand_in_for_vllm() -> None:
    """SGLang takes one kernel name from vllm in a constructor on unknown platforms; the CPU forward
    never calls it. ``rms_norm`` is left out on purpose: its absence selects the native path."""
    if importlib.util.find_spec("vllm") is not None:
        return
    package, ops = types.ModuleType("vllm"), types.ModuleType("vllm._custom_ops")
    for module in (package, ops):
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
    ops.rotary_embedding = None
    package._custom_ops = ops
    sys.modules.update({"vllm": package, "vllm._custom_ops": ops})


_teach_torchvision_ops()
_stand_in_for_vllm()

if __name__ == "__main__":
    from sglang.launch_server import run_server
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import prepare_server_args

    load_plugins()
    run_server(prepare_server_args(sys.argv[1:]))
