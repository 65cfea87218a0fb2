"""Confirmed operations of the embedded broker survive a kill at any instant, also when they share a commit."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from azsession.broker.embedded import EmbeddedBroker
from azsession.broker.embedded.jobs import Transaction
from tests.conftest import eventually

from .helpers import COMPLETE, Background, HandClock, accept, copy_data, peek, receive, send, settle

#: Two threads send and two settle. They write a line before each operation (lower case) and after it (upper case).
_WORKER = """
import os, sys, threading
from azsession import Message, QueueError
from azsession.broker.calls import Disposition, ReceiveRequest, Settlement
from azsession.broker.embedded import EmbeddedBroker

broker = EmbeddedBroker(sys.argv[1], queues=["q"])
life = sys.argv[2]

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def produce(session):
    for number in range(1_000_000):
        body = f"{life}-{session}-{number}"
        say("s", session, body)
        broker.send("q", [Message(body, session_id=session)], body).result()
        say("S", session, body)

def consume(session):
    lock = f"lock-{life}-{session}"
    while True:
        for one in broker.receive(ReceiveRequest("q", session, lock, max_count=3, timeout=1)).result().messages:
            body = one.body.decode()
            say("D", session, body, one.delivery_count)
            if body.endswith(("3", "7")):
                continue
            say("c", session, body)
            assert broker.settle("q", session, [Settlement(one.receipt.handle, Disposition.COMPLETE)]).result() == [None]
            say("C", session, body)

for session in ("x", "y"):
    threading.Thread(target=produce, args=(session,)).start()
    threading.Thread(target=consume, args=(session,)).start()
"""


def test_a_kill_at_any_instant_loses_no_confirmed_operation(tmp_path: Path) -> None:
    path = tmp_path / "data.db"
    random_numbers = random.Random(7)
    said: list[list[str]] = []
    for life in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(path), str(life)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            said.extend(process.stdout.readline().split() for _ in range(random_numbers.randrange(1, 800)))
            process.send_signal(signal.SIGKILL)
            said.extend(line.split() for line in process.stdout if line.endswith("\n"))
            process.wait()
        begun = {tuple(words[1:]) for words in said if words[0] == "s"}
        sent = [tuple(words[1:]) for words in said if words[0] == "S"]
        completing = {tuple(words[1:]) for words in said if words[0] == "c"}
        completed = {tuple(words[1:]) for words in said if words[0] == "C"}
        counts = {(words[1], words[2]): int(words[3]) for words in said if words[0] == "D"}
        with EmbeddedBroker(copy_data(path), clock=HandClock()) as broker:
            left = {
                (session, one.body.decode()): one.delivery_count
                for session in ("x", "y")
                for one in broker.peek("q", session, 0, 100_000).result()
            } | {
                (one.session_id or "", one.body.decode()): one.delivery_count
                for one in broker.dead_letters("q", 0, 100_000).result()
            }
            for session in ("x", "y"):
                kept = peek(broker, session)
                order = [words[2] for words in said if words[0] == "s" and words[1] == session and words[2] in kept]
                assert kept == order[: len(kept)]
        assert set(sent) - completing <= set(left), "a confirmed send is missing"
        assert not completed & set(left), "a confirmed settle was undone"
        assert set(left) <= begun
        assert all(left[one] >= count for one, count in counts.items() if one in left), "a delivery was forgotten"


def test_delivery_counts_survive_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "data.db"
    with EmbeddedBroker(path, queues=["q"]) as broker:
        send(broker, "a", "b")
        receive(broker)
        copy = copy_data(path)
    with EmbeddedBroker(copy) as broker:
        assert [one.delivery_count for one in receive(broker, count=2)] == [2, 1]


def test_a_settlement_is_on_disk_when_settle_returns(tmp_path: Path) -> None:
    path = tmp_path / "data.db"
    with EmbeddedBroker(path, queues=["q"]) as broker:
        send(broker, "a", "b")
        (message,) = receive(broker)
        settle(broker, COMPLETE, message)
        copy = copy_data(path)
    with EmbeddedBroker(copy) as broker:
        assert peek(broker) == ["b"]
        assert settle(broker, COMPLETE, message) == [None]


def test_sends_settlements_and_states_are_committed_with_full_sync(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path / "data.db", queues=["q"]) as broker:
        levels: list[tuple[str, int]] = []

        def note(operation: str) -> None:
            levels.append((operation, broker._core.connection.execute("PRAGMA synchronous").fetchone()[0]))

        receive(broker)
        send(broker, "a")
        note("send")
        (message,) = receive(broker)
        settle(broker, COMPLETE, message)
        note("settle")
        receive(broker)
        broker.set_state("q", "s", "A", b"state").result()
        note("state")
        assert levels == [("send", 2), ("settle", 2), ("state", 2)]
        assert broker._core.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.usefixtures("unhurried")
def test_concurrent_sends_share_a_commit_and_are_on_disk_when_they_return(tmp_path: Path) -> None:
    path = tmp_path / "data.db"
    with EmbeddedBroker(path, queues=["q"]) as broker:
        commits: list[str] = []
        broker._core.connection.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
        held, free = threading.Event(), threading.Event()

        def hold(tx: Transaction) -> None:
            held.set()
            assert free.wait(10)

        def send_and_look(number: int) -> tuple[int]:
            send(broker, f"{number}")
            with closing(sqlite3.connect(copy_data(path))) as copy:
                found: tuple[int] = copy.execute(
                    "SELECT count(*) FROM messages WHERE body = ?", (f"{number}".encode(),)
                ).fetchone()
            return found

        holder = Background(lambda: broker._core.perform(hold))
        assert held.wait(10)
        senders = [Background(lambda number=number: send_and_look(number)) for number in range(20)]
        eventually(lambda: len(broker._core.commits._queue) == 20)
        free.set()
        holder.result()
        assert [sender.result() for sender in senders] == [(1,)] * 20
        assert len(commits) == 2, "one commit of the held job, one of all sends"


@pytest.mark.parametrize("cut", [1, 100, 5000])
def test_a_damaged_end_of_the_log_loses_only_the_last_transactions(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "data.db"
    with EmbeddedBroker(path, queues=["q"]) as broker:
        for number in range(30):
            send(broker, f"{number}")
        copy = copy_data(path)
    log = Path(f"{copy}-wal")
    os.truncate(log, log.stat().st_size - cut)
    with EmbeddedBroker(copy) as broker:
        left = peek(broker)
        assert left == [f"{number}" for number in range(len(left))]
        assert 25 <= len(left) <= 29
        send(broker, "more")
        assert accept(broker) == "s"
