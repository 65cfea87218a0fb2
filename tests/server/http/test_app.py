"""The WSGI application, called with an environment as a server makes it."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from azsession.broker.embedded import EmbeddedBroker
from azsession.protocol.sas import generate_sas_token
from azsession.server import create_app

from ..raw import MANAGE

PROPERTIES = {"HTTP_BROKERPROPERTIES": '{"SessionId": "s"}'}


#: The status line, the headers and the body of an answer.
Reply = tuple[str, dict[str, str], bytes]


class Unread(io.BytesIO):
    """A body that must not be read."""

    def read(self, *args: Any) -> bytes:
        raise AssertionError("the body was read")


class Application:
    """The application for a broker with one queue, and a body limit of 100 bytes."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self._app = create_app(broker, keys=[MANAGE], max_body_size=100)
        self._token = generate_sas_token("https://here", MANAGE.name, MANAGE.key, int(time.time()) + 60)

    def ask(
        self, method: str, path: str, body: io.BytesIO | bytes = b"", **environ: Any
    ) -> tuple[str, dict[str, str], bytes]:
        """Return the status line, the headers and the body of an answer. `None` in `environ` removes a key."""
        stream = io.BytesIO(body) if isinstance(body, bytes) else body
        usual = {
            "REQUEST_METHOD": method,
            "REQUEST_URI": path,
            "HTTP_HOST": "here",
            "HTTP_AUTHORIZATION": self._token,
            "wsgi.input": stream,
            "CONTENT_LENGTH": str(len(stream.getvalue())),
        }
        given = {key: value for key, value in {**usual, **environ}.items() if value is not None}
        started: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            started.append((status, headers))

        content = b"".join(self._app(given, start_response))
        ((status, headers),) = started
        assert len({name.lower() for name, _ in headers}) == len(headers)
        return status, dict(headers), content


@pytest.fixture
def app() -> Iterator[Application]:
    with EmbeddedBroker(queues=["q"]) as broker:
        yield Application(broker)


def code(answer: Reply) -> tuple[int, str]:
    return int(answer[0][:3]), json.loads(answer[2])["error"]["code"]


def test_an_answer_has_a_reason_a_length_and_the_protocol_version(app: Application) -> None:
    status, headers, body = app.ask("POST", "/q/messages", b"x", **PROPERTIES)
    assert (status, body) == ("201 Created", b"")
    assert headers == {"Content-Length": "0", "Azsession-Protocol": "1"}


def test_a_204_has_no_content_length(app: Application) -> None:
    status, headers, body = app.ask("DELETE", "/q/sessions/s/messages/head", QUERY_STRING="timeout=0")
    assert (status, body) == ("204 No Content", b"")
    assert "Content-Length" not in headers


def test_a_head_request_gets_the_length_without_the_body(app: Application) -> None:
    _, headers, body = app.ask("HEAD", "/healthz")
    assert (headers["Content-Length"], body) == (str(len(b'{"status":"ok"}')), b"")


def test_a_body_is_not_read_before_the_request_is_authorized(app: Application) -> None:
    refused = app.ask("POST", "/q/messages", Unread(b"x"), HTTP_AUTHORIZATION=None, **PROPERTIES)
    assert code(refused) == (401, "Unauthorized")


def test_a_body_over_the_limit_is_refused_unread_and_ends_the_connection(app: Application) -> None:
    refused = app.ask("POST", "/q/messages", Unread(b"x" * 101), **PROPERTIES)
    assert code(refused) == (413, "MessageTooLarge")
    assert refused[1]["Connection"] == "close"


def test_a_chunked_body_over_the_limit_is_refused(app: Application) -> None:
    chunked = {"HTTP_TRANSFER_ENCODING": "chunked", "CONTENT_LENGTH": None, **PROPERTIES}
    assert code(app.ask("POST", "/q/messages", b"x" * 101, **chunked)) == (413, "MessageTooLarge")
    assert app.ask("POST", "/q/messages", b"x" * 100, **chunked)[0] == "201 Created"


def test_content_length_and_transfer_encoding_together_are_refused(app: Application) -> None:
    refused = app.ask("POST", "/q/messages", Unread(b"x"), HTTP_TRANSFER_ENCODING="chunked", **PROPERTIES)
    assert code(refused) == (400, "InvalidRequest")


@pytest.mark.parametrize("length", ["-1", "many", "1 ", "\u0663", "2"])
def test_a_content_length_that_is_not_the_length_of_the_body_is_refused(app: Application, length: str) -> None:
    assert code(app.ask("POST", "/q/messages", b"x", CONTENT_LENGTH=length, **PROPERTIES)) == (400, "InvalidRequest")


def test_an_empty_content_length_means_no_body(app: Application) -> None:
    assert app.ask("POST", "/q/messages", Unread(), CONTENT_LENGTH="", **PROPERTIES)[0] == "201 Created"


def test_a_decoded_path_is_used_if_the_server_gives_no_raw_path(app: Application) -> None:
    decoded = {"REQUEST_URI": None, "QUERY_STRING": "timeout=0"}
    path = "/q/sessions/é/a/messages/head".encode().decode("latin-1")
    assert app.ask("DELETE", "", PATH_INFO=path, **decoded)[0] == "204 No Content"
    assert json.loads(app.ask("GET", "/q/sessions")[2])["sessions"] == []
    app.ask("POST", "/q/messages", b"x", HTTP_BROKERPROPERTIES='{"SessionId": "\\u00e9/a"}')
    assert app.ask("DELETE", "", PATH_INFO=path, **decoded)[2] == b"x"


def test_a_decoded_path_that_is_not_utf_8_is_refused(app: Application) -> None:
    refused = app.ask("DELETE", "", REQUEST_URI=None, PATH_INFO="/q/sessions/\xff/messages/head")
    assert code(refused) == (400, "InvalidRequest")


def test_an_absolute_url_as_request_target_is_understood(app: Application) -> None:
    assert app.ask("GET", "http://here/healthz?x=1#y")[0] == "200 OK"


def test_the_server_name_stands_in_for_a_missing_host_header(app: Application) -> None:
    assert app.ask("GET", "/q", HTTP_HOST=None, SERVER_NAME="here")[0] == "200 OK"
    assert code(app.ask("GET", "/q", HTTP_HOST=None, SERVER_NAME="elsewhere")) == (401, "Unauthorized")
