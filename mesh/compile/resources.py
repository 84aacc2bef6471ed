"""Resources as kustomize built them, and a reader that leaves no field unread.

``Fields`` is how the compiler reads a resource: each getter checks one field's type, and ``done``
refuses every field that no getter asked for. So a field outside the supported subset cannot be
ignored, and the message names file, line, path, value and what is known there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final, NoReturn, TypeVar

from gateway.config.document import Document, PathKey, PolicyError, Problem, parse_documents, path_text
from mesh.compile.plain import check_plain

_Entry = TypeVar("_Entry")
_DURATION: Final = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|h|m|s))+")
_DURATION_CHARACTERS: Final = 64
"""Longer ones are digits without sense, which Decimal would round or refuse."""
DURATION_S_MAX: Final = 315_576_000_000
"""protobuf's google.protobuf.Duration: 10,000 years."""
_UNIT_S: Final = {"h": Decimal(3600), "m": Decimal(60), "s": Decimal(1), "ms": Decimal("0.001")}
_SHOWN: Final = 60
"""Characters of an offending value that a message shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One Kubernetes object. ``document.file`` and ``document.lines`` are those of its origin."""

    api_version: str
    kind: str
    namespace: str
    name: str
    document: Document

    @property
    def reference(self) -> str:
        """``VirtualService/tidegate/openai``."""
        return f"{self.kind}/{self.namespace}/{self.name}"

    @property
    def config_path(self) -> str:
        """Istio's own name of a resource in Envoy metadata (its ``config.Meta`` key)."""
        kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", self.kind).lower()
        return f"/apis/{self.api_version}/namespaces/{self.namespace}/{kind}/{self.name}"

    def spec(self) -> Fields:
        """The reader of ``spec``; apiVersion, kind and metadata are checked on the way."""
        root = Fields(self, (), self.document.data)
        for name in ("apiVersion", "kind"):
            root.text(name)
        metadata = root.fields("metadata")
        metadata.text("name")
        metadata.text("namespace")
        metadata.done()
        spec = root.fields("spec")
        root.done()
        return spec


Resources = tuple[Resource, ...]
"""What one kustomize build gave, in its order."""


def resource_from(document: Document) -> Resource:
    """The identity of one built object. Raises PolicyError when it has none, and for what is no JSON."""
    check_plain(document)
    data = document.data
    if not isinstance(data, dict):
        mend = "a resource has apiVersion, kind and metadata"
        raise PolicyError([document.problem((), f"must be a mapping, got {shown(data)}", mend)])
    metadata = data.get("metadata")
    if not isinstance(metadata, dict):
        problem = document.problem(("metadata",), f"must be a mapping, got {shown(metadata)}", "name it")
        raise PolicyError([problem])
    found: dict[PathKey, Any] = {
        ("apiVersion",): data.get("apiVersion"),
        ("kind",): data.get("kind"),
        ("metadata", "name"): metadata.get("name"),
        ("metadata", "namespace"): metadata.get("namespace"),
    }
    problems = [
        document.problem(path, f"must be a text, got {shown(value)}", "every resource names it")
        for path, value in found.items()
        if not isinstance(value, str) or not value
    ]
    if problems:
        raise PolicyError(problems)
    api_version, kind, name, namespace = found.values()
    return Resource(api_version=api_version, kind=kind, namespace=namespace, name=name, document=document)


def seconds(text: str) -> Decimal | None:
    """``1m30s`` or ``250ms`` in seconds; None when it is no such duration (Go's form, as the CRDs take)."""
    if len(text) > _DURATION_CHARACTERS or not _DURATION.fullmatch(text):
        return None
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s)", text)
    return sum((Decimal(number) * _UNIT_S[unit] for number, unit in parts), Decimal(0))


def proto_duration(value: Decimal) -> str:
    """Seconds as protobuf JSON writes a Duration: ``0.25s``."""
    text = format(value, "f")
    return (text.rstrip("0").rstrip(".") if "." in text else text) + "s"


class Fields:
    """One mapping of a resource. Getters raise PolicyError at the field; call ``done`` at the end."""

    def __init__(self, resource: Resource, path: PathKey, data: Any) -> None:
        """``data`` stands at ``path`` of ``resource``. Raises PolicyError when it is no mapping."""
        self.resource = resource
        self.path = path
        self._asked: dict[str, None] = {}
        if not isinstance(data, dict):
            self.refuse_at(path, f"must be a mapping, got {shown(data)}")
        self._data: dict[str, Any] = data

    def refuse_at(self, path: PathKey, message: str, mend: str = "") -> NoReturn:
        """Raise PolicyError at any ``path`` of the resource."""
        raise PolicyError([self.resource.document.problem(path, message, mend)])

    def refuse(self, name: str, message: str, mend: str = "") -> NoReturn:
        """Raise PolicyError at the field ``name`` (or here, for an empty name), showing its value."""
        value = f"{shown(self._data[name])}: " if name in self._data else ""
        self.refuse_at((*self.path, name) if name else self.path, value + message, mend)

    def has(self, name: str) -> bool:
        """Whether the field is there; from now on it counts as known."""
        self._asked[name] = None
        return name in self._data

    def raw(self, name: str) -> Any:
        """The field as it stands. The caller must carry all of it into the output."""
        if not self.has(name):
            if not self.path:
                self.refuse_at((name,), "is missing", "add it")
            self.refuse_at(self.path, f"{name} is missing", "add it")
        return self._data[name]

    def text(self, name: str, choices: Sequence[str] | None = None) -> str:
        """A non-empty string, one of ``choices`` when given."""
        value = self.raw(name)
        if not isinstance(value, str) or not value:
            self.refuse(name, "must be a non-empty text")
        if choices is not None and value not in choices:
            self.refuse(name, "is not supported", f"known here: {listed(choices)}")
        return value

    def reference(self, name: str, declared: Mapping[str, _Entry], by: str) -> _Entry:
        """What the field names among ``declared``; ``by`` says to a reader what declares such a thing."""
        value = self.text(name)
        if value not in declared:
            self.refuse(name, "is declared nowhere", f"known: {listed(declared)}; {by} declares one")
        return declared[value]

    def whole(self, name: str, low: int = 0, high: int = 2**32 - 1) -> int:
        """A whole number within ``low..high``."""
        value = self.raw(name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self.refuse(name, f"must be a whole number from {low} to {high}")
        return value

    def truth(self, name: str) -> bool:
        """A boolean."""
        value = self.raw(name)
        if not isinstance(value, bool):
            self.refuse(name, "must be true or false")
        return value

    def duration(self, name: str) -> str:
        """A duration from 1 ms (the CRDs' own rule) to DURATION_S_MAX, as protobuf JSON."""
        value = self.raw(name)
        span = seconds(value) if isinstance(value, str) else None
        if span is None or span < Decimal("0.001"):
            self.refuse(name, "must be a duration of at least 1ms", "such as 250ms, 10s or 5m")
        if span > DURATION_S_MAX:
            self.refuse(name, f"is longer than {DURATION_S_MAX}s", "Envoy knows none that long")
        return proto_duration(span)

    def texts(self, name: str) -> list[str]:
        """A list of at least one non-empty string."""
        value = self.raw(name)
        if not isinstance(value, list) or not value or not all(isinstance(x, str) and x for x in value):
            self.refuse(name, "must be a list of texts")
        return list(value)

    def labels(self, name: str) -> dict[str, str]:
        """A mapping of at least one label."""
        value = self.raw(name)
        if not isinstance(value, dict) or not value or not all(isinstance(x, str) for x in value.values()):
            self.refuse(name, "must be a mapping of texts")
        return dict(value)

    def fields(self, name: str) -> Fields:
        """A nested mapping."""
        return Fields(self.resource, (*self.path, name), self.raw(name))

    def items(self, name: str) -> list[Fields]:
        """A list of at least one mapping."""
        value = self.raw(name)
        if not isinstance(value, list) or not value:
            self.refuse(name, "must be a list of mappings")
        return [Fields(self.resource, (*self.path, name, index), item) for index, item in enumerate(value)]

    def one_of(self, *names: str) -> str:
        """Which one of ``names`` is set. Raises PolicyError unless exactly one is."""
        present = [name for name in names if self.has(name)]
        if len(present) != 1:
            self.refuse_at(self.path, f"needs exactly one of {', '.join(names)}, has {len(present)}")
        return present[0]

    def done(self) -> None:
        """Refuse every field that no getter asked for."""
        document = self.resource.document
        known = ", ".join(sorted(self._asked)) or "none"
        problems = [
            document.problem(
                (*self.path, name), f"unsupported field, value {shown(value)}", f"known: {known}"
            )
            for name, value in self._data.items()
            if name not in self._asked
        ]
        if problems:
            raise PolicyError(problems)


def shown(value: object) -> str:
    """A value as messages show it: its repr, cut."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def listed(names: Iterable[object]) -> str:
    """Names as messages list them."""
    return ", ".join(map(str, names)) or "none"


def nested_document(fields: Fields, name: str) -> Resource:
    """The one YAML document inside the text field ``name`` (a ConfigMap's value), with its own lines."""
    path = (*fields.path, name)
    outer = fields.resource.document
    start = outer.line(path)
    try:
        documents = parse_documents(fields.text(name), outer.file)
    except PolicyError as error:
        raise PolicyError(
            [
                Problem(
                    file=p.file,
                    line=start + p.line,
                    path=path_text(path) + ("." if p.path[:1] not in ("", "[") else "") + p.path,
                    message=p.message,
                    mend=p.mend,
                )
                for p in error.problems
            ]
        ) from error
    if len(documents) != 1:
        fields.refuse(name, f"must hold one YAML document, has {len(documents)}")
    lines = {(*path, *inner): start + line for inner, line in documents[0].lines.items()}
    document = Document(file=outer.file, data=documents[0].data, lines=lines)
    check_plain(document, path)
    return replace(fields.resource, document=document)


class Collector:
    """Runs the steps of a stage and keeps every PolicyError, so that one run shows all problems."""

    def __init__(self) -> None:
        """Starts without problems."""
        self.problems: list[Problem] = []

    def each(self, step: Callable[[Any], None], items: Iterable[Any]) -> None:
        """``step(item)`` for each; a refused item is kept and the next one tried."""
        for item in items:
            try:
                step(item)
            except PolicyError as error:
                self.problems += error.problems

    def close(self) -> None:
        """End of a stage: later ones would only report consequences. Raises PolicyError."""
        if self.problems:
            raise PolicyError(self.problems)
