"""The pytest plugin in a user's test files, and the server that its fixtures provide."""

from __future__ import annotations

import socket
import threading
from urllib.parse import urlsplit

import pytest
from azure.servicebus import ServiceBusClient

from azsession import Message, ServiceBusProvider, SessionNotFoundError
from azsession.broker.embedded import EmbeddedBroker
from azsession.server import AccessKey, GatewayService
from azsession.testing import AzsessionServer

from .conftest import eventually
from .support.sdk import receive, session, sockets_closed, wait_for_closings

USERS_TESTS = """
import pytest
from azsession import Message, QueueNotFoundError, ServiceBusProvider

urls = set()

def ship(provider):
    with provider.create_session_client("orders", accept_timeout=5) as session:
        for message in session.messages(timeout=0):
            session.complete_message(message)
            yield message.text()

def test_an_order_is_shipped(azsession_provider):
    azsession_provider.send_messages("orders", [Message(word, session_id="1") for word in ("paid", "packed")])
    assert list(ship(azsession_provider)) == ["paid", "packed"]

@pytest.mark.parametrize("number", range(3))
def test_every_test_has_an_empty_server(azsession_server, azsession_provider, number):
    azsession_provider.send_message("orders", Message("one", session_id="1"))
    assert azsession_provider.get_queue("orders").active_count == 1
    assert list(ship(azsession_provider)) == ["one"]

def test_a_queue_has_its_settings(azsession_server, azsession_provider):
    assert azsession_server.create_queue("fast", lock_duration=1, max_delivery_count=2) == "fast"
    settings = azsession_provider.get_queue("fast").settings
    assert (settings.lock_duration, settings.max_delivery_count) == (1, 2)

def test_the_code_under_test_connects_by_itself(azsession_server, monkeypatch):
    monkeypatch.setenv("SERVICEBUS_CONNECTION_STRING", azsession_server.connection_string)
    with ServiceBusProvider.from_env() as provider:
        provider.send_message("orders", Message("one", session_id="1"))
    with azsession_server.provider(retry_attempts=0) as provider:
        assert provider.config.retry_attempts == 0
        assert list(ship(provider)) == ["one"]
"""


def test_users_can_use_the_fixtures_without_setup(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(USERS_TESTS)
    result = pytester.runpytest_subprocess("-W", "error", "-p", "no:cacheprovider", timeout=100)
    result.assert_outcomes(passed=6)
    assert result.ret == 0


def test_a_failing_test_of_a_user_ends_while_a_receive_waits(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import threading

        def test_it(azsession_provider):
            session = azsession_provider.create_session_client("orders", "1")
            waiting = threading.Thread(target=session.receive_message, args=(60,), daemon=True)
            waiting.start()
            assert session.receive_message(0) is not None, "nothing came"
        """
    )
    # The waiting receive raises an exception when the server stops, and nothing catches it.
    result = pytester.runpytest_subprocess("-W", "ignore", "-p", "no:cacheprovider", timeout=100)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*nothing came*"])


def test_pytest_lists_the_fixtures_with_descriptions(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("")
    shown = pytester.runpytest_subprocess("--fixtures", "-p", "no:cacheprovider", timeout=100).stdout
    shown.fnmatch_lines(["azsession_server*", "*real socket*"])
    shown.fnmatch_lines(["azsession_provider*", "*azsession_server*"])


def test_the_repr_of_the_server_shows_its_url_and_not_its_key(azsession_server: AzsessionServer) -> None:
    key = azsession_server.connection_string.partition("SharedAccessKey=")[2]
    assert repr(azsession_server) == f"<AzsessionServer at {azsession_server.url}>"
    assert len(key) > 20
    assert key not in repr(azsession_server)
    assert urlsplit(azsession_server.url).hostname == "127.0.0.1"


def test_a_server_has_one_thread_of_its_own() -> None:
    before = set(threading.enumerate())
    with GatewayService(EmbeddedBroker(auto_create=True), [AccessKey.generate()], amqp_port=0) as service:
        with AzsessionServer(service).provider() as provider:
            provider.list_queues()
        new = {thread.name for thread in set(threading.enumerate()) - before}
    assert new == {"azsession-server", "azsession-broker"}


def test_the_server_stops_after_its_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from pathlib import Path

        def test_it(azsession_server, azsession_provider):
            azsession_provider.list_queues()
            Path("url").write_text(azsession_server.url)
        """
    )
    before = set(threading.enumerate())
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:randomly")
    result.assert_outcomes(passed=1)
    eventually(lambda: set(threading.enumerate()) <= before)
    where = urlsplit((pytester.path / "url").read_text())
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((where.hostname, where.port), timeout=5)


def test_the_server_responds_while_many_receives_wait(azsession_server: AzsessionServer) -> None:
    got: list[str] = []
    with azsession_server.provider(pool_connections=80) as provider:

        def receive(session_id: str) -> None:
            with provider.create_session_client("q", session_id) as session:
                message = session.receive_message(60)
                got.append(session_id if message is None else message.text())

        ids = [f"s{number}" for number in range(60)]
        threads = [threading.Thread(target=receive, args=(session_id,)) for session_id in ids]
        for thread in threads:
            thread.start()
        provider.send_messages("q", [Message(f"to {session_id}", session_id=session_id) for session_id in ids[:59]])
        eventually(lambda: len(got) == 59)
        provider.send_message("q", Message("to s59", session_id="s59"))
        for thread in threads:
            thread.join()
    assert sorted(got) == sorted(f"to {session_id}" for session_id in ids)


def test_a_queue_can_have_a_short_lock_duration(azsession_server: AzsessionServer) -> None:
    azsession_server.create_queue("short", lock_duration=3)
    lost = threading.Event()
    with azsession_server.provider() as provider:
        provider.send_message("short", Message("one", session_id="s"))
        with provider.create_session_client("short", "s", auto_renew=False, on_lock_lost=lambda *_: lost.set()) as session:
            message = session.receive_message()
            assert message is not None
            assert lost.wait(30)
            with pytest.raises(SessionNotFoundError):
                session.complete_message(message)


def test_the_sdk_of_azure_uses_the_same_queues(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    azsession_provider.send_message("q", Message("over HTTP", session_id="s"))
    text = azsession_server.amqp_connection_string
    with sockets_closed(), ServiceBusClient.from_connection_string(text, retry_total=0, keep_alive=None) as client:
        with session(client, "q") as receiver:
            assert [str(one) for one in receive(receiver, 1)] == ["over HTTP"]
        wait_for_closings()
