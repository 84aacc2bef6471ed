"""Every error code that the source can produce, read from the source itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from ext_authz.decision import AuthCode
from gateway.contract import errors

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("gateway", "ext_authz", "ext_proc")
LEAVES: dict[str, type[errors.GatewayError]] = {
    name: found
    for name, found in vars(errors).items()
    if isinstance(found, type) and issubclass(found, errors.GatewayError)
}


def _modules() -> Iterator[ast.Module]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield ast.parse(path.read_text())


def _takers(modules: list[ast.Module]) -> dict[str, tuple[int, str]]:
    """Functions with a parameter ``code`` that make or raise an error of the tree: its place and default."""
    found = {}
    for node in (node for module in modules for node in ast.walk(module)):
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("__"):
            continue
        names = [argument.arg for argument in node.args.args]
        returns = ast.unparse(node.returns) if node.returns is not None else ""
        if "code" not in names or returns not in {*LEAVES, "None"}:
            continue
        at = names.index("code") - len(names) + len(node.args.defaults)
        default = node.args.defaults[at] if at >= 0 else None
        text = default.value if isinstance(default, ast.Constant) else ""
        found[node.name] = (names.index("code"), str(text))
    return found


def _texts(node: ast.expr) -> set[str]:
    """The texts an expression may be: a literal, or either branch of a condition."""
    if isinstance(node, ast.Constant):
        return {node.value} if isinstance(node.value, str) else set()
    if isinstance(node, ast.IfExp):
        return _texts(node.body) | _texts(node.orelse)
    return set()


def _imported(module: ast.Module) -> set[str]:
    """The leaves that ``module`` means by their names."""
    return {
        alias.name
        for node in ast.walk(module)
        if isinstance(node, ast.ImportFrom) and node.module == errors.__name__
        for alias in node.names
    }


def _of_call(node: ast.Call, leaves: set[str], takers: dict[str, tuple[int, str]]) -> set[str]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    given = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
    if name in leaves:
        return _texts(given[0]) if given else {LEAVES[name].code}
    if name in takers:
        at, default = takers[name]
        given += node.args[at : at + 1]
        return _texts(given[0]) if given else {default} - {""}
    return set()


def codes_of_code() -> set[str]:
    """Codes of the errors that Python raises or returns."""
    modules = list(_modules())
    takers = _takers(modules)
    found = {code.value for code in AuthCode}
    for module in modules:
        leaves = _imported(module)
        calls = (node for node in ast.walk(module) if isinstance(node, ast.Call))
        found.update(code for call in calls for code in _of_call(call, leaves, takers))
    return found


def local_replies() -> list[dict[str, object]]:
    """What Envoy answers itself, of mesh/base: ``status`` (None: Envoy's own), ``type``, ``code``,
    ``retry_after``, ``expression``."""
    (resource,) = yaml.safe_load_all((ROOT / "mesh" / "base" / "local-replies.yaml").read_text())
    config = resource["spec"]["configPatches"][0]["patch"]["value"]["typed_config"]["local_reply_config"]
    found: list[dict[str, object]] = []
    for mapper in config["mappers"]:
        text = mapper["body_format_override"]["text_format_source"]["inline_string"]
        headers = {option["header"]["key"]: option["header"]["value"] for option in mapper["headers_to_add"]}
        error = yaml.safe_load(text)["error"]
        assert headers["x-tidegate-refusal"] == error["code"]
        assert set(error) == {"message", "type", "param", "code"} and error["param"] is None
        found.append(
            {
                "status": mapper.get("status_code"),
                "type": error["type"],
                "code": error["code"],
                "retry_after": headers.get("retry-after", ""),
                "expression": re.sub(
                    r"\s+", " ", mapper["filter"]["extension_filter"]["typed_config"]["expression"]
                ),
            }
        )
    return found
