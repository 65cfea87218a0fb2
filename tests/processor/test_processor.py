"""Start and stop of a processor: signals, handlers that exit the program, forks, and an unreachable broker."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from typing import Any

import pytest

from azsession import (
    ConfigurationError,
    ConnectionFailedError,
    ReceivedMessage,
    ServiceBusProvider,
    SessionClient,
    SessionProcessor,
)
from azsession.client.provider import core_of
from azsession.processor import slots
from azsession.testing import AzsessionServer

from ..concurrency.servers import Relay, hang_up, pump
from ..conftest import eventually
from ..support.ports import free_port
from ..support.processes import Served
from .helpers import QUEUE, Gate, Seen, left, locked, send


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("azsession-processor")]


def test_stop_lets_the_running_handler_finish_and_returns_the_other_messages(azsession_provider: ServiceBusProvider) -> None:
    provider, gate = azsession_provider, Gate()
    send(provider, "a", ["1", "2", "3"])
    seen = Seen(gate)
    processor = SessionProcessor(provider, QUEUE, seen)
    processor.start()
    assert gate.reached.wait(30)
    ended: list[bool] = []
    stopper = threading.Thread(target=lambda: ended.append(processor.stop()))
    stopper.start()
    eventually(lambda: "stopping" in repr(processor))
    gate.opened.set()
    stopper.join(30)
    assert ended == [True]
    assert (seen.by_session["a"], left(provider), locked(provider)) == (["1"], 2, [])
    assert threads() == []
    assert processor.stats.messages_done == 1
    with provider.create_session_client(QUEUE, "a") as session:
        assert [message.text() for message in session.messages(timeout=0)] == ["2", "3"]


def test_an_idle_processor_stops_at_once_and_leaves_no_session_locked(azsession_provider: ServiceBusProvider) -> None:
    send(azsession_provider, "elsewhere", ["1"], "other")
    for _ in range(3):
        processor = SessionProcessor(azsession_provider, QUEUE, Seen(), max_concurrent_sessions=16)
        processor.start()
        eventually(lambda: len(threads()) == 16)
        began = time.monotonic()
        # A message sent during the stop is either handled or stays in an unlocked session.
        send(azsession_provider, "late", ["1"])
        assert processor.stop()
        # A request waits up to 30 s for a session.
        assert time.monotonic() - began < 25
        assert locked(azsession_provider) == []
    assert threads() == []


def test_a_handler_that_outlasts_the_grace_period_loses_its_session(azsession_provider: ServiceBusProvider) -> None:
    provider, gate = azsession_provider, Gate()
    errors: list[str] = []
    send(provider, "a", ["1", "2"])
    processor = SessionProcessor(
        provider, QUEUE, gate, grace_period=0.1, on_error=lambda error, *_: errors.append(str(error))
    )
    processor.start()
    assert gate.reached.wait(30)
    assert processor.stop() is False
    assert (left(provider), locked(provider)) == (2, [])
    gate.opened.set()
    eventually(lambda: not threads())
    assert errors == ["the session 'a' of 'orders' is closed"]
    assert left(provider) == 2


def test_a_processor_can_be_restarted_but_not_started_twice(azsession_provider: ServiceBusProvider) -> None:
    seen = Seen()
    processor = SessionProcessor(azsession_provider, QUEUE, seen)
    for number in (1, 2):
        with processor:
            with pytest.raises(ConfigurationError, match="already running"):
                processor.start()
            send(azsession_provider, "a", ["x"])
            eventually(lambda number=number: seen.count == number)  # type: ignore[misc]
        assert processor.stop()


def test_a_handler_can_stop_the_processor(azsession_provider: ServiceBusProvider) -> None:
    send(azsession_provider, "a", ["1", "2"])
    processor: SessionProcessor
    seen = Seen(lambda message, session: processor.stop())
    processor = SessionProcessor(azsession_provider, QUEUE, seen)
    processor.run()
    assert seen.by_session["a"] == ["1"]
    assert left(azsession_provider) == 1


@pytest.mark.parametrize("leaving", [KeyboardInterrupt, SystemExit])
def test_run_raises_keyboard_interrupt_and_system_exit_of_a_handler(
    azsession_provider: ServiceBusProvider, leaving: type[BaseException]
) -> None:
    def handler(message: ReceivedMessage, session: SessionClient) -> None:
        raise leaving("enough")

    send(azsession_provider, "a", ["1"])
    processor = SessionProcessor(azsession_provider, QUEUE, handler, on_error=lambda *_: None)
    with pytest.raises(leaving, match="enough"):
        processor.run()
    assert (left(azsession_provider), locked(azsession_provider), threads()) == (1, [], [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_processor_and_run_returns(azsession_provider: ServiceBusProvider, number: int) -> None:
    send(azsession_provider, "a", ["1", "2"])
    before = signal.getsignal(number)

    def handler(message: ReceivedMessage, session: SessionClient) -> None:
        os.kill(os.getpid(), number)
        eventually(lambda: "stopping" in repr(processor))

    seen = Seen(handler)
    processor = SessionProcessor(azsession_provider, QUEUE, seen)
    processor.run()
    assert signal.getsignal(number) is before
    assert seen.by_session["a"] == ["1"]
    assert (left(azsession_provider), locked(azsession_provider), threads()) == (1, [], [])


def test_a_second_signal_ends_the_grace_period(azsession_provider: ServiceBusProvider) -> None:
    gate = Gate()
    send(azsession_provider, "a", ["1"])

    def handler(message: ReceivedMessage, session: SessionClient) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        eventually(lambda: "stopping" in repr(processor))
        os.kill(os.getpid(), signal.SIGTERM)
        gate()

    processor = SessionProcessor(azsession_provider, QUEUE, handler, on_error=lambda *_: None)
    began = time.monotonic()
    processor.run()
    assert time.monotonic() - began < 20
    assert processor.stats.sessions_open == 1
    assert (left(azsession_provider), locked(azsession_provider)) == (1, [])
    gate.opened.set()


def test_run_outside_the_main_thread_sets_no_signal_handlers(azsession_provider: ServiceBusProvider) -> None:
    before = signal.getsignal(signal.SIGTERM)
    processor = SessionProcessor(azsession_provider, QUEUE, Seen())
    runner = threading.Thread(target=processor.run)
    runner.start()
    eventually(lambda: "running" in repr(processor))
    assert signal.getsignal(signal.SIGTERM) is before
    processor.stop()
    runner.join(30)
    assert not runner.is_alive()


def test_closing_the_provider_stops_the_processor(azsession_server: AzsessionServer) -> None:
    provider = azsession_server.provider()
    processor = SessionProcessor(provider, QUEUE, Seen())
    processor.start()
    eventually(lambda: len(core_of(provider)._waits) == 1)
    provider.close()
    eventually(lambda: "stopping" in repr(processor))
    with pytest.raises(ConfigurationError, match="closed"):
        processor.stop()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_processor_does_not_run_in_a_forked_child_but_can_be_started_there(azsession_provider: ServiceBusProvider) -> None:
    seen = Seen()
    with SessionProcessor(azsession_provider, QUEUE, seen) as processor:
        send(azsession_provider, "a", ["1"])
        eventually(lambda: processor.stats.messages_done == 1)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                fine = processor.stop() and processor.stats.messages_done == 0 and "stopped" in repr(processor)
                with processor:
                    send(azsession_provider, "b", ["2"])
                    eventually(lambda: "stopped" not in repr(processor))
                status = 0 if fine else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        send(azsession_provider, "a", ["3"])
        eventually(lambda: ("a", "3") in seen.order)
        eventually(lambda: left(azsession_provider) == 0)


def test_the_processor_continues_when_the_broker_is_reachable_again(
    azsession_server: AzsessionServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "LONGEST_OUTAGE_PAUSE", 0.2)
    errors: list[BaseException] = []

    def on_error(error: BaseException, session: Any, message: Any) -> None:
        assert (session, message) == (None, None)
        errors.append(error)

    with Relay(int(azsession_server.url.rpartition(":")[2])) as relay, azsession_server.provider() as direct:
        key = azsession_server.connection_string.partition(";")[2]
        with ServiceBusProvider.from_connection_string(f"Endpoint={relay.url}/;{key}", retry_attempts=0) as provider:
            seen = Seen()
            with SessionProcessor(provider, QUEUE, seen, on_error=on_error) as processor:
                send(direct, "a", ["1"])
                eventually(lambda: seen.count == 1 and processor.stats.sessions_done == 1)
                for number in (2, 3):
                    relay.refuse()
                    eventually(lambda number=number: len(errors) == number - 1)  # type: ignore[misc]
                    send(direct, "a", [str(number)])
                    relay.listen()
                    # Wait for the release as well. A lock that could not be released would outlast the test.
                    eventually(lambda number=number: processor.stats.sessions_done == number)  # type: ignore[misc]
            assert seen.by_session["a"] == ["1", "2", "3"]
    assert [type(error) for error in errors] == [ConnectionFailedError, ConnectionFailedError]


def test_a_processor_is_ready_while_the_broker_answers(
    azsession_server: AzsessionServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "LONGEST_OUTAGE_PAUSE", 0.2)
    # Without messages: the answer to the first request comes soon, also on an empty queue.
    azsession_server.create_queue(QUEUE)
    with Relay(int(azsession_server.url.rpartition(":")[2])) as relay:
        relay.refuse()
        key = azsession_server.connection_string.partition(";")[2]
        with ServiceBusProvider.from_connection_string(f"Endpoint={relay.url}/;{key}", retry_attempts=0) as provider:
            failed = threading.Event()
            processor = SessionProcessor(provider, QUEUE, Seen(), on_error=lambda *_: failed.set())
            assert not processor.is_ready
            with processor:
                assert failed.wait(30)
                assert not processor.is_ready
                relay.listen()
                eventually(lambda: processor.is_ready)
                relay.refuse()
                eventually(lambda: not processor.is_ready)
                relay.listen()
                eventually(lambda: processor.is_ready)
            assert not processor.is_ready


def test_the_processor_stops_while_the_broker_is_unreachable(azsession_server: AzsessionServer) -> None:
    with Relay(int(azsession_server.url.rpartition(":")[2])) as relay:
        key = azsession_server.connection_string.partition(";")[2]
        with ServiceBusProvider.from_connection_string(f"Endpoint={relay.url}/;{key}", retry_attempts=0) as provider:
            failed = threading.Event()
            processor = SessionProcessor(provider, QUEUE, Seen(), on_error=lambda *_: failed.set())
            processor.start()
            eventually(lambda: relay.accepted > 0)
            relay.refuse()
            assert failed.wait(30)
            began = time.monotonic()
            assert processor.stop()
            assert time.monotonic() - began < 10


def test_the_processor_continues_after_the_server_restarts_with_the_same_file(tmp_path: Any) -> None:
    data = tmp_path / "data.db"
    gate = Gate()
    errors: list[BaseException] = []
    port = str(free_port())
    with Served("--data", data, "--queue", QUEUE, "--port", port) as first:
        string = first.line
        with ServiceBusProvider.from_connection_string(string) as provider:
            send(provider, "a", ["1", "2", "3"])
            seen = Seen(lambda message, session: gate() if message.text() == "2" else None)
            with SessionProcessor(provider, QUEUE, seen, on_error=lambda error, *_: errors.append(error)) as processor:
                assert gate.reached.wait(30)
                first.end()
                with Served("--data", data, "--port", port):
                    gate.opened.set()
                    eventually(lambda: processor.stats.messages_done == 3, seconds=60)
                    assert left(provider) == 0
                    # The restart ended the lock, so the unsettled message was redelivered, before the later one.
                    assert seen.by_session["a"] == ["1", "2", "2", "3"]
                    processor.stop()
    assert errors


def test_a_processor_can_be_stopped_while_it_starts(azsession_provider: ServiceBusProvider) -> None:
    for _ in range(20):
        processor = SessionProcessor(azsession_provider, QUEUE, Seen(), max_concurrent_sessions=8)
        starter = threading.Thread(target=processor.start)
        starter.start()
        eventually(lambda processor=processor: "stopped" not in repr(processor))  # type: ignore[misc]
        assert processor.stop()
        starter.join()
        assert threads() == []


class _MuteRelay(Relay):
    """Forwards requests. While `mute` is true, it drops the responses."""

    mute = False

    def serve(self, sock: socket.socket) -> None:
        other = socket.create_connection(("127.0.0.1", self._target))
        self._keep(other)
        self._spawn(self._answer, other, sock)
        pump(sock, other)

    def _answer(self, other: socket.socket, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := other.recv(65536):
                if not self.mute:
                    sock.sendall(data)
        hang_up(other)


def test_a_session_granted_during_the_stop_is_released(azsession_server: AzsessionServer) -> None:
    with _MuteRelay(int(azsession_server.url.rpartition(":")[2])) as relay, azsession_server.provider() as direct:
        key = azsession_server.connection_string.partition(";")[2]
        with ServiceBusProvider.from_connection_string(f"Endpoint={relay.url}/;{key}") as provider:
            send(provider, "other", ["1"], "other")
            send(direct, "a", ["1"])
            relay.mute = True
            processor = SessionProcessor(provider, QUEUE, Seen(), max_concurrent_sessions=1)
            processor.start()
            eventually(lambda: locked(direct) == ["a"])
            relay.mute = False
            assert processor.stop()
            assert (left(direct), locked(direct)) == (1, [])
