"""Compile the .proto files beside this module into ``wire.binpb``: ``python -m gateway.sidecar.wire.build``.

The descriptor set is checked in, so a running process needs no compiler; a test proves it is fresh.
Run it before naming a new message in ``__init__.py``; without any ``wire.binpb``, run this file by path.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

import grpc_tools
from grpc_tools import protoc

HERE: Final = Path(__file__).parent
TARGET: Final = HERE / "wire.binpb"


class ProtoRefused(Exception):
    """protoc refused a file; its reasons are on standard error."""


def compiled() -> bytes:
    """A serialized FileDescriptorSet of our files and what they import. Raises ProtoRefused."""
    well_known = Path(str(grpc_tools.__file__)).parent / "_proto"
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "wire.binpb"
        code = protoc.main(
            [
                "protoc",
                f"--proto_path={HERE}",
                f"--proto_path={well_known}",
                "--include_imports",
                f"--descriptor_set_out={output}",
                *sorted(file.name for file in HERE.glob("*.proto")),
            ]
        )
        if code != 0:
            raise ProtoRefused(f"protoc ended with {code}")
        return output.read_bytes()


def main() -> None:
    """Write ``wire.binpb``."""
    TARGET.write_bytes(compiled())


if __name__ == "__main__":
    main()
