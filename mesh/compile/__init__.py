"""Istio resources to one static Envoy config. Pure: no files, no network, no clock.

    resources (mesh.kustomize.build) + endpoints + target  ->  compile_mesh  ->  Compiled(bootstrap)

The policy is all in the resources; what is not in the supported subset is a PolicyError that names file,
line, path and value. ARCHITECTURE: names, defaults and the order of filters are Istio's.
"""

from __future__ import annotations

from collections.abc import Sequence

from mesh.compile.bootstrap import Compiled, compile_mesh, policy_files
from mesh.compile.resources import Resource, Resources
from mesh.compile.target import ADMIN_HOST, Endpoint, Endpoints, Target, endpoints_from

__all__: Sequence[str] = (
    "ADMIN_HOST",
    "Compiled",
    "Endpoint",
    "Endpoints",
    "Resource",
    "Resources",
    "Target",
    "compile_mesh",
    "endpoints_from",
    "policy_files",
)
