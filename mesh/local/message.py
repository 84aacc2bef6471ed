"""The text that ``up`` ends its start with: everything a newcomer needs, ready to paste."""

from __future__ import annotations

from gateway.contract.clock import Clock
from mesh.local.credentials import Credentials, ensure_credentials
from mesh.local.layout import DEFAULT_STATE, Layout
from mesh.local.refusal import Refusal
from mesh.local.status import Overall, Status


def credentials_of(layout: Layout, clock: Clock) -> Credentials:
    """Makes what is missing. Raises Refusal for files that are not what they should be, OSError."""
    try:
        return ensure_credentials(layout.secrets, clock)
    except ValueError as error:
        raise Refusal(
            f"{layout.secrets}: {error}", "mend that file, or remove it to have a new one made"
        ) from None


def ready_message(status: Status, layout: Layout, credentials: Credentials, *, detached: bool) -> str:
    """What ``up`` prints when the gateway answers."""
    return ready_text(
        status,
        api_key=credentials.api_key,
        jwt=credentials.jwt,
        state="" if layout.state == DEFAULT_STATE else str(layout.state),
        logs=str(layout.logs),
        detached=detached,
    )


def ready_text(status: Status, *, api_key: str, jwt: str, state: str, logs: str, detached: bool) -> str:
    """Plain text. ``state`` is the ``--state`` argument for the commands shown, empty for the default."""
    option = f" --state {state}" if state else ""
    loading = (
        "No engine answers yet (loading): until one does, the answer is 503 with Retry-After.\n"
        if status.state is Overall.LOADING
        else ""
    )
    stop = f"./tidegate down{option}" if detached else "Ctrl-C"
    return f"""
Tidegate answers at {status.base_url}  (engine: {status.engine})
{loading}
  API key  {api_key}
  JWT      {jwt}

  curl {status.base_url}/chat/completions -H 'Authorization: Bearer {api_key}' \\
    -H 'Content-Type: application/json' \\
    -d '{{"model": "{status.model}", "max_tokens": 64,
         "messages": [{{"role": "user", "content": "Hello!"}}]}}'

  from openai import OpenAI
  client = OpenAI(base_url="{status.base_url}", api_key="{api_key}")
  answer = client.chat.completions.create(
      model="{status.model}", messages=[{{"role": "user", "content": "Hello!"}}], max_tokens=64)
  print(answer.choices[0].message.content)

  shell    eval "$(./tidegate env{option})"
  metrics  {status.operators_url}/metrics   health  {status.operators_url}/readyz
  logs     {logs}   (./tidegate logs{option} [PART] [-f])
  stop     {stop}
"""
