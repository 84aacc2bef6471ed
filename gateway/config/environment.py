"""The one reader of the environment. Each package owns a frozen Settings dataclass; ``load`` fills it.

A field is declared with ``setting(...)``: its variable, default and one-line meaning stand together,
and the README's table of settings is generated from them. An unknown ``TIDEGATE_*`` variable or a bad
value stops the process with the variable's name: a silently ignored option is a defect.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar, get_type_hints

S = TypeVar("S")
PREFIX: Final = "TIDEGATE_"
_LOGIN: Final = re.compile(r"(?<=://)[^/]*@")
"""Of a URL: user and password."""


class BadSetting(ValueError):
    """A variable is missing, unknown or has a value of the wrong form."""


def setting(name: str, meaning: str, *, default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field read from ``TIDEGATE_<name>``; without default it is required."""
    return dataclasses.field(default=default, metadata={"env": PREFIX + name, "meaning": meaning})


def _converted(variable: str, kind: object, text: str) -> object:
    if kind is str:
        return text
    if kind is Path:
        return Path(text)
    if kind is int:
        try:
            return int(text)
        except ValueError:
            raise BadSetting(f"{variable}: must be a whole number, got {text!r}") from None
    if kind is float:
        try:
            return float(text)
        except ValueError:
            raise BadSetting(f"{variable}: must be a number, got {text!r}") from None
    if kind is bool:
        if text in ("true", "false"):
            return text == "true"
        raise BadSetting(f"{variable}: must be true or false, got {text!r}")
    raise TypeError(f"{variable}: settings of type {kind!r} are not supported")


def load(settings: type[S], *, environment: Mapping[str, str] | None = None) -> S:
    """``settings`` filled from the environment. Raises BadSetting."""
    source = os.environ if environment is None else environment
    declared = dataclasses.fields(settings)  # type: ignore[arg-type]  # S is a dataclass
    known = {field.metadata["env"] for field in declared}
    unknown = sorted(name for name in source if name.startswith(PREFIX) and name not in known)
    if unknown:
        raise BadSetting(f"{unknown[0]}: no such setting; known are {', '.join(sorted(known))}")
    hints = get_type_hints(settings)
    values: dict[str, object] = {}
    for field in declared:
        variable = field.metadata["env"]
        text = source.get(variable)
        if text is None:
            if field.default is dataclasses.MISSING:
                raise BadSetting(f"{variable}: is required ({field.metadata['meaning']})")
            continue
        values[field.name] = _converted(variable, hints[field.name], text)
    return settings(**values)


def effective(settings: object) -> dict[str, str]:
    """The values in force by variable name, for the start-up log. Secrets are files, never variables, but for
    the login of a store in its URL, which is left out."""
    return {
        field.metadata["env"]: _LOGIN.sub("***@", str(getattr(settings, field.name)))
        for field in dataclasses.fields(settings)  # type: ignore[arg-type]  # any Settings class
    }


def inherited() -> dict[str, str]:
    """A copy of this process's environment without ``TIDEGATE_*``, to start a child with."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}


def variable(name: str, default: str = "") -> str:
    """One foreign variable such as ``HOME`` or ``CI``."""
    return os.environ.get(name, default)
