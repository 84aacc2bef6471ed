"""A prepared model on disk: three files whose name says what they were made from, checked before every use.

``NAME-KEY.onnx``, ``NAME-KEY.tokenizer.json`` and, written last, ``NAME-KEY.sha256`` with the digests of the
two in the form that ``sha256sum -c`` reads.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from inference.embedders.source import ModelSource, SourceUnusable

RECIPE: Final = 2
"""To be raised with every change of inference/embedders/prepare.py that changes what it makes."""
PREPARING_S_MAX: Final = 300
"""MiniLM takes 4 s on an idle machine; it is more than a busy one needs for a model ten times as large."""
_ROOT: Final = Path(__file__).resolve().parents[2]
_SUMS_BYTES_MAX: Final = 1024
"""Two lines of a digest and a file name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedModel:
    """Contents of the files, read and found undamaged. ``model_sha256`` is of the prepared ``model``."""

    model: bytes
    model_sha256: str
    tokenizer: bytes


@dataclass(frozen=True, slots=True)
class PreparedFiles:
    """Where a prepared model stands."""

    directory: Path
    stem: str

    @property
    def model(self) -> Path:
        """The ONNX file."""
        return self.directory / f"{self.stem}.onnx"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's file."""
        return self.directory / f"{self.stem}.tokenizer.json"

    @property
    def sums(self) -> Path:
        """The digests of the other two."""
        return self.directory / f"{self.stem}.sha256"

    def sums_of(self, model: bytes, tokenizer: bytes) -> str:
        """What ``sums`` must hold for these contents."""
        pairs = ((self.model, model), (self.tokenizer, tokenizer))
        return "".join(f"{hashlib.sha256(data).hexdigest()}  {path.name}\n" for path, data in pairs)


def files_of(source: ModelSource, directory: Path) -> PreparedFiles:
    """Where ``source`` is kept prepared. Another input, recipe or quantiser has another name."""
    made_from: dict[str, Any] = {
        "recipe": RECIPE,
        "quantiser": importlib.metadata.version("onnxruntime") if source.requantise else None,
        "model": source.model_sha256,
        "tokenizer": source.tokenizer_sha256,
        "form": asdict(source.form),
    }
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]
    return PreparedFiles(directory, f"{source.name}-{key}")


def read_prepared(files: PreparedFiles) -> PreparedModel | None:
    """The prepared model; None when it is not there whole and undamaged. Raises SourceUnusable."""
    try:
        with files.sums.open("rb") as opened:
            sums = opened.read(_SUMS_BYTES_MAX)
        model, tokenizer = files.model.read_bytes(), files.tokenizer.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SourceUnusable(
            f"the prepared model in {files.directory} cannot be read ({error.strerror})", "make it readable"
        ) from None
    if sums != files.sums_of(model, tokenizer).encode():
        return None
    return PreparedModel(model=model, model_sha256=sums[:64].decode(), tokenizer=tokenizer)


def ensure_prepared(source: ModelSource, directory: Path) -> PreparedModel:
    """The prepared model of ``source`` in ``directory``, made first if it is not there or is damaged.

    Made in a process of its own: it needs 600 MB for some seconds, which this one would never give back.
    Raises SourceUnusable.
    """
    files = files_of(source, directory.absolute())
    found = read_prepared(files)
    if found is not None:
        return found
    reason = _prepared_beside(source, files)
    found = read_prepared(files)
    if found is None:
        raise SourceUnusable(
            f"the embedding model {source.name} could not be prepared in {directory}: {reason}",
            f"then run python -m inference.embedders.prepare {directory}",
        )
    return found


def _prepared_beside(source: ModelSource, files: PreparedFiles) -> str:
    """Runs the preparation to its end; the last that it said of itself."""
    command = [sys.executable, "-m", "inference.embedders.prepare", str(files.directory)]
    try:
        done = subprocess.run(
            [*command, *_arguments(source)],
            cwd=_ROOT,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=PREPARING_S_MAX,
        )
    except subprocess.TimeoutExpired:
        return f"not done within {PREPARING_S_MAX} s; see that nothing else holds {files.directory}"
    said = done.stderr.strip().splitlines()
    return said[-1] if said else f"exit code {done.returncode}"


def _arguments(source: ModelSource) -> list[str]:
    """The command line of inference/embedders/prepare.py for ``source``."""
    form = source.form
    options = {
        "name": source.name,
        "model": source.model.absolute(),
        "model-sha256": source.model_sha256,
        "tokenizer": source.tokenizer.absolute(),
        "tokenizer-sha256": source.tokenizer_sha256,
        "pooling": form.pooling,
        "dimensions": form.dimensions,
        "tokens-max": form.tokens_max,
        "prefix": form.prefix,
    }
    return [
        *(f"--{name}={value}" for name, value in options.items()),
        *(f"--language={code}" for code in sorted(source.languages)),
        *(() if source.requantise else ("--as-is",)),
    ]
