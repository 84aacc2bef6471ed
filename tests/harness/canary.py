"""Secrets that must be found nowhere: sent through a running gateway, then looked for in all it leaves.

Looked through: every file of the state directory but ``secrets`` (it holds them) and ``cache`` (answers,
by design), the operators' metrics, and what Envoy's admin interface dumps. Each test that starts the
product does both when it closes it, so every tier, kill and crash is looked through.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx

from gateway.contract.clock import SystemClock
from mesh.local.credentials import DEMO_KEY_FILE, mint_jwt
from mesh.local.layout import layout_of

if TYPE_CHECKING:
    from tests.harness.gateway import Gateway

PROMPT: Final = "the canary prompt is marzipan-xylophone-4471"
EMAIL: Final = "canary.person@marzipan-mail.example"
TOOL_ARGUMENT: Final = "canary-argument-quokka-9082"
UNKNOWN_FIELD: Final = "canary_field_okapi_3310"
BAD_KEY: Final = "tg-canary-bad-key-narwhal-5523"
COOKIE: Final = "canary-cookie-axolotl-7745"
QUERY: Final = "canary-query-tapir-1196"
WORDS: Final = (PROMPT, EMAIL, TOOL_ARGUMENT, UNKNOWN_FIELD, BAD_KEY, COOKIE, QUERY)
"""Of the requests; the gateway's own API key and a JWT are looked for beside them."""
PARTS_CHARS_MIN: Final = 24
"""Of a token's parts: a shorter one (a JOSE header) says nothing about anybody."""
BOOKED_S: Final = 2.0
"""The access log is flushed four times a second; a bookkeeper that was killed for good writes no more."""
_SKIPPED: Final = ("secrets", "cache", "tools")
_ADMIN_PATHS: Final = (
    "/config_dump?include_eds",
    "/clusters?format=json",
    "/stats?format=json",
    "/server_info",
)


def _message(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text, "name": "canary"}


def requests(model: str) -> Iterator[tuple[str, bytes, Mapping[str, str]]]:
    """Path, body and further headers of requests that carry secrets to every place they can be in."""
    json_type = {"content-type": "application/json", "cookie": f"session={COOKIE}"}
    labels = {"user": EMAIL, "max_tokens": 4}
    chat = {"model": model, "messages": [_message(PROMPT)], **labels}
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": TOOL_ARGUMENT}}
    for body in (
        {**chat, "temperature": 0, "metadata": {"mail": EMAIL}, "safety_identifier": EMAIL},
        {**chat, "stream": True, "seed": 7, "prompt_cache_key": EMAIL},
        {**chat, UNKNOWN_FIELD: PROMPT},
        {**chat, "temperature": PROMPT},
        {**chat, "messages": [_message(PROMPT), {"role": "assistant", "tool_calls": [call]}]},
        {**chat, "model": f"no-such-model-{UNKNOWN_FIELD}"},
    ):
        yield f"/chat/completions?note={QUERY}", json.dumps(body).encode(), json_type
    yield "/completions", json.dumps({"model": model, "prompt": PROMPT, **labels}).encode(), json_type
    yield "/embeddings", json.dumps({"model": model, "input": PROMPT, "user": EMAIL}).encode(), json_type
    yield "/chat/completions", PROMPT.encode() + b"{", json_type
    yield "/chat/completions", PROMPT.encode(), {"content-type": "text/plain"}
    good = json.dumps(chat).encode()
    yield "/chat/completions", good, {**json_type, "authorization": f"Bearer {BAD_KEY}"}
    yield "/chat/completions", good, {**json_type, "authorization": f"Bearer {_forged_token()}"}


def _forged_token() -> str:
    """A token nobody signed, whose claims are secrets."""
    parts = ({"alg": "EdDSA", "kid": BAD_KEY}, {"sub": EMAIL, "org": UNKNOWN_FIELD})
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join((*encoded, base64.urlsafe_b64encode(BAD_KEY.encode()).rstrip(b"=").decode()))


def send(gateway: Gateway, model: str) -> list[str]:
    """All of ``requests``, by API key and by JWT; the request ids of the answers. A gateway in any state
    will do: what is not answered is secret all the same."""
    tokens = (gateway.api_key, mint_jwt(gateway.state / "secrets", SystemClock()))
    ids: list[str] = []
    with httpx.Client(base_url=gateway.base_url, timeout=5, trust_env=False) as client:
        for token in tokens:
            for path, body, headers in requests(model):
                sent = {"authorization": f"Bearer {token}", **headers}
                try:
                    answer = client.post(path, content=body, headers=sent)
                except httpx.TransportError:
                    return ids
                ids.append(answer.headers.get("x-request-id", ""))
    return ids


def sent_and_found(gateway: Gateway, model: str) -> list[str]:
    """``send``, then ``leaks`` once the last request is in the books, or will not come there any more."""
    ids = send(gateway, model)
    deadline = time.monotonic() + BOOKED_S
    while ids and ids[-1] not in books(gateway.state) and time.monotonic() < deadline:
        time.sleep(0.05)
    return leaks(gateway)


def books(state: Path) -> str:
    """All segments' text."""
    return "".join(path.read_text(errors="replace") for path in (state / "books").rglob("*.jsonl"))


def needles(state: Path) -> dict[str, str]:
    """What to look for, by name: words as they are and in base64, keys and tokens with their parts."""
    found = {word: word for word in WORDS}
    for word in WORDS:
        for shift in range(3):
            # Inside a longer base64 text a word starts at one of three offsets; its outer digits differ.
            encoded = base64.b64encode(b"\0" * shift + word.encode()).decode()
            found[f"{word} (base64 {shift})"] = encoded[4:-4]
    key_file = state / "secrets" / DEMO_KEY_FILE
    if key_file.exists():
        key = key_file.read_text().strip()
        found["the API key"] = key
        found["the API key's secret half"] = key[-PARTS_CHARS_MIN:]
    token = mint_jwt(state / "secrets", SystemClock())
    # EdDSA signs the same claims alike, so a token of this second is not the one that was sent; what all
    # tokens of this issuer share is the beginning of their claims.
    found["a JWT's claims"] = token.split(".")[1][:60]
    return found


def _texts(gateway: Gateway) -> Iterator[tuple[str, bytes]]:
    for path in _files(gateway.state):
        try:
            yield str(path), path.read_bytes()
        except FileNotFoundError:
            continue  # its writer has put another in its place
    for name, client, paths in (
        (
            "operators",
            httpx.Client(base_url=gateway.operators_url, timeout=5),
            ("/metrics", "/metrics/envoy"),
        ),
        ("envoy", _admin(gateway), _ADMIN_PATHS),
    ):
        with client:
            for page in paths:
                try:
                    yield f"{name} {page}", client.get(page).content
                except httpx.TransportError:
                    continue  # the test has ended that part


def _files(state: Path) -> Iterator[Path]:
    """What may hold no secret. Processes are writing there: ``os.walk`` passes over what has just gone."""
    for folder, _, names in os.walk(state):
        for path in (Path(folder) / name for name in sorted(names)):
            inside = path.relative_to(state).parts
            if inside[0] not in _SKIPPED and path.is_file() and not path.is_symlink():
                yield path


def _admin(gateway: Gateway) -> httpx.Client:
    socket = str(layout_of(gateway.state).socket("envoy-admin"))
    return httpx.Client(transport=httpx.HTTPTransport(uds=socket), base_url="http://admin", timeout=5)


def found_in(text: bytes) -> list[str]:
    """The words of requests that stand in ``text``."""
    return [word for word in WORDS if word.encode() in text]


def leaks(gateway: Gateway) -> list[str]:
    """``<what> in <where>`` for each secret that was found."""
    return places_of(gateway, needles(gateway.state))


def places_of(gateway: Gateway, wanted: Mapping[str, str]) -> list[str]:
    """``<name> in <where>`` for each text of ``wanted``, by name, that was found; in any case of letters."""
    sought = {name: text.lower().encode() for name, text in wanted.items()}
    return [
        f"{name} in {where}"
        for where, text in ((where, text.lower()) for where, text in _texts(gateway))
        for name, needle in sought.items()
        if needle in text
    ]
