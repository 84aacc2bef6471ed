"""The one reader of policy files: YAML with positions, so that a refusal names file, line and path.

Stricter than YAML: duplicate keys, aliases, non-string keys and more than DOCUMENT_BYTES_MAX are
refused. A refusal is a list of ``Problem``: what, where and what would be right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jsonschema
import yaml

DOCUMENT_BYTES_MAX: Final = 8 * 1024 * 1024
"""A policy larger than this is a mistake (a ConfigMap holds 1 MiB)."""
DEPTH_MAX: Final = 64
"""Nesting of a policy document; Kubernetes' own limit is of this order."""

PathKey = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong. ``path`` reads like ``spec.http[0].retries.attempts``; line starts at 1."""

    file: str
    line: int
    path: str
    message: str
    mend: str = ""

    def __str__(self) -> str:
        """One line: ``file:line: path: message; mend``."""
        where = f"{self.file}:{self.line}: " + (f"{self.path}: " if self.path else "")
        return where + self.message + (f"; {self.mend}" if self.mend else "")


class PolicyError(Exception):
    """A policy is refused. ``problems`` has at least one entry, in file order."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        """Keeps the problems and shows one a line."""
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


def path_text(path: PathKey) -> str:
    """``("spec", "http", 0)`` as ``spec.http[0]``; keys that are no plain names are quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[A-Za-z_][\w-]*", part):
            text += f".{part}" if text else part
        else:
            text += f'["{part}"]'
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One YAML document: plain data and, for each path, the line where its value (or key) stands."""

    file: str
    data: Any
    lines: Mapping[PathKey, int]

    def line(self, path: PathKey) -> int:
        """Line of ``path`` or of its nearest ancestor."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def problem(self, path: PathKey, message: str, mend: str = "") -> Problem:
        """A Problem at ``path`` of this document."""
        return Problem(file=self.file, line=self.line(path), path=path_text(path), message=message, mend=mend)


class _Builder:
    """Turns a node tree into plain data and a line index."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[PathKey, int] = {}
        self._scalars = yaml.SafeLoader("")

    def _refuse(self, node: yaml.Node, path: PathKey, message: str, mend: str) -> PolicyError:
        line = node.start_mark.line + 1
        return PolicyError(
            [Problem(file=self.file, line=line, path=path_text(path), message=message, mend=mend)]
        )

    def build(self, node: yaml.Node, path: PathKey = ()) -> Any:
        if len(path) > DEPTH_MAX:
            raise self._refuse(node, path[:8], f"nested deeper than {DEPTH_MAX} levels", "flatten it")
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            try:
                value = self._scalars.construct_object(node)
            except (yaml.YAMLError, ValueError) as error:
                raise self._refuse(node, path, f"not a value YAML knows: {error}", "quote it") from error
            except (KeyError, IndexError, AttributeError) as error:  # PyYAML's, for "!!bool x" and its like
                raise self._refuse(node, path, f"is no {node.tag}", "quote it, without a tag") from error
            return str(node.value) if not isinstance(value, str | int | float | bool | None) else value
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            data: dict[str, Any] = {}
            for key_node, value_node in node.value:
                if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                    raise self._refuse(key_node, path, "keys must be plain strings", "write the key out")
                key = str(key_node.value)
                if key in data:
                    raise self._refuse(key_node, (*path, key), "the key stands twice", "keep one of them")
                self.lines[(*path, key)] = key_node.start_mark.line + 1
                data[key] = self.build(value_node, (*path, key))
            return data
        raise self._refuse(node, path, "unsupported YAML node", "use mappings, lists and scalars")


def parse_documents(text: str, file: str) -> list[Document]:
    """Every non-empty document of ``text``. Raises PolicyError."""
    if len(text) > DOCUMENT_BYTES_MAX:
        raise PolicyError(
            [
                Problem(
                    file=file,
                    line=1,
                    path="",
                    message=f"larger than {DOCUMENT_BYTES_MAX} bytes",
                    mend="split it",
                )
            ]
        )
    documents = []
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise PolicyError(
                    [
                        Problem(
                            file=file,
                            line=line,
                            path="",
                            message="YAML aliases are not allowed",
                            mend="write the value out",
                        )
                    ]
                )
        for node in yaml.compose_all(text, Loader=yaml.SafeLoader):
            if node is None:
                continue
            builder = _Builder(file)
            data = builder.build(node)
            if data is not None:
                documents.append(Document(file=file, data=data, lines=builder.lines))
    except RecursionError as error:
        raise PolicyError(
            [Problem(file=file, line=1, path="", message="nested too deeply", mend="flatten it")]
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise PolicyError(
            [
                Problem(
                    file=file,
                    line=line,
                    path="",
                    message=f"not YAML: {error.problem or error.context}",
                    mend="mend the syntax",
                )
            ]
        ) from error
    except (yaml.YAMLError, UnicodeError) as error:
        raise PolicyError(
            [Problem(file=file, line=1, path="", message=f"not YAML: {error}", mend="mend the syntax")]
        ) from error
    return documents


def read_document(path: Path, *, shown_as: str | None = None) -> Document:
    """The only document of the file ``path``. Raises PolicyError, also for a file that cannot be read."""
    name = shown_as or str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PolicyError(
            [Problem(file=name, line=1, path="", message=f"cannot be read: {reason}")]
        ) from error
    documents = parse_documents(text, name)
    if len(documents) != 1:
        raise PolicyError(
            [Problem(file=name, line=1, path="", message=f"must hold one document, has {len(documents)}")]
        )
    return documents[0]


def validate(document: Document, schema: Mapping[str, Any]) -> None:
    """Hold ``document`` against a JSON Schema (2020-12). Raises PolicyError with every problem."""
    validator = jsonschema.Draft202012Validator(dict(schema))
    problems: list[Problem] = []
    for error in sorted(
        validator.iter_errors(document.data), key=lambda found: list(map(str, found.absolute_path))
    ):
        path: PathKey = tuple(error.absolute_path)
        message, mend = error.message, ""
        if error.validator == "additionalProperties" and isinstance(error.instance, dict):
            known = sorted(error.schema.get("properties", {}))
            mend = f"known here: {', '.join(known)}"
            unknown = [key for key in error.instance if key not in known]
            problems.extend(document.problem((*path, key), "unknown field", mend) for key in unknown)
            continue
        if error.validator == "enum":
            message, mend = (
                f"{error.instance!r} is not allowed",
                f"use one of {', '.join(map(str, error.validator_value))}",
            )
        elif error.validator == "required":
            message, mend = error.message, "add it"
        elif isinstance(error.schema, dict) and "description" in error.schema:
            mend = str(error.schema["description"])
        problems.append(document.problem(path, message, mend))
    if problems:
        raise PolicyError(problems)
