"""An embedding model as its user has it: files, and how a vector is read from them."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from inference.embedders.embedder import TOKENS_MAX

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
"""Stands in file names and in the identity."""
_TOKENS_MAX: Final = 8192
"""More than embedding models take; a typing error."""
_DIMENSIONS_MAX: Final = 8192
"""Twice what the largest embedding models have."""
_PREFIX_CHARACTERS_MAX: Final = 256
"""Prefixes are a word ("query: ") or a sentence."""


class SourceUnusable(Exception):
    """A model cannot be had or used; the text says what, where, and what to do."""

    def __init__(self, what: str, mend: str) -> None:
        """``mend`` is an instruction to the operator."""
        super().__init__(f"{what}; {mend}")
        self.what, self.mend = what, mend


class Pooling(StrEnum):
    """How a model's output becomes one vector."""

    MEAN = "mean"
    """Of the vectors of all tokens."""
    CLS = "cls"
    """The first token's."""
    NONE = "none"
    """The model's output is one vector per text already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What beside the weights and the tokenizer decides a vector."""

    pooling: Pooling
    dimensions: int
    tokens_max: int = TOKENS_MAX
    prefix: str = ""
    """Put before every text, as some models were trained with."""

    def __post_init__(self) -> None:
        """Raises ValueError: a value out of its bounds."""
        if not 1 <= self.dimensions <= _DIMENSIONS_MAX:
            raise ValueError(f"dimensions are 1 to {_DIMENSIONS_MAX}")
        if not 1 <= self.tokens_max <= _TOKENS_MAX:
            raise ValueError(f"tokens_max is 1 to {_TOKENS_MAX}")
        if len(self.prefix) > _PREFIX_CHARACTERS_MAX:
            raise ValueError(f"prefix has at most {_PREFIX_CHARACTERS_MAX} characters")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """An ONNX file, all in one, and its ``tokenizer.json``, with their SHA-256 in hex."""

    name: str
    model: Path
    model_sha256: str
    tokenizer: Path
    tokenizer_sha256: str
    form: Form
    languages: frozenset[str]
    requantise: bool
    """Whether the weights become int8 for integer matrix products; otherwise the file is used as it is."""

    def __post_init__(self) -> None:
        """Raises ValueError: a name that is no file name."""
        if not _NAME.fullmatch(self.name):
            raise ValueError("a model's name is a-z, 0-9, dots and hyphens, 64 at most")


def sha256_of(path: Path) -> str:
    """The digest of the file ``path`` in hex. Raises SourceUnusable."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SourceUnusable(f"{path} cannot be read ({error.strerror})", "put the file there") from None


def identity_of(source: ModelSource, prepared_sha256: str) -> str:
    """The embedder's identity when the weights that it runs have the digest ``prepared_sha256``."""
    decisive = [prepared_sha256, source.tokenizer_sha256, asdict(source.form)]
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    return f"{source.name}:{digest[:16]}"
