"""Backups of a running broker: their contents, and everything that can end them."""

from __future__ import annotations

import os
import sqlite3
import stat
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import closing
from pathlib import Path

import pytest

from azsession import ProviderError, ThrottledError
from azsession.broker.calls import Backup
from azsession.broker.embedded import EmbeddedBroker, backup
from azsession.broker.embedded.backup import STEP_PAGES, _Turn, unfinished_file
from azsession.broker.embedded.database_file import check_data_file
from azsession.queues import QueueSettings
from tests.conftest import eventually

from .helpers import (
    COMPLETE,
    DEFER,
    NO_WAIT,
    Background,
    Hold,
    JobLog,
    bodies,
    messages,
    numbers,
    peek,
    receive,
    send,
    settle,
)

#: Bodies that need some hundred steps.
BIG = "x" * 60_000


@pytest.fixture
def stored(path: Path) -> Iterator[EmbeddedBroker]:
    """A broker with a file of about 12 MB, which is many steps."""
    with EmbeddedBroker(path, queues=["q"]) as broker:
        for _ in range(10):
            broker.send("q", messages(*[BIG] * 20, session="big")).result()
        yield broker


def saved(backup: Backup, path: Path) -> Path:
    """Write a backup to a file, and check it."""
    with backup.file as file:
        path.write_bytes(file.read())
    assert path.stat().st_size == backup.size
    check_data_file(path, "the backup")
    return path


def files(path: Path) -> set[str]:
    return {one.name for one in path.parent.iterdir()} - {path.name, f"{path.name}-wal"}


def test_a_backup_opens_as_a_data_file_with_all_messages(stored: EmbeddedBroker, path: Path) -> None:
    send(stored, "a", "b", "c")
    [a, b] = receive(stored, count=2)
    settle(stored, COMPLETE, a)
    settle(stored, DEFER, b)
    stored.set_state("q", "s", "A", b"state").result()
    copy = saved(stored.backup().result(), path.with_name("copy.db"))
    with EmbeddedBroker(copy) as restored:
        found = restored.peek("q", "s", 0, 100).result()
        assert [(one.text(), one.state) for one in found] == [("b", "Deferred"), ("c", "Active")]
        assert restored.get_state("q", "s", "").result() == b"state"
        assert len(restored.peek("q", "big", 0, 1000).result()) == 200


def test_a_backup_of_a_broker_in_memory_opens_as_a_data_file(tmp_path: Path) -> None:
    with EmbeddedBroker(queues=["q"]) as broker:
        send(broker, "a", "b")
        copy = saved(broker.backup(context=NO_WAIT).result(), tmp_path / "copy.db")
    with EmbeddedBroker(copy) as restored:
        assert peek(restored) == ["a", "b"]


def test_a_backup_has_all_that_was_accepted_before_its_end_in_order_and_nothing_twice(
    stored: EmbeddedBroker, path: Path
) -> None:
    stop = threading.Event()
    accepted: dict[str, list[int]] = {name: [] for name in ("s0", "s1", "s2")}
    completed: list[int] = []

    def produce(name: str) -> None:
        number = 0
        while not stop.is_set():
            stored.send("q", messages(str(number), session=name)).result()
            accepted[name].append(number)
            number += 1

    def consume() -> None:
        while not stop.is_set():
            for one in receive(stored, "A", session="s0", count=5):
                assert settle(stored, COMPLETE, one, session="s0") == [None]
                completed.append(int(one.text()))

    threads = [threading.Thread(target=produce, args=(name,)) for name in accepted]
    threads.append(threading.Thread(target=consume))
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: len(completed) > 20)
        for attempt in range(5):
            sent = {name: len(values) for name, values in accepted.items()}
            done = len(completed)
            backup = stored.backup().result()
            now = {name: len(values) + 1 for name, values in accepted.items()}
            copy = saved(backup, path.with_name(f"copy{attempt}.db"))
            with EmbeddedBroker(copy) as restored:
                for name in accepted:
                    there = [int(text) for text in peek_all(restored, name)]
                    # A session's messages are consecutive: completed ones are missing at the beginning.
                    first = there[0] if there else now[name]
                    assert there == list(range(first, first + len(there)))
                    assert first == 0 if name != "s0" else done <= first
                    assert sent[name] <= first + len(there) <= now[name]
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def peek_all(broker: EmbeddedBroker, session: str) -> list[str]:
    found: list[str] = []
    start = 0
    while page := broker.peek("q", session, start, 1000).result():
        found += bodies(page)
        start = page[-1].sequence_number + 1
    return found


def test_other_operations_run_between_the_steps_of_a_backup(stored: EmbeddedBroker) -> None:
    hold = Hold(stored)
    backup = stored.backup(context=NO_WAIT)
    eventually(lambda: len(stored._core.commits._queue) == 1)
    sent = hold.queue(lambda: send(stored, "between"))
    hold.let_go()
    sent.result()
    with backup.result().file as file:
        assert b"between" in file.read()


def test_no_operation_runs_during_a_step(stored: EmbeddedBroker) -> None:
    turn = _Turn(stored._core)
    turn.begin()
    sent = Background(lambda: send(stored, "later"))
    eventually(lambda: len(stored._core.commits._queue) == 1)
    assert sent.running
    turn.end()
    sent.result()


def test_a_transaction_that_was_rolled_back_is_not_in_a_backup(stored: EmbeddedBroker, path: Path) -> None:
    hold = Hold(stored)
    backup = stored.backup(context=NO_WAIT)
    eventually(lambda: len(stored._core.commits._queue) == 1)

    def fail(tx: object) -> None:
        stored._core.connection.execute("UPDATE messages SET body = x'00'")
        raise ValueError("failed")

    failing = hold.queue(lambda: stored._core.commits.run(fail, durable=False))
    hold.let_go()
    with pytest.raises(ValueError, match="failed"):
        failing.result()
    copy = saved(backup.result(), path.with_name("copy.db"))
    with EmbeddedBroker(copy) as restored:
        assert peek_all(restored, "big") == [BIG] * 200


def test_a_second_backup_is_refused_while_one_is_made(stored: EmbeddedBroker) -> None:
    hold = Hold(stored)
    first = stored.backup(context=NO_WAIT)
    with pytest.raises(ThrottledError, match="being made already"):
        stored.backup().result()
    hold.let_go()
    first.result().file.close()
    stored.backup().result().file.close()


def test_a_cancelled_backup_leaves_nothing_and_lets_another_one_start(stored: EmbeddedBroker, path: Path) -> None:
    hold = Hold(stored)
    backup = stored.backup(context=NO_WAIT)
    eventually(lambda: unfinished_file(path).exists())
    assert backup.cancel()
    log = JobLog(stored)
    hold.let_go()
    with pytest.raises(CancelledError):
        backup.result()
    eventually(lambda: not unfinished_file(path).exists())
    eventually(lambda: not stored._backups._running.locked())
    # It does not copy to the end, which takes 20 steps.
    assert len(log.rows) < 5
    stored.backup().result().file.close()
    assert files(path) == set()


def test_closing_the_broker_ends_a_backup(stored: EmbeddedBroker, path: Path) -> None:
    hold = Hold(stored)
    backup = stored.backup(context=NO_WAIT)
    closing_thread = threading.Thread(target=stored.close)
    closing_thread.start()
    eventually(lambda: stored._core._closed)
    hold.let_go()
    closing_thread.join()
    with pytest.raises(ProviderError, match="closed"):
        backup.result(10)
    eventually(lambda: files(path) == set())
    with pytest.raises(ProviderError, match="closed"):
        stored.backup().result()


def test_the_file_of_a_backup_is_private_and_has_no_name_when_it_is_complete(stored: EmbeddedBroker, path: Path) -> None:
    hold = Hold(stored)
    backup = stored.backup(context=NO_WAIT)
    eventually(lambda: unfinished_file(path).exists())
    assert stat.S_IMODE(unfinished_file(path).stat().st_mode) == 0o600
    hold.let_go()
    with backup.result().file:
        assert files(path) == set()


def test_opening_a_data_file_removes_the_backup_that_a_kill_left(path: Path) -> None:
    for suffix in ("", "-journal"):
        Path(f"{unfinished_file(path)}{suffix}").write_bytes(b"half")
    with EmbeddedBroker(path, queues=["q"]):
        assert files(path) == set()


def test_an_open_data_file_keeps_the_backup_that_is_being_made(path: Path) -> None:
    with EmbeddedBroker(path, queues=["q"]):
        unfinished_file(path).write_bytes(b"half")
        with pytest.raises(ValueError, match="only one may open it"):
            EmbeddedBroker(path)
        assert files(path) == {unfinished_file(path).name}


def test_a_backup_that_cannot_be_written_fails_and_the_broker_goes_on(path: Path) -> None:
    with EmbeddedBroker(path, queues=["q"]) as broker:
        send(broker, "a")
        # Nobody can write into a folder of that name.
        unfinished_file(path).mkdir()
        with pytest.raises(ProviderError, match="backup") as caught:
            broker.backup().result()
        assert caught.value.code == "QuotaExceeded"
        send(broker, "b")
        unfinished_file(path).rmdir()
        broker.backup().result().file.close()
        assert peek(broker) == ["a", "b"]


def test_a_forked_child_makes_no_backup(stored: EmbeddedBroker) -> None:
    # The process id decides, so that no fork is needed.
    stored._core._pid = os.getpid() + 1
    try:
        with pytest.raises(ProviderError, match="belongs to the process"):
            stored.backup().result()
    finally:
        stored._core._pid = os.getpid()


# After a restore


def test_a_restored_broker_honours_no_lock_and_no_receipt_of_the_original(path: Path) -> None:
    with EmbeddedBroker(path) as broker:
        broker.create_queue("q", QueueSettings(lock_duration=300)).result()
        send(broker, "a", "b")
        [a] = receive(broker, "A")
        copy = saved(broker.backup().result(), path.with_name("copy.db"))
        with EmbeddedBroker(copy) as restored:
            assert settle(restored, COMPLETE, a) == ["SessionLockLost"]
            with pytest.raises(Exception, match="lost"):
                restored.renew("q", "s", "A").result()
            assert bodies(receive(restored, "B", count=2)) == ["a", "b"]
        assert settle(broker, COMPLETE, a) == [None]


def test_a_restored_broker_reuses_no_sequence_number_of_the_original(path: Path) -> None:
    with EmbeddedBroker(path, queues=["q"]) as broker:
        send(broker, "a")
        copy = saved(broker.backup().result(), path.with_name("copy.db"))
        send(broker, "only here")
        late = numbers(broker)[-1]
        with EmbeddedBroker(copy) as restored:
            send(restored, "only there")
            assert numbers(restored)[0] == numbers(broker)[0]
            assert numbers(restored)[-1] > late + 1_000_000


def test_a_settlement_is_repeated_from_a_backup_that_has_it(path: Path) -> None:
    with EmbeddedBroker(path, queues=["q"]) as broker:
        send(broker, "a")
        [a] = receive(broker, "A")
        settle(broker, COMPLETE, a)
        copy = saved(broker.backup().result(), path.with_name("copy.db"))
    with EmbeddedBroker(copy) as restored:
        assert settle(restored, COMPLETE, a) == [None]
        assert peek(restored) == []


def test_a_backup_needs_no_log_beside_it(stored: EmbeddedBroker, path: Path) -> None:
    copy = saved(stored.backup().result(), path.with_name("copy.db"))
    copy.chmod(0o400)
    with closing(sqlite3.connect(f"{copy.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert connection.execute("PRAGMA page_count").fetchone()[0] > 10 * STEP_PAGES


def test_an_unexpected_error_ends_the_backup(stored: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "SKIPPED_NUMBERS", 1 << 70)  # SQLite stores 64 bits.
    with pytest.raises(OverflowError):
        stored.backup().result(timeout=10)
    monkeypatch.undo()
    stored.backup().result(timeout=10).file.close()


def test_the_error_of_a_broker_in_memory_names_the_folder_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with EmbeddedBroker() as broker, pytest.raises(ProviderError, match="in the folder for temporary files first"):
        broker.backup().result(timeout=10)
