"""Deleting a queue of the embedded broker."""

from __future__ import annotations

from pathlib import Path

from azsession.broker.embedded import EmbeddedBroker
from azsession.queues import QueueSettings
from tests.conftest import eventually

from .helpers import BOUND, COMPLETE, MANY, JobLog, bodies, copy_data, dead, peek, receive, send, send_many, settle


def test_deleting_a_queue_ends_its_locks(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    (message,) = receive(broker, "A")
    broker.delete_queue("q").result()
    broker.create_queue("q", QueueSettings()).result()
    assert settle(broker, COMPLETE, message) == ["SessionLockLost"]
    send(broker, "b")
    assert bodies(receive(broker, "B", 10)) == ["b"]
    assert dead(broker) == []


def test_a_queue_is_gone_at_once_and_its_messages_are_deleted_in_steps(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path / "data.db", queues=["q"]) as broker:
        send_many(broker, MANY)
        log = JobLog(broker)
        broker.delete_queue("q").result()
        assert broker.list_queues().result() == []
        assert broker.create_queue("q", QueueSettings()).result()
        send(broker, "new")
        assert peek(broker) == ["new"]
        run = broker._core.connection.execute
        eventually(lambda: run("SELECT count(*) FROM messages").fetchone() == (1,))
        eventually(lambda: run("SELECT count(*) FROM deleted_queues").fetchone() == (0,))
        assert log.most <= BOUND
        assert broker.get_queue("q").result().active_count == 1


def test_an_interrupted_deletion_of_a_queue_is_finished_after_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "data.db"
    with EmbeddedBroker(path, queues=["q"]) as broker:
        send_many(broker, MANY)
        broker.delete_queue("q").result()
        copy = copy_data(path)
    with EmbeddedBroker(copy) as broker:
        run = broker._core.connection.execute
        assert broker.list_queues().result() == []
        eventually(lambda: run("SELECT count(*) FROM messages").fetchone() == (0,))
        eventually(lambda: run("SELECT count(*) FROM sessions").fetchone() == (0,))
