"""Attempts to reach a namespace that is away: few, and shared by all sessions and queues of the process."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from azsession import Message
from azsession.broker.azure import AzureBroker
from azsession.broker.calls import ReceiveRequest, wait_for
from azsession.config import ServiceBusConfig

from ....conftest import eventually
from ....namespaces import Namespace


class Relay:
    """A relay to the stand-in that can be away. It counts the connections that it gets."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._open: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        self.is_away = False
        self.attempts = 0
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.attempts += 1
            if self.is_away:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self._port))
            self._open += [client, server]
            for source, target in ((client, server), (server, client)):
                self._threads.append(threading.Thread(target=self._copy, args=(source, target), daemon=True))
                self._threads[-1].start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        self._end(source, target)

    def _end(self, *sockets: socket.socket) -> None:
        for one in sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def go_away(self) -> None:
        """End all connections, and refuse new ones."""
        self.is_away = True
        self._end(*self._open)

    def close(self) -> None:
        self._end(self._listener, *self._open)
        self._listener.close()
        for thread in self._threads:
            thread.join()
        for one in self._open:
            one.close()


@pytest.fixture
def relay(namespace: Namespace) -> Iterator[Relay]:
    relay = Relay(namespace.port)
    yield relay
    relay.close()


def test_sessions_share_few_attempts_while_the_namespace_is_away_and_go_on_when_it_is_back(
    namespace: Namespace, relay: Relay
) -> None:
    queues = [f"q{number}" for number in range(4)]
    for queue in queues:
        namespace.create_queue(queue)
    string = namespace.connection_string.replace(f":{namespace.port}", f":{relay.port}")
    broker = AzureBroker(ServiceBusConfig(connection_string=string))
    try:
        holders = [(queue, f"s{number}", f"h{number}") for queue in queues for number in range(10)]
        for queue, session_id, lock_id in holders:
            broker.send(queue, [Message(session_id, session_id=session_id)]).result()
            wait_for(broker.receive(ReceiveRequest(queue, session_id, lock_id, max_count=1, timeout=5.0)))
        before = relay.attempts
        relay.go_away()
        eventually(lambda: relay.attempts > before)
        time.sleep(4.0)
        # A pause of up to 0.4 s, then up to 0.8 s, and so on: at least half of each.
        assert relay.attempts - before <= 6
        relay.is_away = False
        eventually(
            lambda: all(f"s{number}" in namespace.locked_sessions(queue) for queue in queues for number in range(10)),
            seconds=30.0,
        )
        for queue, session_id, lock_id in holders:
            broker.renew(queue, session_id, lock_id).result(10)
    finally:
        broker.close()
