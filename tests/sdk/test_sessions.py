"""The official SDK uses sessions, entities and access rights, on both servers as on Azure."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusClient, ServiceBusSender
from azure.servicebus import exceptions as errors

from tests.conftest import eventually

from ..namespaces import Namespace
from ..namespaces.choice import stand_in_only
from ..support.sdk import message, receive, send, session
from .conftest import put


def test_iteration_receives_a_named_session_in_order(
    client: ServiceBusClient, shared: ServiceBusSender, namespace: Namespace, sid: str
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


def test_the_next_available_session_is_the_one_that_waits_longest(
    client: ServiceBusClient, namespace: Namespace, queue: str
) -> None:
    put(namespace, queue, ("1", "x"), ("2", "y"))
    with session(client, queue, NEXT_AVAILABLE_SESSION) as first, session(client, queue, NEXT_AVAILABLE_SESSION) as second:
        assert (first.session.session_id, second.session.session_id) == ("x", "y")
        assert namespace.locked_sessions(queue) == {"x", "y"}
        left = first.session.locked_until_utc - datetime.now(timezone.utc)
        assert timedelta(seconds=30) < left <= timedelta(seconds=60)
    eventually(lambda: not namespace.locked_sessions(queue))


def test_a_held_session_cannot_be_locked_again(client: ServiceBusClient, queue: str) -> None:
    with session(client, queue), pytest.raises(errors.SessionCannotBeLockedError), session(client, queue):
        pass


def test_an_accept_without_an_available_session_times_out(client: ServiceBusClient, queue: str) -> None:
    with pytest.raises(errors.OperationTimeoutError), session(client, queue, NEXT_AVAILABLE_SESSION, max_wait_time=0.3):
        pass


def test_a_session_lock_is_renewed_and_its_state_is_kept(client: ServiceBusClient, queue: str) -> None:
    with session(client, queue, wait_for_close=True) as receiver:
        before = receiver.session.locked_until_utc
        assert receiver.session.get_state() is None
        receiver.session.set_state(b"half done")
        assert receiver.session.renew_lock() > before
    with session(client, queue) as receiver:
        assert receiver.session.get_state() == b"half done"
        receiver.session.set_state(None)
        assert receiver.session.get_state() is None


def test_an_expired_session_lock_is_lost(client: ServiceBusClient, namespace: Namespace) -> None:
    namespace.create_queue("short", lock_duration=3.0)
    put(namespace, "short", ("1", "s"))
    with session(client, "short") as receiver:
        (received,) = receive(receiver, 1)
        eventually(lambda: not namespace.locked_sessions("short"))
        with pytest.raises(errors.SessionLockLostError):
            receiver.complete_message(received)
    with session(client, "short") as receiver:
        assert receive(receiver, 1)[0].delivery_count == 1


def test_a_session_lock_that_the_server_ends_is_lost(client: ServiceBusClient, namespace: Namespace, queue: str) -> None:
    with session(client, queue) as receiver:
        namespace.expire_session_lock(queue, "s")
        with pytest.raises(errors.SessionLockLostError):
            receiver.receive_messages(max_wait_time=5)


def test_sessions_are_listed_in_pages(client: ServiceBusClient, namespace: Namespace, queue: str) -> None:
    names = [f"s{number:03}" for number in range(120)]
    put(namespace, queue, *(("x", name) for name in names))
    assert list(client.list_queue_sessions(queue)) == names


def test_each_subscription_gets_a_copy(client: ServiceBusClient, namespace: Namespace) -> None:
    namespace.create_subscription("events", "audit")
    namespace.create_subscription("events", "mail")
    with client.get_topic_sender("events") as sender:
        sender.send_messages(message("created"))
    with client.get_subscription_receiver("events", "mail", session_id="s") as receiver:
        assert str(receive(receiver, 1)[0]) == "created"
    assert namespace.counts("events/subscriptions/audit").active == 1


@stand_in_only("queues without sessions")
def test_a_queue_without_sessions_locks_single_messages(client: ServiceBusClient, namespace: Namespace) -> None:
    namespace.create_queue("plain", requires_session=False)
    put(namespace, "plain", ("1", None), ("2", None))
    with client.get_queue_receiver("plain") as receiver:
        first, second = receive(receiver, 2)
        receiver.complete_message(second)
        receiver.abandon_message(first)
        assert receive(receiver, 1)[0].delivery_count == 1


def test_a_queue_with_sessions_refuses_receivers_without_a_session(client: ServiceBusClient, queue: str) -> None:
    with pytest.raises(errors.ServiceBusError, match="not-allowed"), client.get_queue_receiver(queue):
        pass


def test_a_wrong_key_is_refused(namespace: Namespace, queue: str) -> None:
    text = re.sub(r"(?<=SharedAccessKey=)[^;]+", "d3Jvbmc=", namespace.connection_string)
    client = ServiceBusClient.from_connection_string(text, retry_total=0)
    with client, pytest.raises(errors.ServiceBusAuthenticationError), client.get_queue_sender(queue):
        pass


def test_a_key_without_the_right_is_refused(namespace: Namespace, queue: str) -> None:
    namespace.add_key("sender", frozenset({"Send"}))
    with ServiceBusClient.from_connection_string(
        namespace.connection_string_of("sender"), retry_total=0, keep_alive=None
    ) as client:
        send(client, queue, message("1"))
        with pytest.raises(errors.ServiceBusAuthorizationError), session(client, queue, wait_for_close=True):
            pass


class _Credential:
    def __init__(self, token: str) -> None:
        self.token = token

    def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
        return AccessToken(self.token, int(datetime.now(timezone.utc).timestamp()) + 3600)


@stand_in_only("tokens of Microsoft Entra")
@pytest.mark.parametrize(("token", "accepted"), [("good one", True), ("bad one", False)])
def test_a_token_of_a_credential_is_accepted_or_refused(namespace: Namespace, queue: str, token: str, accepted: bool) -> None:
    credential: Any = _Credential(token)
    host = f"127.0.0.1:{namespace.port}"
    with ServiceBusClient(host, credential, retry_total=0, keep_alive=None, use_tls=False) as client:
        if accepted:
            send(client, queue, message("1"))
        else:
            with pytest.raises(errors.ServiceBusAuthenticationError):
                send(client, queue, message("1"))


@stand_in_only("topics without subscriptions")
def test_a_token_for_a_missing_entity_is_refused(client: ServiceBusClient, namespace: Namespace) -> None:
    with pytest.raises(errors.ServiceBusAuthenticationError), client.get_queue_sender("nowhere"):
        pass
    with pytest.raises(errors.ServiceBusAuthenticationError), session(client, "nowhere"):
        pass
    namespace.create_topic("somewhere")
    with pytest.raises(errors.ServiceBusAuthenticationError):
        client.get_subscription_receiver("somewhere", "nothing").__enter__()


def test_the_session_without_a_name_is_a_session(client: ServiceBusClient, queue: str, namespace: Namespace) -> None:
    send(client, queue, message("1", ""), message("2", ""))
    assert list(client.list_queue_sessions(queue)) == [""]
    with session(client, queue, NEXT_AVAILABLE_SESSION, wait_for_close=True) as receiver:
        assert receiver.session.session_id == ""
        assert [(str(each), each.session_id) for each in receive(receiver, 2)] == [("1", ""), ("2", "")]
        assert namespace.locked_sessions(queue) == {""}
    with session(client, queue, "") as receiver:
        receiver.session.set_state(b"half done")
        assert receiver.session.get_state() == b"half done"
        assert [str(each) for each in receiver.peek_messages(5)] == ["1", "2"]
        receiver.defer_message(receive(receiver, 1)[0])
        assert [str(each) for each in receiver.receive_deferred_messages(1)] == ["1"]


def test_a_session_id_that_is_not_text_is_refused(client: ServiceBusClient, queue: str) -> None:
    with pytest.raises(errors.ServiceBusError), session(client, queue, 1):
        pass


@stand_in_only("locks that credit does not keep")
def test_a_lock_is_kept_while_its_link_has_credit(client: ServiceBusClient, namespace: Namespace) -> None:
    namespace.create_queue("kept", lock_duration=2.0)
    namespace.create_queue("strict", lock_duration=2.0, credit_keeps_lock=False)
    for name in ("kept", "strict"):
        put(namespace, name, ("1", "s"))
    with session(client, "kept", prefetch_count=10) as waiting:
        receive(waiting, 1)
        with session(client, "strict", prefetch_count=10) as other:
            receive(other, 1)
            eventually(lambda: not namespace.locked_sessions("strict"))
        # This lock began earlier.
        assert namespace.locked_sessions("kept") == {"s"}
    eventually(lambda: not namespace.locked_sessions("kept"))


def test_a_lock_expires_after_its_link_has_used_its_credit(client: ServiceBusClient, namespace: Namespace) -> None:
    namespace.create_queue("spent", lock_duration=3.0)
    put(namespace, "spent", ("1", "s"))
    with session(client, "spent") as receiver:
        receive(receiver, 1)
        eventually(lambda: not namespace.locked_sessions("spent"))


def test_a_disabled_queue_is_refused_until_it_is_enabled(client: ServiceBusClient, namespace: Namespace, queue: str) -> None:
    namespace.disable(queue)
    with pytest.raises(errors.MessagingEntityDisabledError), client.get_queue_sender(queue):
        pass
    namespace.enable(queue)
    send(client, queue, message("1"))
