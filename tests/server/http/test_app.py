"""The ASGI application, called with a scope as a server makes it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from azsession.broker.embedded import EmbeddedBroker
from azsession.server import create_app
from azsession.tokens import generate_sas_token

from ..asgi import Answered, call
from ..raw import MANAGE

PROPERTIES = {"BrokerProperties": '{"SessionId": "s"}'}


class Application:
    """The application for a broker with one queue, and a body limit of 100 bytes."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self.app = create_app(broker, keys=[MANAGE], max_body_size=100)
        self._token = generate_sas_token("https://here", MANAGE.name, MANAGE.key, int(time.time()) + 60)

    def ask(self, method: str, target: str, body: Any = b"", headers: dict[str, Any] | None = None, **scope: Any) -> Answered:
        """Return the answer to a request with a token. `None` as a header removes the header."""
        fields = {"Host": "here", "Authorization": self._token, **(headers or {})}
        return call(
            self.app, method, target, body, {name: value for name, value in fields.items() if value is not None}, **scope
        )


@pytest.fixture
def app() -> Iterator[Application]:
    with EmbeddedBroker(queues=["q"]) as broker:
        yield Application(broker)


def code(answer: Answered) -> tuple[int, str]:
    return answer.status, json.loads(answer.body)["error"]["code"]


# Answers


def test_an_answer_has_a_length_the_protocol_version_and_is_not_stored(app: Application) -> None:
    answer = app.ask("POST", "/q/messages", b"x", PROPERTIES)
    assert (answer.status, answer.body) == (201, b"")
    assert answer.headers == {
        "content-length": "0",
        "azsession-protocol": "1",
        "azsession-extensions": "fetch-ahead, statistics, combined",
        "cache-control": "no-store",
    }


def test_a_204_has_no_content_length(app: Application) -> None:
    answer = app.ask("DELETE", "/q/sessions/s/messages/head?timeout=0")
    assert (answer.status, answer.body) == (204, b"")
    assert "content-length" not in answer.headers


def test_a_head_request_gets_the_length_without_the_body(app: Application) -> None:
    answer = app.ask("HEAD", "/healthz")
    assert (answer.headers["content-length"], answer.body) == (str(len(b'{"status":"ok"}')), b"")


# Bodies


def test_a_body_is_not_read_before_the_request_is_authorized(app: Application) -> None:
    refused = app.ask("POST", "/q/messages", b"x", {**PROPERTIES, "Authorization": None})
    assert (code(refused), refused.events_read) == ((401, "Unauthorized"), 0)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/openapi.json"])
def test_an_open_route_reads_no_body_before_its_answer(app: Application, path: str) -> None:
    answer = app.ask("GET", path, b"x" * 1000, {"Authorization": None})
    assert (answer.status, answer.events_read) == (200, 0)


def test_a_body_over_the_limit_is_refused_unread_and_ends_the_connection(app: Application) -> None:
    refused = app.ask("POST", "/q/messages", b"x" * 100_000, PROPERTIES)
    assert (code(refused), refused.events_read) == ((413, "MessageTooLarge"), 0)
    assert refused.headers["connection"] == "close"


def test_a_chunked_body_over_the_limit_is_refused(app: Application) -> None:
    chunked = {"Transfer-Encoding": "chunked", **PROPERTIES}
    assert code(app.ask("POST", "/q/messages", [b"x" * 60, b"x" * 41], chunked)) == (413, "MessageTooLarge")
    assert app.ask("POST", "/q/messages", [b"x" * 60, b"x" * 40], chunked).status == 201


def test_a_body_that_is_cut_off_sends_nothing(app: Application) -> None:
    async def send(event: Any) -> None:
        raise AssertionError("a request without its body was answered")

    events = [{"type": "http.request", "body": b"x", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return events.pop(0)

    headers = [(b"host", b"here"), (b"authorization", app._token.encode()), (b"transfer-encoding", b"chunked")]
    scope = {"type": "http", "http_version": "1.1", "method": "POST", "path": "/q/messages", "raw_path": b"/q/messages"}
    properties = (b"brokerproperties", PROPERTIES["BrokerProperties"].encode())
    asyncio.run(app.app({**scope, "query_string": b"", "headers": [*headers, properties]}, receive, send))
    assert app.ask("DELETE", "/q/sessions/s/messages/head?timeout=0").status == 204


@pytest.mark.parametrize("length", ["-1", "many", "1_0", "\u00b2", "+1", "1,1", ""])
def test_a_malformed_content_length_is_refused(app: Application, length: str) -> None:
    assert code(app.ask("POST", "/q/messages", b"x", {"Content-Length": length, **PROPERTIES})) == (400, "InvalidRequest")


def test_a_content_length_that_is_not_the_length_of_the_body_is_refused(app: Application) -> None:
    assert code(app.ask("POST", "/q/messages", b"x", {"Content-Length": "2", **PROPERTIES})) == (400, "InvalidRequest")


# Paths


def test_a_decoded_path_is_used_if_the_server_gives_no_raw_path(app: Application) -> None:
    path = "/q/sessions/é/a/messages/head"
    decoded: dict[str, Any] = {"raw_path": None, "path": path, "query_string": b"timeout=0"}
    assert app.ask("DELETE", "", **decoded).status == 204
    assert json.loads(app.ask("GET", "/q/sessions").body)["sessions"] == []
    app.ask("POST", "/q/messages", b"x", {"BrokerProperties": '{"SessionId": "\\u00e9/a"}'})
    assert app.ask("DELETE", "", **decoded).body == b"x"


def test_a_decoded_path_with_undecodable_bytes_is_refused(app: Application) -> None:
    refused = app.ask("DELETE", "", raw_path=None, path="/q/sessions/\udcff/messages/head")
    assert code(refused) == (400, "InvalidRequest")


@pytest.mark.parametrize("root", ["/bus", "/bus/", "/a b/c", "/é"])
def test_the_prefix_of_a_mounted_application_is_no_part_of_the_path(app: Application, root: str) -> None:

    for raw in {quote(root.rstrip("/")), quote(root.rstrip("/")).replace("%20", "%20").lower()}:
        path = f"{raw}/q/sessions/a%2Fb/messages/head"
        answer = app.ask(
            "DELETE", f"{path}?timeout=0", root_path=root, path=f"{root.rstrip('/')}/q/sessions/a/b/messages/head"
        )
        assert answer.status == 204
    assert code(app.ask("GET", "/q/sessions/s/elsewhere", root_path=root)) == (404, "InvalidRequest")


def test_the_prefix_itself_is_the_root_of_the_application(app: Application) -> None:
    for path in ("/bus", "/bus/"):
        assert json.loads(app.ask("GET", path, root_path="/bus").body)["queues"][0]["QueueName"] == "q"


# Other kinds of connections


def test_a_websocket_is_refused(app: Application) -> None:
    sent: list[Any] = []

    async def run() -> None:
        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(event: Any) -> None:
            sent.append(event)

        await app.app({"type": "websocket", "path": "/"}, receive, send)

    asyncio.run(run())
    assert [event["type"] for event in sent] == ["websocket.close"]


def test_the_lifespan_of_the_server_is_confirmed(app: Application) -> None:
    sent: list[Any] = []

    async def run() -> None:
        events = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

        async def receive() -> Any:
            return events.pop(0)

        async def send(event: Any) -> None:
            sent.append(event)

        await app.app({"type": "lifespan"}, receive, send)

    asyncio.run(run())
    assert [event["type"] for event in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
