"""`InProcessAdapter` under plain requests: it answers as the gateway on a socket does."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any
from urllib.parse import unquote

import pytest
import requests

from azsession import ConfigurationError, Message, ProviderError
from azsession.broker.calls import BLOCKING, AcceptRequest, CallContext, Delivery, ReceiveRequest
from azsession.broker.embedded import EmbeddedBroker
from azsession.client.cancellation import RequestInFlight
from azsession.client.http_sockets import send_prepared
from azsession.client.inprocess import InProcessAdapter
from azsession.protocol.sas import generate_sas_token
from azsession.server import AccessKey, GatewayService
from tests.conftest import eventually

URL = "http://bus.localhost"
HEAD = f"{URL}/q/sessions/s/messages/head"
ENVELOPE = {"Content-Type": "application/vnd.microsoft.servicebus.json"}


@pytest.fixture
def broker() -> EmbeddedBroker:
    return EmbeddedBroker(auto_create=True)


@pytest.fixture
def adapter(broker: EmbeddedBroker) -> Iterator[InProcessAdapter]:
    adapter = InProcessAdapter(broker, URL, max_body_size=100_000)
    yield adapter
    adapter.close()


@pytest.fixture
def http(adapter: InProcessAdapter) -> Iterator[requests.Session]:
    with requests.Session() as http:
        http.mount(URL + "/", adapter)
        yield http


def send(broker: EmbeddedBroker, *bodies: str, session_id: str = "s") -> None:
    broker.send("q", [Message(body, session_id=session_id) for body in bodies]).result()


def test_the_answer_is_a_complete_response_object_of_requests(
    http: requests.Session, adapter: InProcessAdapter, broker: EmbeddedBroker
) -> None:
    broker.send("q", [Message(b"\0\xff", session_id="s", attributes={"CaseOfName": "v", "lower": 1})]).result()
    response = http.delete(HEAD + "?timeout=0")
    assert type(response) is requests.Response
    assert (response.status_code, response.reason, response.ok) == (201, "Created", True)
    assert (response.content, response.url) == (b"\0\xff", HEAD + "?timeout=0")
    assert response.request.method == "DELETE"
    assert response.elapsed.total_seconds() > 0
    assert response.connection is adapter  # type: ignore[comparison-overlap]
    assert response.headers["azsession-protocol"] == "1"
    assert {"CaseOfName", "lower"} <= {unquote(name) for name in response.headers}
    assert response.raw.read() == b"\0\xff"
    response.close()


def test_an_answer_can_be_streamed(http: requests.Session, broker: EmbeddedBroker) -> None:
    send(broker, "abc")
    with http.delete(HEAD + "?timeout=0", stream=True) as response:
        assert b"".join(response.iter_content(2)) == b"abc"


def test_a_json_answer_can_be_decoded(http: requests.Session) -> None:
    response = http.get(URL + "/healthz")
    assert (response.json(), response.encoding) == ({"status": "ok"}, "utf-8")


@pytest.mark.parametrize("session_id", ["a/b", "a%2Fb", "\u00e9\u4e2d \U0001f40e", "a?b#c", ";=&+"])
def test_an_encoded_session_id_arrives_unchanged(http: requests.Session, broker: EmbeddedBroker, session_id: str) -> None:
    send(broker, "x", session_id=session_id)
    path = requests.utils.quote(session_id, safe="")
    assert http.delete(f"{URL}/q/sessions/{path}/messages/head?timeout=0").content == b"x"


def test_the_base_url_can_have_a_path(broker: EmbeddedBroker) -> None:
    send(broker, "x")
    with requests.Session() as http:
        http.mount(URL + "/base/", InProcessAdapter(broker, URL + "/base/"))
        assert http.delete(URL + "/base/q/sessions/s/messages/head?timeout=0").content == b"x"


@pytest.mark.parametrize("kind", [bytes, str, io.BytesIO, list])
def test_every_kind_of_body_that_requests_accepts_is_read(http: requests.Session, broker: EmbeddedBroker, kind: Any) -> None:
    text = json.dumps([{"Body": "x", "BrokerProperties": {"SessionId": "s"}}])
    body = {
        bytes: text.encode(),
        str: text,
        io.BytesIO: io.BytesIO(text.encode()),
        list: iter([text[:5].encode(), text[5:].encode()]),
    }
    assert http.post(URL + "/q/messages", data=body[kind], headers=ENVELOPE).status_code == 201
    assert [message.body for message in broker.peek("q", "s", 0, 10).result()] == [b"x"]


def test_no_token_is_required(http: requests.Session) -> None:
    assert http.get(URL + "/").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/healthz", None),
        ("GET", "/nothing/here/at/all", None),
        ("PATCH", "/q", None),
        ("GET", "/%ff", None),
        ("POST", "/q/messages", b"[" * 5),
        ("POST", "/q/messages", b"x" * 110_000),
        ("DELETE", "/q/sessions/s/messages/head?timeout=x", None),
        ("DELETE", "/q/sessions/s/messages/head?timeout=0", None),
        ("DELETE", "/absent/sessions/s/messages/no-such-token", None),
        ("GET", "/q/sessions/s/state", None),
        ("PUT", "/q/sessions/s/state", b"kept"),
        ("PUT", "/q2", b"{}"),
        ("GET", "/", None),
    ],
)
def test_the_answer_equals_that_of_a_gateway_on_a_socket(
    http: requests.Session, method: str, path: str, body: bytes | None
) -> None:
    key = AccessKey.generate()
    own = {"date", "server", "connection", "keep-alive", "transfer-encoding", "content-length", "azsession-lock-expires-in"}
    own |= {"azsession-waited", "cache-control"}
    with GatewayService(EmbeddedBroker(auto_create=True), [key], max_waiting=2, max_body_size=100_000) as service:
        token = generate_sas_token(service.url, key.name, key.key, int(time.time()) + 100)
        lock = {"Azsession-Lock-Id": str(uuid.uuid4()), **(ENVELOPE if method == "POST" else {})}
        found = []
        for base, headers in ((service.url, {**lock, "Authorization": token}), (URL, lock)):
            answer = http.request(method, base + path, data=body, headers=headers)
            named = {name.lower(): value for name, value in answer.headers.items() if name.lower() not in own}
            found.append((answer.status_code, answer.content, named))
    assert found[0] == found[1]


def test_a_read_timeout_ends_the_wait_and_leaves_later_messages_in_the_queue(
    http: requests.Session, broker: EmbeddedBroker
) -> None:
    headers = {"Azsession-Lock-Id": "first"}
    with pytest.raises(requests.ReadTimeout):
        http.delete(HEAD + "?timeout=300", headers=headers, timeout=(5, 0.05))
    send(broker, "x")
    assert http.delete(HEAD + "?timeout=0", headers=headers).content == b"x"


def test_a_read_timeout_does_not_end_a_request_that_does_not_wait(http: requests.Session, broker: EmbeddedBroker) -> None:
    send(broker, "x")
    assert http.delete(HEAD + "?timeout=300", timeout=0.000001).content == b"x"


def test_a_read_timeout_ends_a_waiting_accept(http: requests.Session, broker: EmbeddedBroker) -> None:
    with pytest.raises(requests.ReadTimeout):
        http.post(f"{URL}/q/sessions?timeout=300", json={}, headers={"Azsession-Lock-Id": "a"}, timeout=0.05)
    send(broker, "x")
    assert broker.accept(AcceptRequest("q", None, "b", timeout=0)).result() is not None


def test_cancelling_a_request_ends_its_wait(http: requests.Session, broker: EmbeddedBroker) -> None:
    in_flight = RequestInFlight()
    errors: list[Exception] = []

    def wait() -> None:
        request = http.prepare_request(requests.Request("DELETE", HEAD + "?timeout=300", headers={"Azsession-Lock-Id": "a"}))
        try:
            send_prepared(http, request, in_flight)
        except requests.RequestException as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    eventually(lambda: in_flight._end_wait is not None)
    in_flight.cancel()
    in_flight.cancel()
    thread.join(20)
    assert [type(error) for error in errors] == [requests.ConnectionError]
    assert (in_flight.tracked, in_flight.written) == (True, True)
    send(broker, "x")
    assert len(broker.receive(ReceiveRequest("q", "s", "a", max_count=1, timeout=0)).result().messages) == 1


def test_a_request_that_was_cancelled_before_it_was_sent_has_no_effect(
    http: requests.Session, broker: EmbeddedBroker
) -> None:
    in_flight = RequestInFlight()
    in_flight.cancel()
    with pytest.raises(requests.ConnectionError):
        send_prepared(http, http.prepare_request(requests.Request("PUT", URL + "/new", data=b"{}")), in_flight)
    assert (in_flight.tracked, in_flight.written) == (True, False)
    assert broker.list_queues().result() == []


class _CancellingBroker(EmbeddedBroker):
    """Cancels the request in flight before or after the receive runs."""

    request: RequestInFlight
    before: bool

    def receive(self, request: ReceiveRequest, *, context: CallContext = BLOCKING) -> Future[Delivery]:
        if self.before:
            self.request.cancel()
        future = super().receive(request, context=context)
        self.request.cancel()
        return future


@pytest.mark.parametrize("before", [False, True])
def test_a_message_that_is_received_although_the_request_is_cancelled_reaches_its_caller(before: bool) -> None:
    broker = _CancellingBroker(auto_create=True)
    broker.request, broker.before = RequestInFlight(), before
    send(broker, "x")
    with requests.Session() as http:
        http.mount(URL + "/", InProcessAdapter(broker, URL))
        prepared = http.prepare_request(requests.Request("DELETE", HEAD + "?timeout=0"))
        assert send_prepared(http, prepared, broker.request).content == b"x"


@pytest.mark.parametrize("before", [False, True])
def test_a_receive_whose_request_is_cancelled_does_not_wait_and_leaves_the_session_free(before: bool) -> None:
    broker = _CancellingBroker(auto_create=True)
    broker.request, broker.before = RequestInFlight(), before
    with requests.Session() as http:
        http.mount(URL + "/", InProcessAdapter(broker, URL))
        prepared = http.prepare_request(requests.Request("DELETE", HEAD + "?timeout=300"))
        with pytest.raises(requests.ConnectionError):
            send_prepared(http, prepared, broker.request)
        eventually(lambda: not any(lock.waiters for lock in broker._core.locks))
        send(broker, "x")
        (message,) = broker.receive(ReceiveRequest("q", "s", "", max_count=1, timeout=0)).result().messages
        assert message.delivery_count == 1


class _Broken(EmbeddedBroker):
    failure: BaseException

    def list_queues(self, **options: Any) -> Any:
        raise self.failure


def test_an_unexpected_exception_reaches_the_caller() -> None:
    broker = _Broken()
    broker.failure = ValueError("a bug, or an exception of a signal handler")
    with requests.Session() as http:
        http.mount(URL + "/", InProcessAdapter(broker, URL))
        with pytest.raises(ValueError, match="signal handler"):
            http.get(URL + "/")


def test_a_keyboard_interrupt_in_the_broker_reaches_the_caller() -> None:
    broker = _Broken()
    broker.failure = KeyboardInterrupt()
    with requests.Session() as http:
        http.mount(URL + "/", InProcessAdapter(broker, URL))
        with pytest.raises(KeyboardInterrupt):
            http.get(URL + "/")


def test_closing_the_requests_session_ends_waits_and_closes_the_broker(broker: EmbeddedBroker) -> None:
    http = requests.Session()
    http.mount(URL + "/", InProcessAdapter(broker, URL))
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(http.delete(HEAD + "?timeout=300").status_code))
    thread.start()
    eventually(lambda: any(lock.waiters for lock in broker._core.locks))
    http.close()
    http.close()
    thread.join(20)
    assert answers == [204]
    with pytest.raises(ConfigurationError, match="was closed"):
        http.get(URL + "/healthz")


class _Slow(EmbeddedBroker):
    """Waits for the answer of a remote service, which never comes."""

    futures: list[Future[float]]

    def renew(self, entity: str, session_id: str, lock_id: str, *, context: CallContext = BLOCKING) -> Future[float]:
        future: Future[float] = Future()
        self.futures.append(future)
        assert context.deadline is not None
        error = ProviderError("no answer", code="ServerBusy", is_transient=True)
        if context.deadline - time.monotonic() < 1:
            threading.Timer(context.deadline - time.monotonic(), lambda: future.set_exception(error)).start()
        return future


@pytest.mark.parametrize("how", ["cancelled", "late"])
def test_an_operation_on_a_remote_service_is_withdrawn_by_a_cancel_and_knows_its_deadline(how: str) -> None:
    broker = _Slow()
    broker.futures = []
    in_flight = RequestInFlight()
    errors: list[Exception] = []
    with requests.Session() as http:
        http.mount(URL + "/", InProcessAdapter(broker, URL))

        def renew() -> None:
            request = http.prepare_request(requests.Request("POST", f"{URL}/q/sessions/s/renewlock"))
            try:
                send_prepared(http, request, in_flight, timeout=300 if how == "cancelled" else 0.05)
            except requests.RequestException as error:
                errors.append(error)

        thread = threading.Thread(target=renew)
        thread.start()
        eventually(lambda: broker.futures)
        if how == "cancelled":
            eventually(lambda: in_flight._end_wait is not None)
            in_flight.cancel()
            assert broker.futures[0].cancelled()
        thread.join(20)
    assert [type(error) for error in errors] == [requests.ConnectionError if how == "cancelled" else requests.ReadTimeout]


def test_azure_in_process_does_not_need_uvicorn() -> None:
    code = "import sys; sys.modules['uvicorn'] = None; import azsession.client.inprocess; print('done')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("done\n", "")
