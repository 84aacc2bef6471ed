"""Where archives and backups go: a directory, or an object store, by URL.

``file:///path``, and what pyarrow.fs knows: ``s3://bucket/path?region=..&endpoint_override=..``,
``gs://bucket/path``. Credentials are those of the environment, as the stores' own tools take them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from gateway.config.durable_file import replace_durably

SCHEMES: Final = ("file", "s3", "gs", "gcs")


class BadStoreUrl(ValueError):
    """Not the URL of a store we know. The text says what would be."""


class ObjectStore:
    """Whole objects by name. Everything raises OSError."""

    def __init__(self, url: str) -> None:
        """Raises BadStoreUrl."""
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES or not (parts.netloc or parts.path.strip("/")):
            raise BadStoreUrl(f"a store is file:///DIR, s3://BUCKET/DIR or gs://BUCKET/DIR, got {url!r}")
        if parts.scheme == "file" and parts.netloc:
            raise BadStoreUrl(f"a file URL has three slashes, file:///DIR, got {url!r}")
        import pyarrow as pa
        import pyarrow.fs as fs

        try:
            self._files, self._root = fs.FileSystem.from_uri(url)
        except (pa.ArrowInvalid, ValueError) as error:
            raise BadStoreUrl(f"{url!r}: {error}") from None
        self._local = parts.scheme == "file"

    def is_at(self, directory: Path) -> bool:
        """Whether it is ``directory`` on this machine."""
        here = Path(self._root)
        return self._local and here.exists() and directory.exists() and here.samefile(directory)

    def read(self, name: str) -> bytes | None:
        """None where there is no such object."""
        try:
            with self._files.open_input_file(self._path(name)) as source:
                return bytes(source.read())
        except FileNotFoundError:
            return None

    def size(self, name: str) -> int | None:
        """None where there is no such object."""
        found: Any = self._files.get_file_info(self._path(name))
        return int(found.size) if found.is_file else None

    def write(self, name: str, data: bytes) -> None:
        """Whole or not at all: object stores show an object when it is complete, a directory gets it by its
        last name only then."""
        path = self._path(name)
        if self._local:  # on the disk before anybody removes the original, and no more public than that
            file = Path(path)
            file.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            replace_durably(file, data)
            return
        with self._files.open_output_stream(path) as sink:
            sink.write(data)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"
