"""A hostile server, or an attacker in its place, can make calls fail and nothing else."""

from __future__ import annotations

import json
import logging
import re
import traceback
from pathlib import Path

import pytest
from azure.core.credentials import AccessToken
from hypothesis import given
from hypothesis import strategies as st

from azsession import QueueError, ServiceBusProvider
from azsession.errors import AuthenticationFailedError, ConfigurationError, ConnectionFailedError, ProviderError, printable

from ..support.plain_server import KEY, Fate, PlainServer, answer
from ..support.processes import run_here

STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
#: Text of a server that people will read.
TEXT = "\x1b[2J\x1b]0;title\x07red\r\nINFO root: all is well\u202e\u2028\x9b31m"
ESCAPED = TEXT.encode("unicode_escape").decode().replace("\\x", "\\u00").encode()

#: The requests of `failing`: a receive, and a release, because the receive may have taken the lock.
OWN_REQUESTS = ["DELETE /orders/sessions/s1/messages/head?timeout=0", "POST /orders/sessions/s1/release"]


def failing(server: PlainServer, *fates: Fate, retry_attempts: int = 0) -> QueueError:
    """Return the error of a receive with this response."""
    server.next(*fates)
    with (
        ServiceBusProvider.from_connection_string(server.connection_string, retry_attempts=retry_attempts) as provider,
        provider.create_session_client("orders", "s1", auto_renew=False) as session,
        pytest.raises(QueueError) as caught,
    ):
        session.receive_message(timeout=0)
    return caught.value


# Text for people

ANSWERS = {
    "JSON": answer(400, {}, b'{"error": {"code": "InvalidRequest", "message": "' + ESCAPED + b'"}}'),
    "a valid JSON error": answer(503, {}, b'{"error": {"code": "ServerBusy", "message": "' + ESCAPED + b'"}}'),
    "XML": answer(404, {}, b"<Error><Code>404</Code><Detail>" + TEXT.encode() + b"</Detail></Error>"),
    "a code": answer(400, {"x-ms-error-code": "\x1b[31m"}),
    "a status line": Fate(b"HTTP/1.1 200\x1b[31m OK\r\n\r\n", cut=999),
    "no HTTP": Fate(TEXT.encode() + b"\r\n\r\n", cut=999),
    "a header": Fate(b"HTTP/1.1 200 OK\r\n\x1b[31mA: b\r\n\r\n", cut=999),
    "a chunk": Fate(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\x1b[31mz\r\n", cut=999),
    "an encoding": Fate(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\n\x1b[31m", cut=999),
    "a date": answer(201, {"BrokerProperties": '{"LockToken": "t", "EnqueuedTimeUtc": "\\u001b[31m"}'}),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_errors_and_logs_with_a_servers_text_have_no_control_characters(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "azsession")
    with PlainServer() as server:
        error = failing(server, ANSWERS[name], ANSWERS[name], retry_attempts=1)
    assert not STEERING.search(str(error))
    assert "\n" not in str(error)
    assert not STEERING.search("".join(traceback.format_exception(error)))
    for record in caplog.records:
        if record.name.startswith("azsession"):
            assert not STEERING.search(record.getMessage())
            assert "\n" not in record.getMessage()


def test_the_command_line_prints_a_servers_text_in_one_line_without_control_characters() -> None:
    with PlainServer() as server:
        server.next(answer(204, {"Azsession-Protocol": "1"}), ANSWERS["JSON"])
        ended = run_here("peek", "orders", "s1", connection_string=server.connection_string)
    assert ended.returncode == 1
    assert not STEERING.search(ended.stdout + ended.stderr)
    assert ended.stderr.count("\n") == 1
    assert "INFO root: all is well" in ended.stderr


@given(st.text())
def test_the_text_of_an_error_is_one_line_without_control_characters(text: str) -> None:
    for error in (QueueError(text), ProviderError(text), ConnectionFailedError(text), ConfigurationError(text)):
        assert not STEERING.search(str(error))
        assert not set(str(error)) & set("\r\n")
        str(error).encode()


@given(st.text(st.characters(exclude_categories=["C", "Zl", "Zp"])))
def test_text_without_control_characters_is_shown_unchanged(text: str) -> None:
    assert printable(text) == text == str(QueueError(text))


# The receiver of the token


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("way", ["{other}/orders/sessions/s1/messages/head", "/elsewhere", "//{host}/", "?timeout=9"])
def test_redirects_are_not_followed(status: int, way: str) -> None:
    with PlainServer() as server, PlainServer() as other:
        place = way.format(other=other.url, host=other.url.removeprefix("http://"))
        error = failing(server, answer(status, {"Location": place}))
        assert isinstance(error, ProviderError)
        assert error.status == status
        assert other.requests() == []
        assert server.requests() == OWN_REQUESTS


@pytest.mark.parametrize("place", ["http://[::1", "//[", "\xff\xfe", "http://a:99999999/", "", "\x00", "http://\x1b[31m/"])
def test_a_malformed_redirect_raises_a_queue_error(place: str) -> None:
    with PlainServer() as server:
        assert isinstance(failing(server, answer(302, {"Location": place})), ProviderError)


def test_a_netrc_does_not_replace_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with PlainServer() as server:
        failing(server, answer(302, {"Location": server.url}), answer(400))
        assert all(seen.headers["Authorization"].startswith("SharedAccessSignature sr=") for seen in server.seen)


@pytest.mark.parametrize("names", [("http_proxy",), ("HTTP_PROXY", "http_proxy"), ("all_proxy", "ALL_PROXY")])
def test_requests_to_loopback_do_not_use_the_proxies_of_the_environment(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with PlainServer() as server, PlainServer() as proxy:
        for name in names:
            monkeypatch.setenv(name, proxy.url)
        failing(server, answer(400))
        assert proxy.requests() == []
        assert server.requests() == OWN_REQUESTS


def test_an_invalid_session_id_from_a_server_is_refused() -> None:
    for name in ('"\\ud800"', '"' + "x" * 129 + '"', "5"):
        with PlainServer() as server:
            body = b'{"SessionId": ' + name.encode() + b"}"
            server.next(answer(200, {"Azsession-Protocol": "1"}), answer(201, {"Azsession-Protocol": "1"}, body))
            with (
                ServiceBusProvider.from_connection_string(server.connection_string, retry_attempts=0) as provider,
                pytest.raises(ProviderError, match="malformed response"),
            ):
                provider.create_session_client("orders", accept_timeout=0)


def test_messages_beyond_the_number_that_was_asked_for_are_kept_in_their_order() -> None:
    """The server has locked them for this client."""
    headers = {"Azsession-Protocol": "1", "Content-Type": "application/vnd.microsoft.servicebus.json"}
    items = [{"Body": body, "BrokerProperties": {"LockToken": body, "SessionId": "s1"}} for body in "abcd"]
    with PlainServer() as server:
        server.next(answer(201, headers, json.dumps(items).encode()), *[answer(204, headers)] * 3)
        with (
            ServiceBusProvider.from_connection_string(server.connection_string, retry_attempts=0) as provider,
            provider.create_session_client("orders", "s1", auto_renew=False) as session,
        ):
            received = [session.receive_messages(2, timeout=0), [session.receive_message(timeout=0)]]
            received += [session.receive_messages(2, timeout=0)]
            assert [[message and message.body for message in part] for part in received] == [[b"a", b"b"], [b"c"], [b"d"]]


# Tokens that cannot be sent as a header

SECRET = "c2VjcmV0LXNpZ25hdHVyZQ"


@pytest.mark.parametrize("text", ["{}\nInjected: yes", "{}\r\nInjected: yes", "a\x00{}", "{}\x7f", "{}\u00e9", "a\u2028{}"])
def test_a_signature_that_cannot_be_a_header_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ServiceBusProvider.from_connection_string(f"Endpoint=http://127.0.0.1:1/;SharedAccessSignature={text.format(SECRET)}")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("text", ["{}\n", "{}\r\nInjected: yes", "{}\u00e9", "{}\x00"])
def test_a_token_that_cannot_be_a_header_is_refused_and_not_shown(text: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    class Credential:
        def get_token(self, *scopes: str, **options: object) -> AccessToken:
            return AccessToken(text.format(SECRET), 4_000_000_000)

    with (
        PlainServer() as server,
        ServiceBusProvider.from_connection_string(f"Endpoint={server.url}/", credential=Credential()) as provider,
        provider.create_session_client("orders", "s1", auto_renew=False) as session,
    ):
        with pytest.raises(AuthenticationFailedError) as caught:
            session.receive_message(timeout=0)
        assert server.requests() == []
    shown = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert SECRET not in shown
    assert KEY not in shown
