"""`send_on_commit`."""

from __future__ import annotations

import logging
import socket
import unittest
from collections.abc import Iterator

import pytest
from django.db import transaction
from django.test import TestCase, override_settings

from azsession import ConfigurationError, ConnectionFailedError, Message, ServiceBusProvider, ValidationError
from azsession.contrib.django import get_provider, send_on_commit
from azsession.testing import AzsessionServer

pytestmark = pytest.mark.usefixtures("server")


class Reader:
    """Reads the messages that were sent."""

    def __init__(self, provider: ServiceBusProvider) -> None:
        self._provider = provider

    def bodies(self, session_id: str = "s") -> list[bytes]:
        return [message.body for message in self._provider.peek_messages("q", session_id, 100)]


@pytest.fixture
def sent(server: AzsessionServer) -> Iterator[Reader]:
    with server.provider() as provider:
        provider.create_queue("q")
        yield Reader(provider)


@pytest.fixture
def nowhere(server: AzsessionServer) -> Iterator[None]:
    """The setting names a port on which nothing listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        place = f"Endpoint=http://127.0.0.1:{sock.getsockname()[1]}/;SharedAccessKeyName=k;SharedAccessKey=c2VjcmV0"
        with override_settings(AZSESSION={"CONNECTION_STRING": place, "RETRY_ATTEMPTS": 0}):
            yield


def message(body: str, session_id: str = "s") -> Message:
    return Message(body, session_id=session_id)


def test_a_message_is_sent_when_the_transaction_is_committed_and_not_before(sent: Reader) -> None:
    with transaction.atomic():
        send_on_commit("q", message("paid"))
        assert sent.bodies() == []
    assert sent.bodies() == [b"paid"]


def test_nothing_is_sent_when_the_transaction_is_rolled_back(sent: Reader) -> None:
    with transaction.atomic():
        send_on_commit("q", message("paid"))
        transaction.set_rollback(True)
    assert sent.bodies() == []
    # The next transaction does not send it either.
    with transaction.atomic():
        send_on_commit("q", message("packed"))
    assert sent.bodies() == [b"packed"]


def test_a_nested_transaction_sends_when_the_outermost_is_committed(sent: Reader) -> None:
    with transaction.atomic():
        with transaction.atomic():
            send_on_commit("q", message("paid"))
        assert sent.bodies() == []
    assert sent.bodies() == [b"paid"]


def test_a_message_of_a_rolled_back_savepoint_is_not_sent_and_the_others_keep_their_order(sent: Reader) -> None:
    with transaction.atomic():
        send_on_commit("q", message("one"))
        with transaction.atomic():
            send_on_commit("q", message("never"))
            transaction.set_rollback(True)
        with transaction.atomic():
            send_on_commit("q", [message("two"), message("three")])
        send_on_commit("q", message("four"))
    assert sent.bodies() == [b"one", b"two", b"three", b"four"]


def test_without_a_transaction_a_message_is_sent_at_once(sent: Reader) -> None:
    send_on_commit("q", message("paid"))
    assert sent.bodies() == [b"paid"]


def test_the_ids_are_known_before_the_commit(sent: Reader, server: AzsessionServer) -> None:
    with transaction.atomic():
        one = send_on_commit("q", message("one"))
        two, three = send_on_commit("q", [message("two"), Message("three", session_id="s", message_id="mine")])
    assert three == "mine"
    assert [each.message_id for each in get_provider().peek_messages("q", "s")] == [one, two, three]


def test_using_names_the_database_of_the_transaction(sent: Reader) -> None:
    with transaction.atomic(using="other"):
        send_on_commit("q", message("other"), using="other")
        send_on_commit("q", message("default"))
        assert sent.bodies() == [b"default"]
    assert sent.bodies() == [b"default", b"other"]


def test_an_empty_list_sends_nothing(sent: Reader) -> None:
    assert send_on_commit("q", []) == []


@pytest.mark.parametrize("wrong", [Message("x"), "x", [Message("x", session_id="s"), None]])
def test_a_wrong_message_is_refused_before_the_commit(wrong: object) -> None:
    with transaction.atomic(), pytest.raises(ValidationError):
        send_on_commit("q", wrong)  # type: ignore[call-overload]


def test_a_wrong_setting_is_an_error_before_the_commit() -> None:
    with override_settings(AZSESSION={"QUEUE": "q"}), transaction.atomic(), pytest.raises(ConfigurationError, match="QUEUE"):
        send_on_commit("q", message("x"))


@pytest.mark.usefixtures("nowhere")
def test_a_failure_after_the_commit_is_logged_and_raised_and_ends_later_functions(
    caplog: pytest.LogCaptureFixture,
) -> None:
    followed: list[str] = []

    def place() -> None:
        with transaction.atomic():
            transaction.on_commit(lambda: followed.append("before"))
            send_on_commit("q", Message("secret", session_id="s", message_id="m-1"))
            transaction.on_commit(lambda: followed.append("after"))

    with pytest.raises(ConnectionFailedError):
        place()
    assert followed == ["before"]
    [record] = [each for each in caplog.records if each.name.startswith("azsession.contrib")]
    assert record.levelno == logging.ERROR
    assert "m-1" in record.getMessage()
    assert "secret" not in caplog.text


@pytest.mark.usefixtures("nowhere")
def test_a_failure_with_robust_is_only_logged_and_later_functions_run(caplog: pytest.LogCaptureFixture) -> None:
    followed: list[str] = []
    with transaction.atomic():
        send_on_commit("q", message("paid"), robust=True)
        transaction.on_commit(lambda: followed.append("after"))
    assert followed == ["after"]
    assert {each.name for each in caplog.records if each.levelno >= logging.ERROR} == {
        "azsession.contrib.django.sending",
        "django.db.backends.base",
    }


def test_a_test_case_of_django_can_capture_the_messages(sent: Reader) -> None:
    class Case(TestCase):
        def runTest(self) -> None:
            send_on_commit("q", message("one"))
            with self.captureOnCommitCallbacks(execute=True) as callbacks:
                send_on_commit("q", message("two"))
            assert len(callbacks) == 1

    result = unittest.TestResult()
    unittest.TestSuite([Case()]).run(result)
    assert result.wasSuccessful(), (result.failures, result.errors)
    assert sent.bodies() == [b"two"]
