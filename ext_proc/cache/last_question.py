"""The one text in which two requests may differ and still be alike: what the user said last. Pure."""

from __future__ import annotations

from gateway.openai.requests import WireRequest
from gateway.openai.terms import Endpoint


def last_question(request: WireRequest) -> str | None:
    """The user's text that a chat ends with. None where it ends otherwise, and where the content is
    not one text.

    One part of text reads as the plain string does: SGLang flattens it, and a template that takes parts
    prints it. Where several parts meet, templates differ (a space or nothing), so that they are no text.
    """
    if request.endpoint is not Endpoint.CHAT:
        return None
    last = request.fields["messages"][-1]
    if last["role"] != "user":
        return None
    content = last["content"]
    if isinstance(content, str):
        return content
    if len(content) != 1 or content[0].keys() != {"type", "text"} or content[0]["type"] != "text":
        return None
    text: str = content[0]["text"]
    return text
