"""The limits of a peer: links in a channel, channels in a connection, bytes in a frame, frames in a window."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from azsession import Message, ProviderError, ServiceBusProvider, SessionClient
from azsession.broker.azure import namespace as namespace_module
from azsession.broker.azure.session import relock

from ....conftest import eventually
from ....namespaces import Namespace
from ....namespaces.choice import namespace_on
from ..holders import QUEUE, Holder, broker_on, completed, in_thread, send, waits_in

MEGABYTE = 1024 * 1024


@pytest.fixture
def namespace(server: str) -> Iterator[Namespace]:
    with namespace_on(server, handle_max=15) as namespace:
        namespace.create_queue(QUEUE)
        yield namespace


def test_sessions_beyond_the_handle_maximum_get_another_channel(namespace: Namespace) -> None:
    with broker_on(namespace) as broker:
        holders = [Holder(broker, f"s{number}") for number in range(40)]
        for holder in holders:
            send(broker, f"of {holder.session_id}", session_id=holder.session_id)
        for holder in holders:
            assert [message.text() for message in holder.take()] == [f"of {holder.session_id}"]
        assert len(namespace.locked_sessions(QUEUE)) == 40
        assert namespace.connections() == 1
        assert namespace.log["begin"] >= 3


def test_a_released_session_frees_its_handle(server: str) -> None:
    with namespace_on(server, handle_max=7, channel_max=0) as namespace:
        namespace.create_queue(QUEUE)
        with broker_on(namespace) as broker:
            for number in range(500):
                send(broker, "x", session_id=f"s{number}")
                holder = Holder(broker, f"s{number}")
                assert holder.complete(*holder.take()) == [None]
                holder.release()
            assert namespace.connections() == 1
            assert namespace.log["begin"] == 1
        assert len(namespace.completed(QUEUE)) == 500


def test_another_connection_is_opened_when_all_channels_are_full(server: str) -> None:
    with namespace_on(server, handle_max=15, channel_max=1) as namespace:
        namespace.create_queue(QUEUE)
        with broker_on(namespace) as broker:
            holders = [Holder(broker, f"s{number}") for number in range(100)]
            for holder in holders:
                send(broker, "x", session_id=holder.session_id)
            taken = [(holder, holder.take()) for holder in holders]
            assert len(namespace.locked_sessions(QUEUE)) == 100
            assert 4 <= namespace.connections() <= 6
            for holder, messages in taken:
                # Each call must use the connection that has the session's link.
                assert holder.renew() > 0
                broker.set_state(*holder.whose, holder.session_id.encode()).result()
                assert broker.get_state(*holder.whose).result() == holder.session_id.encode()
                assert holder.complete(*messages) == [None]
                holder.release()
            assert namespace.links() <= 40


def test_a_full_last_connection_gives_a_transient_error(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespace_module, "MAX_CONNECTIONS", 1)
    with namespace_on(server, handle_max=15, channel_max=0) as namespace:
        namespace.create_queue(QUEUE)
        with ServiceBusProvider.from_connection_string(namespace.connection_string, retry_attempts=0) as provider:

            def hold_many() -> None:
                for number in range(20):
                    clients.append(provider.create_session_client(QUEUE, f"s{number}"))
                    clients[-1].receive_message(timeout=0)

            clients: list[SessionClient] = []
            with pytest.raises(ProviderError, match="full of sessions") as caught:
                hold_many()
        assert caught.value.is_transient


def test_sessions_accepted_at_the_same_time_all_find_room(server: str) -> None:
    with namespace_on(server, handle_max=15, channel_max=0) as namespace:
        namespace.create_queue(QUEUE)
        with (
            ServiceBusProvider.from_connection_string(namespace.connection_string, retry_attempts=0) as provider,
            ThreadPoolExecutor(32) as pool,
        ):
            clients = [provider.create_session_client(QUEUE, f"s{number}") for number in range(60)]
            assert list(pool.map(lambda client: client.receive_message(timeout=0), clients)) == [None] * 60
            assert len(namespace.locked_sessions(QUEUE)) == 60


def test_sessions_of_a_lost_connection_all_find_room_at_once(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A session without room would wait so long before its next attempt.
    monkeypatch.setattr(relock, "RELOCK_PAUSE", 60.0)
    monkeypatch.setattr(relock, "MAX_RELOCK_PAUSE", 60.0)
    with namespace_on(server, handle_max=15, channel_max=0) as namespace:
        namespace.create_queue(QUEUE)
        with (
            ServiceBusProvider.from_connection_string(namespace.connection_string, request_timeout=20) as provider,
            ThreadPoolExecutor(30) as pool,
        ):
            clients = [provider.create_session_client(QUEUE, f"s{number}") for number in range(30)]
            for _ in range(2):
                assert list(pool.map(lambda client: client.receive_message(timeout=0), clients)) == [None] * 30
                namespace.drop_connections()


@pytest.mark.parametrize("max_frame_size", [1024, 65536])
def test_a_message_of_a_megabyte_is_sent_and_received_in_many_frames(server: str, max_frame_size: int) -> None:
    body = os.urandom(MEGABYTE)
    with namespace_on(server, max_frame_size=max_frame_size) as namespace:
        namespace.create_queue(QUEUE, max_message_size=2 * MEGABYTE)
        with broker_on(namespace) as broker:
            broker.send(QUEUE, [Message(body, session_id="s1")]).result()
            assert namespace.log["transfer"] >= MEGABYTE // max_frame_size
            received = Holder(broker).take()
            assert received[0].body == body


def test_messages_of_more_frames_than_the_window_arrive_whole(server: str, namespace: Namespace) -> None:
    """The client's window is 5,000 frames; frames of 512 bytes use it up."""
    with namespace_on(server, max_frame_size=512) as small:
        small.create_queue(QUEUE, max_message_size=8 * MEGABYTE)
        with broker_on(small) as broker:
            bodies = [os.urandom(MEGABYTE) for _ in range(4)]
            for body in bodies:
                broker.send(QUEUE, [Message(body, session_id="s1")]).result()
            assert [message.body for message in Holder(broker).take(4)] == bodies


def test_two_threads_hold_a_thousand_sessions(server: str) -> None:
    with namespace_on(server) as namespace:
        namespace.create_queue(QUEUE)
        with broker_on(namespace) as broker, ThreadPoolExecutor(32) as pool:
            names = [f"s{number}" for number in range(1000)]
            for at in range(0, 1000, 250):
                broker.send(QUEUE, [Message(name, session_id=name) for name in names[at : at + 250]]).result()

            def accept(_: int) -> Holder:
                holder = Holder(broker)
                assert holder.accept_next() is not None
                return holder

            before = set(threading.enumerate())
            holders = list(pool.map(accept, range(1000)))
            assert {holder.session_id for holder in holders} == set(names) == namespace.locked_sessions(QUEUE)
            assert namespace.connections() == 1
            ours = [each.name for each in threading.enumerate() if each not in before and each.name.startswith("azsession")]
            assert len(ours) <= 2

            def finish(holder: Holder) -> None:
                assert holder.complete(*holder.take()) == [None]
                holder.release()

            list(pool.map(finish, holders))
            # The broker may have locked a session of its own, to learn how long locks last.
            assert not namespace.locked_sessions(QUEUE) & set(names)
            assert len(namespace.completed(QUEUE)) == 1000


def test_a_waiting_receive_does_not_delay_settlements_and_renewals_of_its_session(namespace: Namespace) -> None:
    with broker_on(namespace) as broker:
        send(broker, "one")
        holder = Holder(broker)
        messages = holder.take()
        waiting = in_thread(lambda: holder.receive(timeout=60))
        eventually(lambda: waits_in(holder) == 1)
        assert holder.complete(*messages) == [None]
        assert holder.renew() > 0
        assert completed(namespace) == ["one"]
        assert not waiting.done()
        send(broker, "two")
        assert [message.text() for message in waiting.result(10)] == ["two"]
