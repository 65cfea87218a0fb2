"""Requests to ``$management`` that the official SDK for Python does not make, and malformed ones."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from azsession import Message, ServiceBusProvider, amqp
from azsession.amqp import Long, Response, Timestamp
from azsession.server import GatewayService

from .conftest import ROOT, SENDER
from .raw import RawClient, transfer

_numbers = itertools.count()


class Manager:
    """Links to ``$management`` of an entity, on a connection that holds the session ``s``."""

    def __init__(self, raw: RawClient, path: str) -> None:
        self._raw = raw
        raw.send(
            amqp.attach_receiver(0, name="m-in", handle=50, address=f"{path}/$management"),
            amqp.attach_sender(0, name="m-out", handle=51, address=f"{path}/$management"),
        )
        assert raw.expect(amqp.ATTACH).has_source
        assert raw.expect(amqp.ATTACH).has_target
        raw.credit(50, 100)

    def ask(self, operation: str, body: Any, **properties: Any) -> Response:
        """Send a request, with further properties; return the response."""
        number = next(_numbers)
        properties["operation"] = f"com.microsoft:{operation}"
        request = amqp.encode_request(str(number), "receiver-link-m-in", properties, body)
        self._raw.send(transfer(51, number, request))
        response = amqp.decode_response(self._raw.expect(amqp.TRANSFER).payload)
        assert response.correlation_id == str(number)
        return response


@pytest.fixture
def manager(service: GatewayService, queue: str) -> Iterator[Manager]:
    """A manager of a queue that only one test uses."""
    with RawClient(service) as raw:
        raw.open(ROOT).attach_receiver(queue)
        yield Manager(raw, queue)


def test_a_link_that_got_a_session_when_the_lock_of_another_link_expired_keeps_it(
    service: GatewayService, new_queue: Callable[..., str], provider: ServiceBusProvider
) -> None:
    queue = new_queue(lock_duration=1)
    put(provider, queue, 1)
    with RawClient(service) as raw:
        manager = Manager(raw.open(ROOT), queue)
        raw.attach_receiver(queue)
        assert raw.attach_receiver(queue, None, handle=3).session_id == "s"
        # The broker has given the session away. Now the former link learns of it.
        detach = raw.expect(amqp.DETACH)
        assert (detach.handle, detach.error.condition) == (2, "com.microsoft:session-lock-lost")
        assert manager.ask("renew-session-lock", {"session-id": "s"}).status == 200
        # The client of the former link may still send requests about the session, which it has lost.
        state = {"session-id": "s", "session-state": b"former"}
        former = manager.ask("set-session-state", state, **{"associated-link-name": "r-2"})
        assert (former.status, former.condition) == (410, "com.microsoft:session-lock-lost")
        assert manager.ask("get-session-state", state, **{"associated-link-name": "r-3"}).body == {"session-state": None}
        # Anybody may look at the messages.
        peek = {"session-id": "s", "from-sequence-number": 0, "message-count": 1}
        assert manager.ask("peek-message", peek, **{"associated-link-name": "r-2"}).status == 200


def now_ms(seconds: float = 0.0) -> Timestamp:
    return Timestamp(int((time.time() + seconds) * 1000))


def put(provider: ServiceBusProvider, queue: str, count: int) -> None:
    provider.send_messages(queue, [Message(str(number), session_id="s") for number in range(count)])


def test_old_messages_of_a_session_are_deleted(manager: Manager, provider: ServiceBusProvider, queue: str) -> None:
    put(provider, queue, 5)
    asked = {"session-id": "s", "message-count": 3, "enqueued-time-utc": now_ms(-60)}
    assert manager.ask("batch-delete-messages", asked).body == {"message-count": 0}
    asked["enqueued-time-utc"] = now_ms(60)
    assert manager.ask("batch-delete-messages", asked).body == {"message-count": 3}
    # The other messages have not been delivered.
    assert [(one.text(), one.delivery_count) for one in provider.peek_messages(queue, "s")] == [("3", 0), ("4", 0)]
    assert manager.ask("batch-delete-messages", {**asked, "session-id": "other"}).status == 410


def test_dead_letters_are_deleted_in_batches(service: GatewayService, provider: ServiceBusProvider, queue: str) -> None:
    put(provider, queue, 3)
    with provider.create_session_client(queue, "s") as session:
        session.dead_letter_session("bad")
    with RawClient(service) as raw:
        manager = Manager(raw.open(ROOT), f"{queue}/$deadletterqueue")
        asked = {"message-count": 2, "enqueued-time-utc": now_ms(60)}
        assert manager.ask("batch-delete-messages", asked).body == {"message-count": 2}
    assert [one.text() for one in provider.dead_letters(queue)] == ["2"]


def test_all_sessions_are_peeked_without_a_session_id(manager: Manager, provider: ServiceBusProvider, queue: str) -> None:
    provider.send_messages(queue, [Message("1", session_id="a"), Message("2", session_id="b")])
    response = manager.ask("peek-message", {"from-sequence-number": Long(0), "message-count": 10})
    payloads = [amqp.decode_message(each["message"]) for each in response.body["messages"]]
    assert [(one.group_id, one.data) for one in payloads] == [("a", b"1"), ("b", b"2")]


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("peek-message", {"message-count": "many"}),
        ("peek-message", {"message-count": -1}),
        ("peek-message", {"message-count": 1, "session-id": 5}),
        ("update-disposition", {"session-id": "s"}),
        ("update-disposition", {"session-id": "s", "disposition-status": "lost", "lock-tokens": [uuid.uuid4()]}),
        ("update-disposition", {"session-id": "s", "disposition-status": "completed", "lock-tokens": ["x"]}),
        ("receive-by-sequence-number", {"session-id": "s", "sequence-numbers": "1"}),
        ("receive-by-sequence-number", {"session-id": "s"}),
        ("schedule-message", {"messages": [{}]}),
        ("schedule-message", {}),
        ("cancel-scheduled-message", {"sequence-numbers": [True]}),
        ("set-session-state", {"session-id": "s", "session-state": "text"}),
        ("get-message-sessions", {"skip": 0}),
        ("batch-delete-messages", {"session-id": "s", "message-count": 1}),
        ("renew-lock", {}),
    ],
)
def test_malformed_requests_are_answered_with_400(manager: Manager, operation: str, body: Any) -> None:
    response = manager.ask(operation, body)
    assert (response.status, response.condition) == (400, "com.microsoft:argument-error")


@pytest.mark.parametrize(
    ("operation", "body", "status", "condition"),
    [
        ("renew-session-lock", {"session-id": "other"}, 410, "com.microsoft:session-lock-lost"),
        ("renew-session-lock", {"session-id": 5}, 410, "com.microsoft:session-lock-lost"),
        ("renew-session-lock", "text", 410, "com.microsoft:session-lock-lost"),
        ("renew-lock", {"lock-tokens": [uuid.UUID(int=1)]}, 410, "com.microsoft:message-lock-lost"),
        (
            "update-disposition",
            {"session-id": "s", "disposition-status": "completed", "lock-tokens": [uuid.UUID(int=1)]},
            410,
            "com.microsoft:message-lock-lost",
        ),
        (
            "receive-by-sequence-number",
            {"session-id": "s", "sequence-numbers": [1]},
            404,
            "com.microsoft:message-not-found",
        ),
        ("add-rule", {}, 501, "amqp:not-implemented"),
    ],
)
def test_requests_that_fail_have_azures_status_and_condition(
    manager: Manager, operation: str, body: Any, status: int, condition: str
) -> None:
    response = manager.ask(operation, body)
    assert (response.status, response.condition) == (status, condition)


def test_each_operation_needs_its_right(service: GatewayService, queue: str) -> None:
    with RawClient(service) as raw:
        manager = Manager(raw.open(SENDER), queue)
        asked = {"from-sequence-number": Long(0), "message-count": 10}
        response = manager.ask("peek-message", asked)
        assert (response.status, response.condition) == (401, "amqp:unauthorized-access")
        message = amqp.encode_message(
            amqp.AmqpMessage(group_id="s", data=b"x", annotations={"x-opt-scheduled-enqueue-time": now_ms(3600)})
        )
        assert manager.ask("schedule-message", {"messages": [{"message": message}]}).status == 200
