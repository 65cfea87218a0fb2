"""The official SDK, as it is, goes through its paces on the stand-in: so the stand-in is known to be true."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import eventually
from tests.standin.require import require_standin

if TYPE_CHECKING:
    from tests.standin import StandIn

StandInType = require_standin()

from azure.core.credentials import AccessToken  # noqa: E402
from azure.servicebus import (  # noqa: E402
    NEXT_AVAILABLE_SESSION,
    ServiceBusClient,
    ServiceBusMessage,
    ServiceBusReceivedMessage,
    ServiceBusReceiveMode,
    ServiceBusReceiver,
    ServiceBusSender,
    ServiceBusSubQueue,
)
from azure.servicebus import exceptions as errors  # noqa: E402
from azure.servicebus._pyamqp._transport import SSLTransport  # noqa: E402
from proton import Message  # noqa: E402

_CLOSING = ThreadPoolExecutor(8, thread_name_prefix="closing")
_NAMES = (f"orders-{number}" for number in itertools.count())


@pytest.fixture(scope="module", autouse=True)
def _forgotten_sockets() -> Iterator[None]:
    """Close what the SDK leaves open: a connection whose close fails forgets its socket."""
    transports: list[Any] = []
    connect = SSLTransport.connect

    def noting(transport: Any) -> None:
        transports.append(transport)
        connect(transport)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SSLTransport, "connect", noting)
        yield
    for transport in transports:
        transport.close()


@pytest.fixture(scope="module")
def namespace() -> Iterator[StandIn]:
    with StandInType() as standin:
        yield standin


@pytest.fixture(scope="module")
def client(namespace: StandIn) -> Iterator[ServiceBusClient]:
    # Without keep-alive, a sender has no thread of its own, whose sleeps its close would wait for.
    with ServiceBusClient.from_connection_string(namespace.connection_string, retry_total=0, keep_alive=None) as client:
        yield client
        _CLOSING.shutdown()


@pytest.fixture(scope="module")
def shared(client: ServiceBusClient, namespace: StandIn) -> Iterator[ServiceBusSender]:
    """The sender of the queue that tests share: opening and closing one takes the SDK a second."""
    namespace.create_queue("shared")
    with client.get_queue_sender("shared") as sender:
        yield sender


@pytest.fixture
def sid() -> str:
    """A session that is one test's alone."""
    return str(uuid.uuid4())


@pytest.fixture
def queue(namespace: StandIn) -> str:
    name = next(_NAMES)
    namespace.create_queue(name)
    return name


def send(client: ServiceBusClient, queue: str, *messages: ServiceBusMessage) -> None:
    sender = client.get_queue_sender(queue)
    sender.send_messages(list(messages))
    _CLOSING.submit(sender.close)


def put(namespace: StandIn, queue: str, *messages: tuple[str, str | None]) -> None:
    """Put bodies (which are the message ids, too) and session ids into a queue, past the SDK."""
    made = [Message(body.encode(), id=body, group_id=session_id, inferred=True) for body, session_id in messages]
    namespace.put(queue, [each.encode() for each in made])


def message(body: Any, session_id: str | None = "s", **properties: Any) -> ServiceBusMessage:
    return ServiceBusMessage(body, session_id=session_id, **properties)


@contextmanager
def session(
    client: ServiceBusClient, queue: str, session_id: Any = "s", *, wait: bool = False, **options: Any
) -> Iterator[ServiceBusReceiver]:
    """Open a receiver; it is closed aside unless told to `wait`, for that takes the SDK up to a second."""
    receiver = client.get_queue_receiver(queue, session_id=session_id, **options)
    receiver.__enter__()
    try:
        yield receiver
    finally:
        closed = _CLOSING.submit(receiver.close)
        if wait:
            closed.result()


def receive(receiver: ServiceBusReceiver, count: int) -> list[ServiceBusReceivedMessage]:
    found: list[ServiceBusReceivedMessage] = []
    eventually(lambda: found.extend(receiver.receive_messages(count - len(found), max_wait_time=1)) or len(found) >= count)
    return found


def test_a_message_comes_back_with_everything_that_it_was_sent_with(
    client: ServiceBusClient, shared: ServiceBusSender, sid: str
) -> None:
    given = {
        "message_id": "m-1",
        "correlation_id": "c-1",
        "subject": "created",
        "content_type": "application/json",
        "reply_to": "answers",
        "reply_to_session_id": "r",
        "to": "there",
        "time_to_live": timedelta(minutes=5),
    }
    own = {"text": "é", "number": 2**30, "float": 1.5, "flag": True, "id": uuid.uuid4()}
    shared.send_messages(message(b'{"n": 1}\x00\xff', sid, application_properties=dict(own), **given))
    with session(client, "shared", sid) as receiver:
        (received,) = receive(receiver, 1)
        assert b"".join(received.body) == b'{"n": 1}\x00\xff'
        assert {name: getattr(received, name) for name in given} == given
        assert {name.decode(): value for name, value in received.application_properties.items()} == {
            **own,
            "text": "é".encode(),
        }
        assert received.session_id == sid
        assert received.sequence_number == received.enqueued_sequence_number > 0
        assert received.delivery_count == 0
        assert isinstance(received.lock_token, uuid.UUID)
        assert abs(received.enqueued_time_utc - datetime.now(timezone.utc)) < timedelta(seconds=30)


def test_a_batch_is_sent_whole(shared: ServiceBusSender, namespace: StandIn, sid: str) -> None:
    names = [f"{sid}-{number % 3}" for number in range(20)]
    batch = shared.create_message_batch()
    for name in names:
        batch.add_message(message("x", name))
    shared.send_messages(batch)
    sent = [session_id for session_id, _, _ in namespace.accepted("shared")]
    assert [name for name in sent if name and name.startswith(sid)] == names


def test_a_message_that_is_larger_than_a_frame_comes_back(
    client: ServiceBusClient, shared: ServiceBusSender, sid: str
) -> None:
    body = bytes(range(256)) * 800
    shared.send_messages(message(body, sid))
    with session(client, "shared", sid) as receiver:
        assert b"".join(receive(receiver, 1)[0].body) == body


def test_a_message_that_is_too_large_is_refused(shared: ServiceBusSender) -> None:
    with pytest.raises(errors.MessageSizeExceededError):
        shared.send_messages(message(b"x" * 300_000))


def test_a_message_without_a_session_id_is_refused(shared: ServiceBusSender, namespace: StandIn) -> None:
    with pytest.raises(errors.ServiceBusError, match="SessionId"):
        shared.send_messages(message("lost", None))
    assert not [entry for entry in namespace.accepted("shared") if entry[0] is None]


def test_a_named_session_is_received_in_order_by_iteration(
    client: ServiceBusClient, shared: ServiceBusSender, namespace: StandIn, sid: str
) -> None:
    shared.send_messages([message(str(number), f"{sid}-{number % 2}") for number in range(10)])
    with session(client, "shared", f"{sid}-1", max_wait_time=1) as receiver:
        seen = []
        for received in receiver:
            seen.append(str(received))
            receiver.complete_message(received)
            if len(seen) == 5:
                break
    assert seen == ["1", "3", "5", "7", "9"]
    assert [session_id for session_id, _, _ in namespace.completed("shared") if sid in session_id] == [f"{sid}-1"] * 5


def test_next_available_sessions_are_those_that_wait_longest(
    client: ServiceBusClient, namespace: StandIn, queue: str
) -> None:
    put(namespace, queue, ("1", "x"), ("2", "y"))
    with session(client, queue, NEXT_AVAILABLE_SESSION) as first, session(client, queue, NEXT_AVAILABLE_SESSION) as second:
        assert (first.session.session_id, second.session.session_id) == ("x", "y")
        assert namespace.locked_sessions(queue) == {"x", "y"}
        left = first.session.locked_until_utc - datetime.now(timezone.utc)
        assert timedelta(seconds=30) < left <= timedelta(seconds=60)
    eventually(lambda: not namespace.locked_sessions(queue))


def test_a_session_that_is_held_cannot_be_locked(client: ServiceBusClient, queue: str) -> None:
    with session(client, queue), pytest.raises(errors.SessionCannotBeLockedError), session(client, queue):
        pass


def test_no_session_ends_in_a_timeout(client: ServiceBusClient, queue: str) -> None:
    with pytest.raises(errors.OperationTimeoutError), session(client, queue, NEXT_AVAILABLE_SESSION, max_wait_time=0.3):
        pass


def test_messages_are_settled_in_every_way(client: ServiceBusClient, namespace: StandIn, queue: str) -> None:
    put(namespace, queue, *((name, "s") for name in ("complete", "bury", "defer", "abandon")))
    with session(client, queue) as receiver:
        completed, buried, deferred, abandoned = receive(receiver, 4)
        receiver.complete_message(completed)
        receiver.dead_letter_message(buried, reason="bad", error_description="very bad")
        receiver.defer_message(deferred)
        receiver.abandon_message(abandoned)
        counts = namespace.counts(queue)
        assert (counts.active, counts.dead_letter, counts.deferred, counts.locked) == (1, 1, 1, 0)

        (again,) = receive(receiver, 1)
        assert (again.message_id, again.delivery_count) == ("abandon", 1)

        (late,) = receiver.receive_deferred_messages(deferred.sequence_number)
        assert (str(late), late.session_id) == ("defer", "s")
        receiver.complete_message(late)
        with pytest.raises(errors.MessageNotFoundError):
            receiver.receive_deferred_messages(deferred.sequence_number)
    assert [message_id for _, _, message_id in namespace.completed(queue)] == ["complete", "defer"]
    with client.get_queue_receiver(queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER) as receiver:
        (dead,) = receive(receiver, 1)
        assert (str(dead), dead.dead_letter_reason, dead.dead_letter_error_description) == ("bury", "bad", "very bad")
        assert (dead.sequence_number, dead.session_id, dead.dead_letter_source) == (2, "s", queue)
        receiver.renew_message_lock(dead)
        receiver.complete_message(dead)
    assert namespace.counts(queue).dead_letter == 0


def test_a_message_that_fails_too_often_is_dead_lettered(client: ServiceBusClient, namespace: StandIn) -> None:
    namespace.create_queue("fragile", max_delivery_count=2)
    put(namespace, "fragile", ("bad", "s"))
    with session(client, "fragile") as receiver:
        for _ in range(2):
            receiver.abandon_message(receive(receiver, 1)[0])
        with client.get_queue_receiver("fragile", sub_queue=ServiceBusSubQueue.DEAD_LETTER) as dead:
            assert dead.peek_messages()[0].dead_letter_reason == "MaxDeliveryCountExceeded"


def test_a_returned_message_comes_before_later_ones(client: ServiceBusClient, shared: ServiceBusSender, sid: str) -> None:
    shared.send_messages([message(number, sid) for number in "123"])
    with session(client, "shared", sid, wait=True) as receiver:
        first, _ = receive(receiver, 2)
        receiver.abandon_message(first)
        assert [str(each) for each in receive(receiver, 2)] == ["1", "3"]
    with session(client, "shared", sid) as receiver:
        # Closing the receiver gave its messages back, and that is no failed delivery.
        assert [(str(each), each.delivery_count) for each in receive(receiver, 3)] == [("1", 1), ("2", 0), ("3", 0)]


def test_receive_and_delete_removes_at_once(
    client: ServiceBusClient, shared: ServiceBusSender, namespace: StandIn, sid: str
) -> None:
    shared.send_messages(message("1", sid))
    with session(client, "shared", sid, receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE) as receiver:
        assert [str(each) for each in receive(receiver, 1)] == ["1"]
    assert sid in [session_id for session_id, _, _ in namespace.completed("shared")]


def test_a_session_is_renewed_and_keeps_its_state(client: ServiceBusClient, queue: str) -> None:
    with session(client, queue, wait=True) as receiver:
        before = receiver.session.locked_until_utc
        assert receiver.session.get_state() is None
        receiver.session.set_state(b"half done")
        assert receiver.session.renew_lock() > before
    with session(client, queue) as receiver:
        assert receiver.session.get_state() == b"half done"
        receiver.session.set_state(None)
        assert receiver.session.get_state() is None


def test_a_session_whose_lock_expired_is_lost(client: ServiceBusClient, namespace: StandIn) -> None:
    namespace.create_queue("short", lock_duration=0.6)
    put(namespace, "short", ("1", "s"))
    with session(client, "short") as receiver:
        (received,) = receive(receiver, 1)
        eventually(lambda: not namespace.locked_sessions("short"))
        with pytest.raises(errors.SessionLockLostError):
            receiver.complete_message(received)
    with session(client, "short") as receiver:
        assert receive(receiver, 1)[0].delivery_count == 1


def test_a_session_whose_lock_the_server_ends_is_lost(client: ServiceBusClient, namespace: StandIn, queue: str) -> None:
    with session(client, queue) as receiver:
        namespace.expire_session_lock(queue, "s")
        with pytest.raises(errors.SessionLockLostError):
            receiver.receive_messages(max_wait_time=5)


def test_messages_are_peeked_without_a_lock(client: ServiceBusClient, shared: ServiceBusSender, sid: str) -> None:
    shared.send_messages([message("1", sid), message("2", f"{sid}-2"), message("3", sid)])
    with session(client, "shared", sid) as receiver:
        peeked = receiver.peek_messages(10)
        assert [str(each) for each in peeked] == ["1", "3"]
        last = peeked[-1].sequence_number
        assert [str(each) for each in receiver.peek_messages(10, sequence_number=last - 1)] == ["3"]
        assert receiver.peek_messages(10, sequence_number=last + 1) == []
        assert not [each for each in peeked if each.lock_token]


def test_scheduled_messages_come_in_their_time_or_are_cancelled(
    client: ServiceBusClient, namespace: StandIn, queue: str
) -> None:
    now = datetime.now(timezone.utc)
    with client.get_queue_sender(queue) as sender:
        soon, never = sender.schedule_messages([message("soon"), message("never")], now + timedelta(seconds=1))
        assert namespace.counts(queue).scheduled == 2
        sender.cancel_scheduled_messages(never)
    with session(client, queue, NEXT_AVAILABLE_SESSION, max_wait_time=5) as receiver:
        (received,) = receive(receiver, 1)
        assert str(received) == "soon"
        assert received.sequence_number > soon
        assert datetime.now(timezone.utc) >= now + timedelta(seconds=0.9)


def test_sessions_are_listed_in_pages(client: ServiceBusClient, namespace: StandIn, queue: str) -> None:
    names = [f"s{number:03}" for number in range(120)]
    put(namespace, queue, *(("x", name) for name in names))
    assert list(client.list_queue_sessions(queue)) == names


def test_a_subscription_gets_a_copy(client: ServiceBusClient, namespace: StandIn) -> None:
    namespace.create_subscription("events", "audit")
    namespace.create_subscription("events", "mail")
    with client.get_topic_sender("events") as sender:
        sender.send_messages(message("created"))
    with client.get_subscription_receiver("events", "mail", session_id="s") as receiver:
        assert str(receive(receiver, 1)[0]) == "created"
    assert namespace.counts("events/subscriptions/audit").active == 1


def test_a_queue_without_sessions_is_received_from_by_locks_of_messages(client: ServiceBusClient, namespace: StandIn) -> None:
    namespace.create_queue("plain", requires_session=False)
    put(namespace, "plain", ("1", None), ("2", None))
    with client.get_queue_receiver("plain") as receiver:
        first, second = receive(receiver, 2)
        receiver.complete_message(second)
        receiver.abandon_message(first)
        assert receive(receiver, 1)[0].delivery_count == 1


def test_a_queue_with_sessions_has_no_plain_receivers(client: ServiceBusClient, queue: str) -> None:
    with pytest.raises(errors.ServiceBusError, match="not-allowed"), client.get_queue_receiver(queue):
        pass


def test_a_wrong_key_is_refused(namespace: StandIn, queue: str) -> None:
    text = namespace.connection_string.replace(namespace.keys["RootManageSharedAccessKey"][0], "d3Jvbmc=")
    client = ServiceBusClient.from_connection_string(text, retry_total=0)
    with client, pytest.raises(errors.ServiceBusAuthenticationError), client.get_queue_sender(queue):
        pass


def test_a_key_without_the_right_is_refused(namespace: StandIn, queue: str) -> None:
    namespace.keys["sender"] = ("c2VuZA==", frozenset({"Send"}))
    with ServiceBusClient.from_connection_string(
        namespace.connection_string_of("sender"), retry_total=0, keep_alive=None
    ) as client:
        send(client, queue, message("1"))
        with pytest.raises(errors.ServiceBusAuthorizationError), session(client, queue, wait=True):
            pass


class _Credential:
    def __init__(self, token: str) -> None:
        self.token = token

    def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
        return AccessToken(self.token, int(datetime.now(timezone.utc).timestamp()) + 3600)


@pytest.mark.parametrize(("token", "taken"), [("good one", True), ("bad one", False)])
def test_a_token_credential_is_taken_or_not(namespace: StandIn, queue: str, token: str, taken: bool) -> None:
    credential: Any = _Credential(token)
    host = f"127.0.0.1:{namespace.port}"
    with ServiceBusClient(host, credential, retry_total=0, keep_alive=None, use_tls=False) as client:
        if taken:
            send(client, queue, message("1"))
        else:
            with pytest.raises(errors.ServiceBusAuthenticationError):
                send(client, queue, message("1"))


def test_a_missing_queue_is_not_found(client: ServiceBusClient) -> None:
    with pytest.raises(errors.MessagingEntityNotFoundError), client.get_queue_sender("nowhere"):
        pass
    with pytest.raises(errors.MessagingEntityNotFoundError), session(client, "nowhere"):
        pass


def test_a_disabled_queue_says_so(client: ServiceBusClient, namespace: StandIn, queue: str) -> None:
    namespace.disable(queue)
    with pytest.raises(errors.MessagingEntityDisabledError), client.get_queue_sender(queue):
        pass
    namespace.enable(queue)
    send(client, queue, message("1"))
