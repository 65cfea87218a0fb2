"""Calls an ASGI application as a server calls it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from azsession.server.http.asgi import ASGIApplication


@attrs.frozen
class Answered:
    """The answer of an application, and the number of events that the application read before it answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    events_read: int


def call(
    app: ASGIApplication,
    method: str,
    target: str,
    body: bytes | Iterable[bytes] = b"",
    headers: Mapping[str, str] | None = None,
    **scope: Any,
) -> Answered:
    """Return the answer to a request.

    Args:
        app: The application.
        method: The HTTP method.
        target: The path as it was sent, and the query.
        body: The body, or its pieces. After them, the client goes away.
        headers: The headers. Without a ``Content-Length``, the body's is added.
        scope: Entries of the scope to replace. `None` removes an entry.
    """
    pieces = [body] if isinstance(body, bytes) else list(body)
    fields = {name.lower(): value for name, value in (headers or {}).items()}
    if not {"content-length", "transfer-encoding"} & set(fields) and any(pieces):
        fields["content-length"] = str(sum(map(len, pieces)))
    raw, _, query = target.partition("?")
    usual: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "https",
        "path": raw,
        "raw_path": raw.encode("latin-1"),
        "query_string": query.encode("latin-1"),
        "root_path": "",
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()],
    }
    events = [
        {"type": "http.request", "body": piece, "more_body": number < len(pieces)} for number, piece in enumerate(pieces, 1)
    ]
    return asyncio.run(_call(app, {key: value for key, value in {**usual, **scope}.items() if value is not None}, events))


async def _call(app: ASGIApplication, scope: Mapping[str, Any], events: list[dict[str, Any]]) -> Answered:
    left = [*events, {"type": "http.disconnect"}]
    sent: list[Mapping[str, Any]] = []
    read_before_start = 0
    answered = asyncio.Event()

    async def receive() -> Mapping[str, Any]:
        if left[0]["type"] == "http.disconnect":
            await answered.wait()
        return left.pop(0) if len(left) > 1 else left[0]

    async def send(event: Mapping[str, Any]) -> None:
        nonlocal read_before_start
        if not sent:
            read_before_start = len(events) + 1 - len(left)
        sent.append(event)

    await app(scope, receive, send)
    answered.set()
    start, *bodies = sent
    assert start["type"] == "http.response.start"
    assert [event["type"] for event in bodies] == ["http.response.body"] * len(bodies)
    assert [event.get("more_body", False) for event in bodies] == [True] * (len(bodies) - 1) + [False]
    names = [name.decode() for name, _ in start["headers"]]
    assert len(names) == len(set(names)), "a header is repeated"
    headers = {name.decode(): value.decode("latin-1") for name, value in start["headers"]}
    return Answered(start["status"], headers, b"".join(event["body"] for event in bodies), read_before_start)
