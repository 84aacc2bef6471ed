"""``tidegate mesh``."""

from __future__ import annotations

import argparse

from mesh.commands.options import DEFAULT_PORT, Commands, Parser, layout, mesh_option, port, state_option


def add(commands: Commands) -> None:
    """Registers ``mesh`` and its verbs."""
    mesh = commands.add_parser("mesh", help="check or compile the policy")
    verbs = mesh.add_subparsers(required=True, metavar="VERB", parser_class=Parser)
    lint = verbs.add_parser(
        "lint",
        help="check the policy",
        description="Build, compile and check the policy; prints every problem with file and line.",
        epilog="example: tidegate mesh lint --mesh mesh/base",
    )
    mesh_option(lint)
    lint.set_defaults(run=_mesh_lint)
    compiled = verbs.add_parser(
        "compile",
        help="print the Envoy config that the policy becomes",
        description="Print the Envoy config that the policy becomes on this machine, as JSON.",
        epilog="example: tidegate mesh compile > envoy.json",
    )
    mesh_option(compiled)
    state_option(compiled)
    compiled.add_argument("--port", type=port, default=DEFAULT_PORT, help="gateway; operators one above")
    compiled.set_defaults(run=_mesh_compile)


def _mesh_lint(arguments: argparse.Namespace) -> int:
    from mesh.local.lint import lint

    return lint(arguments.mesh.resolve())


def _mesh_compile(arguments: argparse.Namespace) -> int:
    from mesh.local.lint import print_compiled

    return print_compiled(arguments.mesh.resolve(), layout(arguments), arguments.port)
