"""The data file of the embedded broker: one owner, and a clear error where it cannot be used, without harm to it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from azsession import ConfigurationError, ProviderError
from azsession.broker.embedded import EmbeddedBroker
from azsession.broker.embedded.database_file import SCHEMA_VERSION
from azsession.broker.embedded.group_commit import Transaction
from azsession.queues import QueueSettings
from tests.conftest import eventually

from . import COMPLETE, DEAD_LETTER, Background, HandClock, bodies, dead, messages, peek, receive, send, settle


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.db"


def fill(path: Path, count: int = 200) -> None:
    with EmbeddedBroker(path, queues=["q"]) as broker:
        broker.send("q", messages(*(f"{number}" + "x" * 500 for number in range(count)))).result()


def try_to_open(*paths: Path, unprivileged: bool = False) -> str:
    """Open files one after another in a process of its own; return the line that it said of each."""
    script = (
        "import os, sys\n"
        "from azsession import ConfigurationError\n"
        "from azsession.broker.embedded import EmbeddedBroker\n"
        "if sys.argv[1] == 'yes' and os.getuid() == 0:\n"
        "    os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "for path in sys.argv[2:]:\n"
        "    try:\n"
        "        EmbeddedBroker(path).close()\n"
        "        print('opened')\n"
        "    except ConfigurationError as error:\n"
        "        print(error)\n"
    )
    command = [sys.executable, "-c", script, "yes" if unprivileged else "no", *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


# One owner


def test_a_file_that_is_open_is_refused_in_the_same_process(path: Path) -> None:
    with EmbeddedBroker(path, queues=["q"]) as broker:
        with pytest.raises(ConfigurationError, match="is open in another process or broker"):
            EmbeddedBroker(path)
        send(broker, "a")
        assert peek(broker) == ["a"]
    with EmbeddedBroker(path) as broker:
        assert peek(broker) == ["a"]


def test_a_file_that_is_open_is_refused_in_another_process_by_whatever_name(path: Path) -> None:
    symbolic, hard = path.with_name("symbolic.db"), path.with_name("hard.db")
    with EmbeddedBroker(path, queues=["q"]) as broker:
        symbolic.symlink_to(path)
        hard.hardlink_to(path)
        send(broker, "a")
        said = try_to_open(path, symbolic, hard).splitlines()
        assert len(said) == 3
        assert all("is open in another process or broker" in line for line in said)
        send(broker, "b")
        assert peek(broker) == ["a", "b"]
    assert try_to_open(path) == "opened"


def test_the_file_of_a_killed_process_can_be_opened_at_once(path: Path) -> None:
    script = (
        "import os, sys; from azsession.broker.embedded import EmbeddedBroker\n"
        "EmbeddedBroker(sys.argv[1], queues=['q']); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=False, timeout=60)
    with EmbeddedBroker(path) as broker:
        assert [queue.name for queue in broker.list_queues().result()] == ["q"]


def test_a_broker_that_could_not_make_its_queues_lets_the_file_go(path: Path) -> None:
    with pytest.raises(ValueError, match="queue name"):
        EmbeddedBroker(path, queues=["fine", "not fine"])
    EmbeddedBroker(path).close()


def test_closing_twice_is_fine_and_a_closed_broker_says_so(path: Path) -> None:
    broker = EmbeddedBroker(path, queues=["q"])
    broker.close()
    broker.close()
    broker.stop_waiting()
    for call in (lambda: send(broker, "a"), lambda: receive(broker, timeout=60)):
        with pytest.raises(ProviderError, match="the broker is closed"):
            call()


# Files that are not what they should be


def garble(path: Path, offset: int, length: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xa5" * length)


def interior_pages(path: Path) -> list[int]:
    """Return the pages that trees have their roots in, the first page's aside."""
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT rootpage FROM sqlite_schema WHERE rootpage > 1")]


def test_every_overwritten_tree_page_is_found_when_the_file_is_opened(path: Path) -> None:
    fill(path)
    whole = path.read_bytes()
    for page in interior_pages(path):
        path.write_bytes(whole)
        garble(path, (page - 1) * 4096, 4096)
        damaged = path.read_bytes()
        with pytest.raises(ConfigurationError, match="damaged"):
            EmbeddedBroker(path)
        assert path.read_bytes() == damaged, "the file was not changed"
    path.write_bytes(whole)
    with EmbeddedBroker(path) as broker:
        assert len(peek(broker)) == 200


def test_a_damaged_file_is_left_as_it_is_together_with_its_log(path: Path, tmp_path: Path) -> None:
    fill(path)
    copy = tmp_path / "copy.db"
    with EmbeddedBroker(path) as broker:
        send(broker, "the newest")
        # As a killed process leaves it: the newest messages are in the log.
        for suffix in ("", "-wal"):
            copy.with_name(f"copy.db{suffix}").write_bytes(path.with_name(f"{path.name}{suffix}").read_bytes())
    garble(copy, 4096 * 20, 4096 * 10)
    damaged = [copy.read_bytes(), copy.with_name("copy.db-wal").read_bytes()]
    with pytest.raises(ConfigurationError, match=r"is damaged .*; it was not changed"):
        EmbeddedBroker(copy)
    assert [copy.read_bytes(), copy.with_name("copy.db-wal").read_bytes()] == damaged


def test_an_overwritten_page_of_messages_is_found_when_the_file_is_opened(path: Path) -> None:
    fill(path)
    garble(path, path.stat().st_size // 2 // 4096 * 4096, 4096)
    with pytest.raises(ConfigurationError, match="damaged"):
        EmbeddedBroker(path)


@pytest.mark.parametrize("part", [0.05, 0.5, 0.9])
def test_a_truncated_file_is_refused(path: Path, part: float) -> None:
    fill(path)
    os.truncate(path, int(path.stat().st_size * part))
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="damaged"):
        EmbeddedBroker(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to look at\n" * 100, b"short", b"\0" * 8192])
def test_garbage_is_refused_and_left_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="damaged or not an azsession data file"):
        EmbeddedBroker(path)
    assert path.read_bytes() == content


def test_a_file_without_its_tables_is_refused(path: Path) -> None:
    fill(path, 1)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE queues")
    with pytest.raises(ConfigurationError, match="damaged"):
        EmbeddedBroker(path)
    with pytest.raises(ConfigurationError, match="damaged"):
        EmbeddedBroker(path)


def test_a_file_whose_settings_are_garbled_is_refused(path: Path) -> None:
    fill(path, 1)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE queues SET settings = '{\"unheard_of\": 1}'")
        connection.commit()
    with pytest.raises(ConfigurationError, match="damaged"):
        EmbeddedBroker(path)


def test_a_newer_schema_is_refused_and_left_as_it_is(path: Path) -> None:
    fill(path, 1)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match=r"newer azsession .*upgrade azsession"):
        EmbeddedBroker(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_another_programs_sqlite_file_is_refused_and_left_as_it_is(path: Path, mode: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode={mode}")
        connection.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="another program"):
        EmbeddedBroker(path)
    assert path.read_bytes() == before


def test_an_empty_file_is_a_new_one(path: Path) -> None:
    path.touch()
    fill(path, 1)
    with EmbeddedBroker(path) as broker:
        assert len(peek(broker)) == 1


def test_a_folder_or_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be opened: unable to open"):
        EmbeddedBroker(tmp_path)
    with pytest.raises(ConfigurationError, match="its directory does not exist"):
        EmbeddedBroker(tmp_path / "missing" / "data.db")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may look into, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="azsession-files-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize(("folder_mode", "file_mode"), [(0o777, 0o444), (0o555, 0o666), (0o555, 0o444), (0o555, None)])
def test_a_file_or_folder_that_cannot_be_written_is_refused(
    open_folder: Path, folder_mode: int, file_mode: int | None
) -> None:
    path = open_folder / "data.db"
    if file_mode is not None:
        fill(path, 3)
        path.chmod(file_mode)
    open_folder.chmod(folder_mode)
    before = path.read_bytes() if path.exists() else None
    said = try_to_open(path, unprivileged=True)
    assert "check its permissions and those of its directory" in said
    assert str(path) in said
    assert (path.read_bytes() if path.exists() else None) == before
    open_folder.chmod(0o755)
    if file_mode is not None:
        path.chmod(0o644)
        with EmbeddedBroker(path) as broker:
            assert len(peek(broker)) == 3


# A full disk


class Disk:
    """Makes the broker's disk full, and free again."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self._run = broker._core.connection.execute

    def fill(self) -> None:
        (pages,) = self._run("PRAGMA page_count").fetchone()
        self._run(f"PRAGMA max_page_count={pages}")

    def free(self) -> None:
        self._run("PRAGMA max_page_count=1000000")


BIG = "x" * 50_000


def test_a_send_to_a_full_disk_fails_clearly_and_changes_nothing(path: Path) -> None:
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


def test_a_send_that_failed_wakes_nobody_and_makes_no_queue(path: Path) -> None:
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


def test_messages_of_a_receive_that_failed_are_received_again(path: Path) -> None:
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


def test_messages_of_a_settle_that_failed_can_be_settled_again(path: Path) -> None:
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


def test_a_failed_state_or_dead_letter_leaves_the_session_as_it_was(path: Path) -> None:
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


def test_others_in_the_same_transaction_do_not_fail_with_the_one_that_is_too_big(path: Path) -> None:
    with EmbeddedBroker(path, queues=["q"]) as broker:
        disk = Disk(broker)
        send(broker, "a", "b", BIG)
        received = receive(broker, "A", 3)
        # Frees the pages of the big one, for the small ones of this test.
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


def test_what_time_brings_waits_for_a_full_disk_to_be_freed(path: Path) -> None:
    clock = HandClock()
    with EmbeddedBroker(path, clock=clock) as broker:
        broker.create_queue("q", QueueSettings(dead_letter_on_expiration=True)).result()
        disk = Disk(broker)
        send(broker, *(f"{number}" for number in range(400)), time_to_live=10)
        disk.fill()
        broker._core.connection.execute("PRAGMA query_only=ON")
        clock.advance(10)
        with pytest.raises(ProviderError, match="nothing was changed"):
            receive(broker)
        broker._core.connection.execute("PRAGMA query_only=OFF")
        disk.free()
        assert receive(broker) == []
        assert len(dead(broker)) == 400
