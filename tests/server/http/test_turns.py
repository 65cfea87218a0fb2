"""Large bodies are decoded and encoded in steps, so that other requests are served in between."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from azsession.broker.embedded import EmbeddedBroker
from azsession.queues import QueueSettings
from azsession.server import create_app

from ..raw import ENVELOPE

#: Seconds of processor time that one step may take. Other processes do not affect it.
STEP = 0.05
MB = 1024 * 1024

BODIES: dict[str, Callable[[], str | bytes]] = {
    "text": lambda: "x" * MB,
    "text with escapes": lambda: '\\"\n' * (MB // 4),
    "other text": lambda: "\u00e9" * (MB // 2),
}


async def _run(app: Any, scope: Mapping[str, Any], body: bytes) -> tuple[int, float]:
    """Return the status of an answer, and the longest step of the event loop in seconds of processor time."""
    events = [{"type": "http.request", "body": body, "more_body": False}]
    statuses: list[int] = []
    forever = asyncio.Event()
    longest = 0.0

    async def receive() -> Any:
        if not events:
            await forever.wait()
        return events.pop()

    async def send(event: Any) -> None:
        if event["type"] == "http.response.start":
            statuses.append(event["status"])

    async def measure() -> None:
        nonlocal longest
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - before)

    measuring = asyncio.ensure_future(measure())
    await asyncio.sleep(0)
    await app(scope, receive, send)
    measuring.cancel()
    return statuses[0], longest


def ask(app: Any, method: str, target: str, body: bytes = b"") -> tuple[int, float]:
    path, _, query = target.partition("?")
    headers = [(b"host", b"x"), (b"content-type", ENVELOPE.encode()), (b"content-length", str(len(body)).encode())]
    scope = {"type": "http", "http_version": "1.1", "method": method, "path": path, "raw_path": path.encode()}
    gc.disable()  # A collection of all objects of the test run is no step of the gateway.
    try:
        return asyncio.run(_run(app, {**scope, "query_string": query.encode(), "headers": headers}, body))
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", BODIES)
def test_a_large_envelope_is_sent_and_received_in_short_steps(kind: str) -> None:
    with EmbeddedBroker() as broker:
        broker.create_queue("q", QueueSettings()).result()
        app = create_app(broker, keys=None)
        items = [{"Body": BODIES[kind](), "BrokerProperties": {"SessionId": "s"}}] * 10
        envelope = json.dumps(items, ensure_ascii=False).encode()
        assert len(envelope) < 16 * MB
        status, longest = ask(app, "POST", "/q/messages", envelope)
        assert status == 201
        assert longest < STEP
        status, longest = ask(app, "DELETE", "/q/sessions/s/messages/head?timeout=0&max=1000")
        assert status == 201
        assert longest < STEP


@pytest.mark.parametrize("value", ["[]", "{}", "0", '""'])
def test_an_envelope_of_very_many_values_is_refused_in_short_steps(value: str) -> None:
    with EmbeddedBroker() as broker:
        broker.create_queue("q", QueueSettings()).result()
        app = create_app(broker, keys=None)
        many = f'[{{"Body": "x", "More": [{value}' + f",{value}" * (15 * MB // (len(value) + 1)) + "]}]"
        status, longest = ask(app, "POST", "/q/messages", many.encode())
        assert status == 400
        assert longest < 2 * STEP


def test_binary_messages_are_decoded_and_encoded_in_short_steps() -> None:
    text = base64.b64encode(bytes(range(256)) * 4096).decode()
    with EmbeddedBroker() as broker:
        broker.create_queue("q", QueueSettings()).result()
        app = create_app(broker, keys=None)
        items = [{"Body": text, "BodyEncoding": "base64", "BrokerProperties": {"SessionId": "s"}}] * 11
        status, longest = ask(app, "POST", "/q/messages", json.dumps(items).encode())
        assert (status, longest < STEP) == (201, True)
        status, longest = ask(app, "DELETE", "/q/sessions/s/messages/head?timeout=0&max=1000")
        assert (status, longest < STEP) == (201, True)
