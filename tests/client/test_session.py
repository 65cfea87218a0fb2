"""`SessionClient` and its provider, against a real gateway where one is needed, and with `responses` where not."""

from __future__ import annotations

import gc
import pickle
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import requests
import responses
from requests.adapters import HTTPAdapter

from azsession import (
    InvalidReceiptError,
    Message,
    NoSessionAvailableError,
    ProviderError,
    QueueError,
    ReceiptHandle,
    ReceivedMessage,
    ServiceBusConfig,
    ServiceBusProvider,
    SessionClient,
    SessionLockedError,
    SessionNotFoundError,
    ValidationError,
)
from azsession.testing import AzsessionServer

from ..conftest import eventually
from ..support.plain_server import PlainServer, answer

URL = "http://127.0.0.1:9"
CONNECTION_STRING = f"Endpoint={URL}/;SharedAccessKeyName=reader;SharedAccessKey=c2VjcmV0"
HEAD = re.compile(rf"{URL}/orders/sessions/s1/messages/head")


def send(provider: ServiceBusProvider, *bodies: bytes, session_id: str = "s1") -> None:
    provider.send_messages("orders", [Message(body, session_id=session_id) for body in bodies])


def take(session: SessionClient) -> ReceivedMessage:
    message = session.receive_message(timeout=5)
    assert message is not None
    return message


@pytest.fixture
def session(azsession_provider: ServiceBusProvider) -> Iterator[SessionClient]:
    with azsession_provider.create_session_client("orders", "s1") as session:
        yield session


# Receipts


def test_a_message_a_receipt_and_its_text_all_settle(azsession_provider: ServiceBusProvider, session: SessionClient) -> None:
    send(azsession_provider, b"0", b"1", b"2", b"3")
    session.complete_message(take(session))
    session.complete_message(take(session).receipt)
    session.complete_message(str(take(session).receipt))
    session.complete_message(pickle.loads(pickle.dumps(take(session))))
    assert azsession_provider.peek_messages("orders", "s1") == []


@pytest.mark.parametrize(
    "receipt",
    [
        ReceiptHandle("6b2d11f2-0ab2-4b2e-9f7a-1f6f2f0e9d3c", queue_name="orders", session_id="s1"),
        ReceiptHandle("unknown"),
        str(ReceiptHandle("unknown", queue_name="orders", session_id="s1")),
        "azs1.damaged",
        "no receipt",
        "",
        None,
        5,
    ],
)
def test_an_unknown_receipt_is_refused_without_a_request(receipt: Any) -> None:
    with responses.RequestsMock(), ServiceBusProvider.from_connection_string(CONNECTION_STRING) as provider:
        session = provider.create_session_client("orders", "s1")
        for settle in (session.complete_message, session.abandon_message, session.defer_message):
            with pytest.raises(InvalidReceiptError):
                settle(receipt)
        with pytest.raises(InvalidReceiptError):
            session.dead_letter_message(receipt, "why")
        with pytest.raises(InvalidReceiptError):
            session.complete_messages([receipt])


def test_a_receipt_of_another_session_is_refused(azsession_provider: ServiceBusProvider, session: SessionClient) -> None:
    send(azsession_provider, b"0")
    handle = take(session).receipt.handle
    for forged in (
        ReceiptHandle(handle, queue_name="orders", session_id="s2"),
        ReceiptHandle(handle, queue_name="bills", session_id="s1"),
    ):
        with pytest.raises(InvalidReceiptError):
            session.complete_message(str(forged))


def test_a_receipt_settles_once(azsession_provider: ServiceBusProvider, session: SessionClient) -> None:
    send(azsession_provider, b"0")
    message = take(session)
    session.complete_message(message)
    with pytest.raises(InvalidReceiptError):
        session.abandon_message(message)


@pytest.mark.parametrize("form", ["text", "handle"])
def test_a_receipt_settles_through_another_provider(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, session: SessionClient, form: str
) -> None:
    send(azsession_provider, b"0")
    receipt = take(session).receipt
    with azsession_server.provider() as other:
        there = other.session_from_receipt(str(receipt) if form == "text" else receipt)
        assert (there.session_id, there.queue_name) == ("s1", "orders")
        there.complete_message(str(receipt))
        there.close()
    assert azsession_provider.peek_messages("orders", "s1") == []
    session.renew_session_lock()


def test_a_forged_receipt_settles_nothing(azsession_provider: ServiceBusProvider, session: SessionClient) -> None:
    send(azsession_provider, b"0")
    take(session)
    forged = ReceiptHandle("6b2d11f2-0ab2-4b2e-9f7a-1f6f2f0e9d3c", queue_name="orders", session_id="s1")
    with pytest.raises(InvalidReceiptError):
        azsession_provider.session_from_receipt(forged).complete_message(forged)
    assert len(azsession_provider.peek_messages("orders", "s1")) == 1


def test_many_receipts_are_completed_at_once_and_the_bad_ones_told(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, session: SessionClient
) -> None:
    send(azsession_provider, b"0", b"1", b"2")
    messages = session.receive_messages(3, timeout=5)
    with azsession_server.provider() as other:
        other.session_from_receipt(messages[1].receipt).abandon_message(messages[1])
    with pytest.raises(InvalidReceiptError, match="1 of 3"):
        session.complete_messages(messages)
    assert [message.body for message in azsession_provider.peek_messages("orders", "s1")] == [b"1"]


# The lock


def test_the_expiry_is_never_later_than_the_server_has_it(azsession_server: AzsessionServer) -> None:
    azsession_server.create_queue("orders", lock_duration=10)
    with azsession_server.provider() as provider:
        send(provider, b"0")
        with provider.create_session_client("orders", "s1", auto_renew=False) as session:
            for _ in range(5):
                session.receive_message(timeout=0)
                believed = session.session_expires_at
                assert believed <= datetime.now(timezone.utc) + timedelta(seconds=10)
                # The server's date is written in whole seconds, cut off.
                told = provider.list_sessions("orders")[0].locked_until
                assert told is not None
                assert believed < told + timedelta(seconds=1)


def test_a_slow_answer_does_not_make_the_lock_seem_longer() -> None:
    with PlainServer() as server, ServiceBusProvider.from_connection_string(server.connection_string) as provider:
        session = provider.create_session_client("orders", "s1", session_timeout=5, auto_renew=False)
        before = datetime.now(timezone.utc)
        threading.Timer(0.5, server.put, ("orders", "s1", b"late")).start()
        take(session)
        assert session.session_expires_at < before + timedelta(seconds=5.4)
        session.close()


def test_before_the_first_receive_nothing_is_lost(azsession_provider: ServiceBusProvider) -> None:
    lost: list[object] = []
    before = datetime.now(timezone.utc)
    with azsession_provider.create_session_client(
        "orders", "s1", session_timeout=0.05, on_lock_lost=lambda *args: lost.append(args)
    ) as session:
        assert timedelta(0) < session.session_expires_at - before < timedelta(seconds=5)
        eventually(lambda: datetime.now(timezone.utc) > session.session_expires_at)
        assert not session.is_lock_lost
        assert session.receive_message(timeout=0) is None
    assert lost == []


@pytest.mark.parametrize("auto_renew", [False, True])
def test_an_expired_lock_is_lost_at_once_and_told_once(auto_renew: bool) -> None:
    lost: list[tuple[SessionClient, SessionNotFoundError]] = []
    with PlainServer() as server:
        fields: dict[str, Any] = {"retry_attempts": 0}
        with ServiceBusProvider.from_connection_string(server.connection_string, **fields) as provider:
            session = provider.create_session_client(
                "orders",
                "s1",
                session_timeout=0.3,
                auto_renew=auto_renew,
                on_lock_lost=lambda client, error: lost.append((client, error)),
            )
            server.put("orders", "s1", b"0")
            message = take(session)
            server.next(*[answer(500)] * 100)
            eventually(lambda: lost, "the loss was never told")
            so_far = len(server.seen)
            for call in (session.receive_message, session.renew_session_lock, lambda: session.complete_message(message)):
                with pytest.raises(SessionNotFoundError, match="expired"):
                    call()
            assert session.is_lock_lost
            assert len(server.seen) == so_far
            session.close()
    assert [client for client, _ in lost] == [session]


def test_a_callback_that_fails_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    def fail(client: SessionClient, error: SessionNotFoundError) -> None:
        raise RuntimeError("on purpose")

    with PlainServer() as server, ServiceBusProvider.from_connection_string(server.connection_string) as provider:
        session = provider.create_session_client("orders", "s1", on_lock_lost=fail)
        server.next(answer(410))
        with pytest.raises(SessionNotFoundError):
            session.receive_message(timeout=0)
    assert "on purpose" in caplog.text


def test_another_holders_session_is_locked(azsession_server: AzsessionServer, session: SessionClient) -> None:
    session.receive_message(timeout=0)
    with azsession_server.provider() as other:
        refused = other.create_session_client("orders", "s1")
        with pytest.raises(SessionLockedError) as caught:
            refused.receive_message(timeout=0)
        assert caught.value.locked_until is not None
        assert caught.value.locked_until > datetime.now(timezone.utc) + timedelta(seconds=30)
        session.close()
        assert refused.receive_message(timeout=0) is None


def test_a_lock_that_another_got_meanwhile_is_lost(azsession_server: AzsessionServer) -> None:
    azsession_server.create_queue("orders", lock_duration=1)
    lost: list[str] = []
    with azsession_server.provider() as provider:
        send(provider, b"0")
        first = provider.create_session_client(
            "orders", "s1", auto_renew=False, on_lock_lost=lambda client, error: lost.append(client.session_id)
        )
        message = take(first)
        with provider.create_session_client("orders", "s1") as second:
            eventually(lambda: lost)

            def got() -> bool:
                try:
                    return second.receive_message(timeout=1) is not None
                except SessionLockedError:
                    return False

            eventually(got)
            with pytest.raises(SessionNotFoundError):
                first.complete_message(message)
            with pytest.raises(SessionNotFoundError):
                first.renew_session_lock()
        first.close()
    assert lost == ["s1"]


# Renewal


def test_renewal_keeps_a_lock_of_a_second_alive(azsession_server: AzsessionServer) -> None:
    azsession_server.create_queue("orders", lock_duration=1)
    with azsession_server.provider() as provider:
        send(provider, b"0")
        with provider.create_session_client("orders", "s1") as session:
            message = take(session)
            until = time.monotonic() + 3
            eventually(lambda: time.monotonic() > until)
            assert not session.is_lock_lost
            session.complete_message(message)
        assert provider.peek_messages("orders", "s1") == []


def test_renewal_ends_at_its_limit(azsession_server: AzsessionServer) -> None:
    azsession_server.create_queue("orders", lock_duration=1)
    lost = threading.Event()
    with (
        azsession_server.provider() as provider,
        provider.create_session_client(
            "orders", "s1", max_renewal=1.2, on_lock_lost=lambda client, error: lost.set()
        ) as session,
    ):
        session.receive_message(timeout=0)
        began = time.monotonic()
        assert lost.wait(20)
        assert time.monotonic() - began > 1.2


def test_without_renewal_no_request_is_made(azsession_server: AzsessionServer) -> None:
    with PlainServer() as server, ServiceBusProvider.from_connection_string(server.connection_string) as provider:
        with provider.create_session_client("orders", "s1", session_timeout=0.3, auto_renew=False) as session:
            session.receive_message(timeout=0)
            eventually(lambda: session.is_lock_lost)
        assert len(server.seen) == 1


def test_a_forgotten_client_warns_and_is_not_renewed() -> None:
    with PlainServer() as server, ServiceBusProvider.from_connection_string(server.connection_string) as provider:

        def forget_one() -> None:
            session = provider.create_session_client("orders", "s1", session_timeout=1)
            session.receive_message(timeout=0)
            eventually(lambda: len(server.seen) > 1, "it was never renewed")
            del session

        with pytest.warns(ResourceWarning, match="never closed") as warned:
            forget_and_collect(forget_one, warned)
        so_far = len(server.seen)
        until = time.monotonic() + 1.2
        eventually(lambda: time.monotonic() > until)
        assert len(server.seen) == so_far


def test_a_log_that_keeps_what_it_is_told_holds_no_client(caplog: pytest.LogCaptureFixture) -> None:
    with PlainServer() as server, ServiceBusProvider.from_connection_string(server.connection_string) as provider:

        def forget_one() -> None:
            session = provider.create_session_client("orders", "s1", session_timeout=1)
            session.receive_message(timeout=0)
            server.next(answer(503))
            eventually(lambda: "could not be renewed" in caplog.text)
            del session

        with pytest.warns(ResourceWarning, match="never closed") as warned:
            forget_and_collect(forget_one, warned)


def forget_and_collect(forget: Callable[[], None], warned: pytest.WarningsRecorder) -> None:
    forget()
    eventually(lambda: gc.collect() >= 0 and len(warned), "something holds the client")


# Order


def test_what_was_fetched_ahead_does_not_overtake_an_abandoned_message(
    azsession_provider: ServiceBusProvider, session: SessionClient
) -> None:
    send(azsession_provider, *(b"%d" % n for n in range(6)))
    seen = []
    for message in session.messages(timeout=0, prefetch=4):
        seen.append(message.body)
        if message.body in (b"1", b"4") and message.delivery_count == 1:
            session.abandon_message(message)
        else:
            session.complete_message(message)
    assert seen == [b"0", b"1", b"1", b"2", b"3", b"4", b"4", b"5"]


def test_what_was_fetched_ahead_goes_back_at_the_closing(azsession_provider: ServiceBusProvider) -> None:
    send(azsession_provider, b"0", b"1", b"2")
    with azsession_provider.create_session_client("orders", "s1") as session:
        session.complete_message(next(session.messages(timeout=5, prefetch=10)))
    with azsession_provider.create_session_client("orders", "s1") as session:
        assert [message.body for message in session.receive_messages(10, timeout=5)] == [b"1", b"2"]


# What version 1 adds


def test_a_deferred_message_is_received_by_its_number(azsession_provider: ServiceBusProvider, session: SessionClient) -> None:
    send(azsession_provider, b"0", b"1")
    first = take(session)
    assert first.sequence_number is not None
    session.defer_message(first)
    assert take(session).body == b"1"
    again = session.receive_deferred_messages([first.sequence_number])
    assert [message.body for message in again] == [b"0"]
    session.complete_message(again[0])
    with pytest.raises(ProviderError) as caught:
        session.receive_deferred_messages([first.sequence_number])
    assert caught.value.code == "MessageNotFound"


@pytest.mark.parametrize("numbers", [[], [0], [1.5], ["1"], [1] * 1001])
def test_wrong_sequence_numbers_are_refused(session: SessionClient, numbers: Any) -> None:
    with pytest.raises(ValidationError):
        session.receive_deferred_messages(numbers)


def test_a_state_is_kept_for_the_next_holder(azsession_provider: ServiceBusProvider) -> None:
    with azsession_provider.create_session_client("orders", "s1") as session:
        assert session.get_session_state() is None
        session.set_session_state(b"\x00step 2")
    with azsession_provider.create_session_client("orders", "s1") as session:
        assert session.get_session_state() == b"\x00step 2"
        session.set_session_state(b"")
        assert session.get_session_state() == b""
        session.set_session_state(None)
        assert session.get_session_state() is None


def test_a_state_is_bytes(session: SessionClient) -> None:
    with pytest.raises(ValidationError, match="bytes"):
        session.set_session_state("text")  # type: ignore[arg-type]


def test_what_is_left_of_a_session_is_dead_lettered(azsession_provider: ServiceBusProvider, session: SessionClient) -> None:
    send(azsession_provider, *(b"%d" % n for n in range(5)))
    message = next(session.messages(timeout=5, prefetch=3))
    assert session.dead_letter_session("poison", "more") == 5
    assert [(one.body, one.dead_letter_reason) for one in azsession_provider.dead_letters("orders")] == [
        (b"%d" % n, "poison") for n in range(5)
    ]
    assert session.receive_message(timeout=0) is None
    with pytest.raises(InvalidReceiptError):
        session.complete_message(message)


def test_the_next_available_session_is_accepted(azsession_provider: ServiceBusProvider) -> None:
    send(azsession_provider, b"0", session_id="a/b é")
    with azsession_provider.create_session_client("orders", accept_timeout=5) as session:
        assert session.session_id == "a/b é"
        assert take(session).body == b"0"
        with pytest.raises(NoSessionAvailableError):
            azsession_provider.create_session_client("orders", accept_timeout=0)


# The way there


def test_proxies_ca_bundle_cookies_and_headers_of_the_session_are_used() -> None:
    used: list[tuple[requests.PreparedRequest, dict[str, Any]]] = []

    class Adapter(HTTPAdapter):
        def send(self, request: requests.PreparedRequest, **settings: Any) -> requests.Response:  # type: ignore[override]
            used.append((request, settings))
            response = requests.Response()
            response.status_code, response._content = 204, b""
            response.request, response.url = request, request.url or ""
            return response

    http = requests.Session()
    http.mount("https://gateway.example/", Adapter())
    http.proxies = {"https": "http://127.0.0.1:3128"}
    http.headers["X-Mine"] = "yes"
    http.cookies.set("route", "a")
    text = "Endpoint=https://gateway.example/;SharedAccessKeyName=n;SharedAccessKey=k"
    config = ServiceBusConfig(connection_string=text, ca_bundle="/some/bundle.pem")
    with http, ServiceBusProvider(config, http=http) as provider:
        session = provider.create_session_client("orders", "s1", auto_renew=False)
        assert session.receive_message(timeout=1) is None
    request, settings = used[0]
    assert request.headers["X-Mine"] == "yes"
    assert request.headers["Cookie"] == "route=a"
    assert settings["proxies"]["https"] == "http://127.0.0.1:3128"
    assert settings["verify"] == "/some/bundle.pem"


def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with PlainServer() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        text = "Endpoint=http://gateway.invalid/;SharedAccessKeyName=n;SharedAccessKey=k"
        with ServiceBusProvider.from_connection_string(text, allow_insecure_http=True) as provider:
            proxy.next(answer(204))
            with provider.create_session_client("orders", "s1", auto_renew=False) as session:
                session.renew_session_lock()
        assert proxy.requests() == ["POST http://gateway.invalid/orders/sessions/s1/renewlock"]


@responses.activate
def test_responses_stands_in_for_a_server() -> None:
    responses.delete(HEAD, status=201, body=b"paid", headers={"BrokerProperties": '{"LockToken": "t"}'})
    responses.delete(f"{URL}/orders/sessions/s1/messages/t", status=200)
    with ServiceBusProvider.from_connection_string(CONNECTION_STRING) as provider:
        session = provider.create_session_client("orders", "s1")
        message = take(session)
        session.complete_message(message)
    assert message.body == b"paid"
    assert len(responses.calls) == 2


@responses.activate
def test_an_answer_that_tells_the_locks_end_goes_before_the_session_timeout() -> None:
    responses.delete(HEAD, status=204, headers={"Azsession-Lock-Expires-In": "20.5"})
    with ServiceBusProvider.from_connection_string(CONNECTION_STRING) as provider:
        session = provider.create_session_client("orders", "s1", session_timeout=300)
        session.receive_message(timeout=0)
        assert session.session_expires_at < datetime.now(timezone.utc) + timedelta(seconds=20.5)


@pytest.mark.parametrize("number", [-1, 2**63, 1.5, True, "0&max=5"])
def test_a_wrong_sequence_number_to_look_from_is_refused_without_a_request(number: Any) -> None:
    with responses.RequestsMock(), ServiceBusProvider.from_connection_string(CONNECTION_STRING) as provider:
        with pytest.raises(ValidationError, match="from_sequence_number"):
            provider.peek_messages("orders", "s1", from_sequence_number=number)
        with pytest.raises(ValidationError, match="from_sequence_number"):
            provider.dead_letters("orders", from_sequence_number=number)


@pytest.mark.parametrize("timeout", [-1, float("nan"), "5", None, True])
def test_a_wrong_timeout_is_refused_without_a_request(timeout: Any) -> None:
    with responses.RequestsMock(), ServiceBusProvider.from_connection_string(CONNECTION_STRING) as provider:
        session = provider.create_session_client("orders", "s1")
        for receive in (session.receive_message, session.messages, lambda timeout: session.receive_messages(2, timeout)):
            with pytest.raises(ValidationError):
                receive(timeout)


def test_a_closed_provider_refuses_every_call(azsession_server: AzsessionServer) -> None:
    provider = azsession_server.provider()
    session = provider.create_session_client("orders", "s1")
    session.receive_message(timeout=0)
    provider.close()
    provider.close()
    assert session.closed
    with pytest.raises(QueueError, match="closed"):
        provider.send_message("orders", Message(b"x", session_id="s"))
    with pytest.raises(QueueError, match="closed"):
        provider.create_session_client("orders", "s1")


def test_a_repr_tells_where_a_session_stands(azsession_provider: ServiceBusProvider) -> None:
    session = azsession_provider.create_session_client("orders", "s1")
    assert repr(session) == "<SessionClient 's1' of 'orders', not locked yet>"
    session.receive_message(timeout=0)
    assert re.fullmatch(r"<SessionClient 's1' of 'orders', locked until \d\d:\d\d:\d\d UTC>", repr(session))
    session.close()
    assert repr(session) == "<SessionClient 's1' of 'orders', closed>"


# Lost answers, in version 1


class CuttingProxy:
    """Passes TCP on to a server, and cuts connections in the place of answers, which the server has given by then."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._server = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()  # Guards what follows.
        self._to_cut = 0
        self._sockets: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []
        self.cut = 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._start(self._accept)

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            sockets, threads = list(self._sockets), list(self._threads)
        for sock in sockets:
            self._shut(sock)
        for thread in threads:
            thread.join(20)
        for sock in self._sockets:
            sock.close()

    def cut_answers(self, count: int) -> None:
        with self._lock:
            self._to_cut = count

    def _start(self, target: Any, *args: Any) -> None:
        thread = threading.Thread(target=target, args=args)
        self._threads.append(thread)
        thread.start()

    @staticmethod
    def _shut(sock: socket.socket) -> None:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._server)
            with self._lock:
                self._sockets += [client, server]
                self._start(self._pass_on, client, server, False)
                self._start(self._pass_on, server, client, True)

    def _pass_on(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        try:
            while data := source.recv(65536):
                with self._lock:
                    cutting = answers and self._to_cut > 0
                    if cutting:
                        self._to_cut -= 1
                        self.cut += 1
                if cutting:
                    break
                target.sendall(data)
        except OSError:
            pass
        self._shut(source)
        self._shut(target)


@pytest.fixture
def cutter(azsession_server: AzsessionServer) -> Iterator[CuttingProxy]:
    with CuttingProxy(azsession_server.url) as proxy:
        yield proxy


@pytest.fixture
def cut_provider(azsession_server: AzsessionServer, cutter: CuttingProxy) -> Iterator[ServiceBusProvider]:
    text = azsession_server.connection_string.replace(azsession_server.url, cutter.url)
    assert cutter.url in text
    with ServiceBusProvider.from_connection_string(text) as provider:
        provider.list_sessions("orders")
        yield provider
        assert cutter.cut > 0


@pytest.mark.parametrize("times", [1, 2])
def test_a_receive_whose_answer_was_lost_gets_the_same_message(
    cut_provider: ServiceBusProvider, cutter: CuttingProxy, times: int
) -> None:
    send(cut_provider, b"0", b"1")
    with cut_provider.create_session_client("orders", "s1") as session:
        cutter.cut_answers(times)
        message = take(session)
        assert (message.body, message.delivery_count) == (b"0", 1)
        session.complete_message(message)
        assert take(session).body == b"1"


def test_a_send_whose_answer_was_lost_is_not_doubled(cut_provider: ServiceBusProvider, cutter: CuttingProxy) -> None:
    cutter.cut_answers(2)
    send(cut_provider, b"0", b"1")
    assert [message.body for message in cut_provider.peek_messages("orders", "s1")] == [b"0", b"1"]


def test_settles_whose_answers_were_lost_succeed(cut_provider: ServiceBusProvider, cutter: CuttingProxy) -> None:
    send(cut_provider, *(b"%d" % n for n in range(6)))
    with cut_provider.create_session_client("orders", "s1") as session:
        complete, dead_letter, defer, *many = session.receive_messages(6, timeout=5)
        for settle in (
            lambda: session.complete_message(complete),
            lambda: session.dead_letter_message(dead_letter, "bad"),
            lambda: session.defer_message(defer),
            lambda: session.complete_messages(many),
        ):
            cutter.cut_answers(1)
            settle()
    assert [message.body for message in cut_provider.dead_letters("orders")] == [b"1"]
    assert [message.body for message in cut_provider.peek_messages("orders", "s1")] == [b"2"]


def test_an_abandon_whose_answer_was_lost_gives_the_message_back_once(
    cut_provider: ServiceBusProvider, cutter: CuttingProxy
) -> None:
    send(cut_provider, b"0")
    with cut_provider.create_session_client("orders", "s1") as session:
        message = take(session)
        cutter.cut_answers(1)
        session.abandon_message(message)
        assert take(session).delivery_count == 2


def test_an_accept_and_a_release_whose_answers_were_lost_take_and_free_one_session(
    cut_provider: ServiceBusProvider, cutter: CuttingProxy
) -> None:
    send(cut_provider, b"0", session_id="a")
    send(cut_provider, b"0", session_id="b")
    cutter.cut_answers(1)
    session = cut_provider.create_session_client("orders", accept_timeout=5)
    locked = [one.session_id for one in cut_provider.list_sessions("orders") if one.locked_until is not None]
    assert locked == [session.session_id]
    cutter.cut_answers(1)
    session.close()
    assert [one.locked_until for one in cut_provider.list_sessions("orders")] == [None, None]


def test_dead_letters_and_queues_whose_removal_was_not_answered_are_gone(
    cut_provider: ServiceBusProvider, cutter: CuttingProxy
) -> None:
    send(cut_provider, b"0", b"1")
    with cut_provider.create_session_client("orders", "s1") as session:
        for message in session.receive_messages(2, timeout=5):
            session.dead_letter_message(message, "bad")
    resubmitted, deleted = (message.sequence_number or 0 for message in cut_provider.dead_letters("orders"))
    for remove in (
        lambda: cut_provider.resubmit("orders", resubmitted),
        lambda: cut_provider.delete_dead_letter("orders", deleted),
    ):
        cutter.cut_answers(1)
        remove()
    assert cut_provider.dead_letters("orders") == []
    assert [message.body for message in cut_provider.peek_messages("orders", "s1")] == [b"0"]
    cutter.cut_answers(1)
    cut_provider.delete_queue("orders")
    assert cut_provider.list_queues() == []


def test_a_session_whose_dead_lettering_was_not_answered_is_told_how_many_it_moved(
    cut_provider: ServiceBusProvider, cutter: CuttingProxy
) -> None:
    send(cut_provider, b"0", b"1", b"2")
    with cut_provider.create_session_client("orders", "s1") as session:
        take(session)
        cutter.cut_answers(1)
        assert session.dead_letter_session("bad") == 3
        send(cut_provider, b"3")
        assert take(session).body == b"3"
        assert session.dead_letter_session("worse") == 1
