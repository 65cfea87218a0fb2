"""Requests that the gateway has served, but whose answers are lost on the way. Protocol version 1 repeats them safely."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from azsession import ServiceBusProvider
from azsession.testing import AzsessionServer

from .orders import send, take


class CuttingProxy:
    """Passes TCP on to a server. It cuts a connection when the server answers, so that the answer is lost."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._server = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()  # Guards the fields below.
        self._to_cut = self._to_pass = 0
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

    def cut_answers(self, count: int, *, after: int = 0) -> None:
        """Cut the next `count` answers, after `after` parts of up to 64 KB were passed on."""
        with self._lock:
            self._to_cut, self._to_pass = count, after

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
                    cutting = answers and self._to_cut > 0 and self._to_pass == 0
                    if answers and self._to_pass:
                        self._to_pass -= 1
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


def test_messages_whose_send_was_not_answered_are_stored_once(cut_provider: ServiceBusProvider, cutter: CuttingProxy) -> None:
    cutter.cut_answers(2)
    send(cut_provider, b"0", b"1")
    assert [message.body for message in cut_provider.peek_messages("orders", "s1")] == [b"0", b"1"]


def test_settlements_whose_answers_were_lost_succeed(cut_provider: ServiceBusProvider, cutter: CuttingProxy) -> None:
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


def test_removing_dead_letters_and_queues_succeeds_although_answers_were_lost(
    cut_provider: ServiceBusProvider, cutter: CuttingProxy
) -> None:
    send(cut_provider, b"0", b"1")
    with cut_provider.create_session_client("orders", "s1") as session:
        for message in session.receive_messages(2, timeout=5):
            session.dead_letter_message(message, "bad")
    resubmitted, deleted = (message.sequence_number for message in cut_provider.dead_letters("orders"))
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


def test_dead_lettering_a_session_returns_the_count_although_the_answer_was_lost(
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
