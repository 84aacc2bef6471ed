"""Who calls the API: the Principal that admit put into x-tidegate-principal.

The header can be trusted because this process listens only on a Unix socket behind Envoy, and
Envoy removes the header from clients before admit sets it. A request without it cannot have come
through the gates: it is an operator's, and sees the operators' pages only.
"""

from __future__ import annotations

import orjson
from starlette.requests import HTTPConnection

from gateway.contract import headers
from gateway.contract.errors import IdentityUnavailable
from gateway.contract.principal import NotAPrincipal, Principal


def principal_of(connection: HTTPConnection) -> Principal:
    """The caller. Raises IdentityUnavailable when the header is malformed or stands twice."""
    values = connection.headers.getlist(headers.PRINCIPAL)
    try:
        fields = orjson.loads(values[0]) if len(values) == 1 else None
        if not isinstance(fields, dict):
            raise NotAPrincipal("not one JSON object")
        return Principal.from_fields(fields)
    except (orjson.JSONDecodeError, NotAPrincipal) as error:
        raise IdentityUnavailable(
            "The gateway could not read who is calling. Please retry.", retry_after_s=1
        ) from error


def came_through_the_gates(connection: HTTPConnection) -> bool:
    """Whether admit let this request through, as opposed to the operators' listener."""
    return headers.PRINCIPAL in connection.headers
