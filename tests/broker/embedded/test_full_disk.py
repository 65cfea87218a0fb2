"""The embedded broker on a full disk: operations fail without a change, and succeed after space is freed."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from azsession import ProviderError
from azsession.broker.calls import AcceptRequest, ReceiveRequest
from azsession.broker.embedded import EmbeddedBroker
from azsession.broker.embedded.jobs import Transaction
from azsession.queues import QueueSettings
from tests.conftest import eventually

from .helpers import (
    COMPLETE,
    DEAD_LETTER,
    NO_WAIT,
    Background,
    Disk,
    HandClock,
    accept,
    bodies,
    dead,
    messages,
    peek,
    receive,
    send,
    settle,
)

BIG = "x" * 50_000


def test_a_send_to_a_full_disk_fails_and_stores_nothing(path: Path) -> None:
    with EmbeddedBroker(path, queues=["q"]) as broker:
        disk = Disk(broker)
        send(broker, "a")
        disk.fill()
        with pytest.raises(ProviderError, match="the disk is full; nothing was changed") as caught:
            broker.send("q", messages("small", BIG), "r1").result()
        assert caught.value.is_transient
        assert peek(broker) == ["a"]
        disk.free()
        broker.send("q", messages("small", BIG), "r1").result()
        assert peek(broker) == ["a", "small", BIG]
    with EmbeddedBroker(path) as broker:
        assert peek(broker) == ["a", "small", BIG]


def test_a_send_that_failed_creates_no_queue(path: Path) -> None:
    with EmbeddedBroker(path, auto_create=True) as broker:
        disk = Disk(broker)
        send(broker, "a", queue="other")
        disk.fill()
        with pytest.raises(ProviderError, match="full"):
            send(broker, BIG)
        disk.free()
        assert [queue.name for queue in broker.list_queues().result()] == ["other"]
        send(broker, "b")
        assert peek(broker) == ["b"]


def test_the_messages_of_a_failed_receive_can_be_received_with_an_unchanged_count(path: Path) -> None:
    with EmbeddedBroker(path, queues=["q"]) as broker:
        disk = Disk(broker)
        for start in range(0, 6000, 1000):
            broker.send("q", messages(*(f"{number}" for number in range(start, start + 1000)))).result()
        disk.fill()
        with pytest.raises(ProviderError, match="full"):
            receive(broker, "A", 6000, request_id="r1")
        disk.free()
        received = receive(broker, "B", 6000, request_id="r1")
        assert bodies(received) == [f"{number}" for number in range(6000)]
        assert {one.delivery_count for one in received} == {1}


def test_the_messages_of_a_failed_settle_can_be_settled_again(path: Path) -> None:
    with EmbeddedBroker(path, queues=["q"]) as broker:
        disk = Disk(broker)
        broker.send("q", messages(*(f"{number}" for number in range(1000)))).result()
        received = receive(broker, "A", 1000)
        disk.fill()
        with pytest.raises(ProviderError, match="full"):
            settle(broker, DEAD_LETTER, *received, reason="x" * 4096)
        assert len(peek(broker)) == 1000
        disk.free()
        assert settle(broker, COMPLETE, *received) == [None] * 1000
        assert peek(broker) == []


def test_a_failed_change_of_a_session_leaves_it_unchanged(path: Path) -> None:
    with EmbeddedBroker(path, queues=["q"]) as broker:
        disk = Disk(broker)
        broker.send("q", messages(*(f"{number}" for number in range(1000)))).result()
        received = receive(broker, "A", 1000)
        broker.set_state("q", "s", "A", b"before").result()
        disk.fill()
        with pytest.raises(ProviderError, match="full"):
            broker.set_state("q", "s", "A", BIG.encode()).result()
        with pytest.raises(ProviderError, match="full"):
            broker.dead_letter_session("q", "s", "A", BIG, None).result()
        assert broker.get_state("q", "s", "A").result() == b"before"
        assert dead(broker) == []
        disk.free()
        assert settle(broker, COMPLETE, *received) == [None] * 1000


def test_only_the_operation_without_space_fails_in_a_shared_transaction(path: Path) -> None:
    with EmbeddedBroker(path, queues=["q"]) as broker:
        disk = Disk(broker)
        send(broker, "a", "b", BIG)
        received = receive(broker, "A", 3)
        # The pages of the large message become free for the small ones.
        settle(broker, COMPLETE, received[2])
        held, free = threading.Event(), threading.Event()

        def hold(tx: Transaction) -> None:
            held.set()
            assert free.wait(10)

        holder = Background(lambda: broker._core.perform(hold))
        assert held.wait(10)
        calls = []
        for call in (
            lambda: send(broker, "small"),
            lambda: send(broker, BIG * 100),
            lambda: settle(broker, COMPLETE, received[0]),
        ):
            before = len(calls)
            calls.append(Background(call))
            eventually(lambda before=before: len(broker._core.commits._queue) == before + 1)
        disk.fill()
        free.set()
        holder.result()
        calls[0].result()
        with pytest.raises(ProviderError, match="full"):
            calls[1].result()
        assert calls[2].result() == [None]
        assert peek(broker) == ["b", "small"]
    with EmbeddedBroker(path) as broker:
        assert peek(broker) == ["b", "small"]


# SQLite's log


def test_the_log_of_a_small_disk_stays_small_while_messages_come_and_go(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log would fill the disk, although nothing is stored."""
    usage = shutil.disk_usage(path.parent)._replace(free=3_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with EmbeddedBroker(path, queues=["q"]) as broker:
        for _ in range(60):
            send(broker, BIG)
            settle(broker, COMPLETE, *receive(broker, "A"))
        files = [path, path.with_name(f"{path.name}-wal")]
        assert sum(file.stat().st_size for file in files) < 2_000_000


def test_the_log_is_used_again_after_the_disk_was_full(path: Path, tmp_path: Path) -> None:
    with EmbeddedBroker(path, queues=["q"]) as broker:
        disk = Disk(broker)
        send(broker, "a")
        disk.fill()
        with pytest.raises(ProviderError, match="full"):
            send(broker, BIG)
        # The file alone has all messages, so nothing in the log is needed.
        with closing(sqlite3.connect(shutil.copy(path, tmp_path / "alone.db"))) as alone:
            assert alone.execute("SELECT count(*) FROM messages").fetchone() == (1,)


def test_a_broker_is_ready_unless_its_file_cannot_be_written(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path / "data.db", queues=["q"]) as broker:
        broker.check_ready().result()
        broker._core.connection.execute("PRAGMA query_only=ON")
        with pytest.raises(ProviderError, match="cannot be written"):
            broker.check_ready().result()
        broker._core.connection.execute("PRAGMA query_only=OFF")
        broker.check_ready().result()


# A disk that fails while operations wait


def test_waits_end_after_their_timeouts_while_the_disk_fails(path: Path) -> None:
    with EmbeddedBroker(path) as broker:
        broker.create_queue("q", QueueSettings(dead_letter_on_expiration=True)).result()
        send(broker, "a", session="expiring", time_to_live=1.0)
        waiting = [
            broker.accept(AcceptRequest("q", "other", "A", timeout=600), context=NO_WAIT),
            broker.receive(ReceiveRequest("q", "s", "B", max_count=1, timeout=2.5), context=NO_WAIT),
        ]
        assert waiting[0].result(10) is not None
        broker._core.perform(lambda tx: tx.after_commit(lambda: broker._core.connection.execute("PRAGMA query_only=ON")))
        # The message cannot be dead-lettered, and the receive cannot extend its lock.
        with pytest.raises(ProviderError, match="cannot be written"):
            waiting[1].result(10)
        broker._core.connection.execute("PRAGMA query_only=OFF")


def test_all_locks_expire_after_the_disk_failed_at_their_expiry(path: Path, clock: HandClock) -> None:
    with EmbeddedBroker(path, queues=["q"], clock=clock) as broker:
        for session in "abcde":
            send(broker, "1", session=session)
            receive(broker, f"holder of {session}", session=session)
        broker._core.perform(lambda tx: tx.after_commit(lambda: broker._core.connection.execute("PRAGMA query_only=ON")))
        clock.advance(61)
        with pytest.raises(ProviderError, match="cannot be written"):
            peek(broker)
        broker._core.connection.execute("PRAGMA query_only=OFF")
        assert [accept(broker, f"next {number}") for number in range(5)] == list("abcde")
        assert broker._core.locks.next_expiry() is not None
