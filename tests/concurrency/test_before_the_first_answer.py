"""A provider that was ended before the server showed its dialect leaves no lock behind."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from azsession import ServiceBusProvider, SessionNotFoundError, SessionProcessor
from azsession.broker.embedded import EmbeddedBroker
from azsession.testing import AzsessionServer

from ..conftest import eventually
from ..interrupts.conftest import alarm
from ..support.internals import pending_calls
from ..support.processes import PATIENCE, start


@pytest.fixture
def other(azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider) -> ServiceBusProvider:
    """A second provider, which knows the server and looks whether the session is free."""
    azsession_server.create_queue("q")
    azsession_provider.list_sessions("q")
    return azsession_provider


def is_locked(server: AzsessionServer) -> bool:
    """Return whether a session is locked, without a request that waits for it."""
    broker = server._service.broker
    assert isinstance(broker, EmbeddedBroker)
    return any(True for _ in broker._core.locks)


def check_that_the_session_is_free(provider: ServiceBusProvider) -> None:
    with provider.create_session_client("q", "s") as session:
        session.receive_message(timeout=0)


@pytest.mark.parametrize("closed_by", ["client", "provider"])
def test_closing_during_the_first_receive_releases_the_lock(
    azsession_server: AzsessionServer, other: ServiceBusProvider, closed_by: str
) -> None:
    with azsession_server.provider() as provider:
        session = provider.create_session_client("q", "s")
        errors: list[BaseException] = []

        def receive() -> None:
            try:
                session.receive_message(timeout=60)
            except SessionNotFoundError as error:
                errors.append(error)

        thread = threading.Thread(target=receive)
        thread.start()
        eventually(lambda: any(call.in_flight and call.in_flight.written for call in pending_calls(session)))
        (session if closed_by == "client" else provider).close()
        thread.join(20)
        assert [type(error) for error in errors] == [SessionNotFoundError]
        check_that_the_session_is_free(other)


def test_an_interrupt_of_the_first_receive_and_closing_release_the_lock(
    azsession_server: AzsessionServer, other: ServiceBusProvider
) -> None:
    class InterruptError(Exception):
        pass

    def handler(*_: object) -> None:
        raise InterruptError

    with azsession_server.provider() as provider:
        with pytest.raises(InterruptError), provider.create_session_client("q", "s") as session, alarm(0.3, handler):
            session.receive_message(timeout=60)
        check_that_the_session_is_free(other)


def test_an_idle_processor_that_is_stopped_releases_its_sessions(
    azsession_server: AzsessionServer, other: ServiceBusProvider
) -> None:
    with azsession_server.provider() as provider:
        processor = SessionProcessor(provider, "q", lambda session, message: None, session_ids=["s"])
        with processor:
            eventually(lambda: is_locked(azsession_server))
        check_that_the_session_is_free(other)


@pytest.mark.parametrize(
    ("command", "number"),
    [
        (["consume", "q", "tests.cli.consume_handlers:refuse", "--session-id", "s"], signal.SIGTERM),
        (["receive", "q", "s", "--timeout", "60"], signal.SIGINT),
        (["receive", "q", "s", "--timeout", "60"], signal.SIGTERM),
    ],
)
def test_a_command_that_is_ended_releases_its_session(
    azsession_server: AzsessionServer, other: ServiceBusProvider, command: list[str], number: int, tmp_path: Path
) -> None:
    env = {"REPORT": str(tmp_path / "report")}
    process = start(*command, connection_string=azsession_server.connection_string, env=env)
    try:
        eventually(lambda: is_locked(azsession_server), seconds=60)
        process.send_signal(number)
        process.communicate(timeout=PATIENCE)
        check_that_the_session_is_free(other)
    finally:
        process.kill()
        process.communicate()
