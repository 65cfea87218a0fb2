"""The data file of the embedded broker: one owner, and clear errors for files that cannot be used, which stay unchanged."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from azsession import ConfigurationError, ProviderError
from azsession.broker.embedded import EmbeddedBroker
from azsession.broker.embedded.database_file import SCHEMA_VERSION

from .helpers import messages, peek, receive, send


def fill(path: Path, count: int = 200) -> None:
    with EmbeddedBroker(path, queues=["q"]) as broker:
        broker.send("q", messages(*(f"{number}" + "x" * 500 for number in range(count)))).result()


def try_to_open(*paths: Path, unprivileged: bool = False) -> str:
    """Open files one after another in another process. Return a line for each: ``opened``, or the error."""
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


def test_a_file_cannot_be_opened_twice_in_one_process(path: Path) -> None:
    with EmbeddedBroker(path, queues=["q"]) as broker:
        with pytest.raises(ConfigurationError, match="is open in another process or broker"):
            EmbeddedBroker(path)
        send(broker, "a")
        assert peek(broker) == ["a"]
    with EmbeddedBroker(path) as broker:
        assert peek(broker) == ["a"]


def test_a_file_cannot_be_opened_in_another_process_under_any_of_its_names(path: Path) -> None:
    symbolic, hard = path.with_name("symbolic.db"), path.with_name("hard.db")
    with EmbeddedBroker(path, queues=["q"]) as broker:
        symbolic.symlink_to(path)
        hard.hardlink_to(path)
        send(broker, "a")
        output = try_to_open(path, symbolic, hard).splitlines()
        assert len(output) == 3
        assert all("is open in another process or broker" in line for line in output)
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


def test_a_broker_that_fails_to_create_its_queues_closes_the_file(path: Path) -> None:
    with pytest.raises(ValueError, match="queue name"):
        EmbeddedBroker(path, queues=["fine", "not fine"])
    EmbeddedBroker(path).close()


def test_a_broker_can_be_closed_twice_and_then_refuses_operations(path: Path) -> None:
    broker = EmbeddedBroker(path, queues=["q"])
    broker.close()
    broker.close()
    broker.stop_waiting()
    for call in (lambda: send(broker, "a"), lambda: receive(broker, timeout=60)):
        with pytest.raises(ProviderError, match="the broker is closed"):
            call()


# Damaged files


def garble(path: Path, offset: int, length: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xa5" * length)


def root_pages(path: Path) -> list[int]:
    """Return the root pages of all tables and indexes."""
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT rootpage FROM sqlite_schema WHERE rootpage > 1")]


def test_damage_of_any_root_page_is_found_when_the_file_is_opened(path: Path) -> None:
    fill(path)
    whole = path.read_bytes()
    for page in root_pages(path):
        path.write_bytes(whole)
        garble(path, (page - 1) * 4096, 4096)
        damaged = path.read_bytes()
        with pytest.raises(ConfigurationError, match="damaged"):
            EmbeddedBroker(path)
        assert path.read_bytes() == damaged, "the file was not changed"
    path.write_bytes(whole)
    with EmbeddedBroker(path) as broker:
        assert len(peek(broker)) == 200


def test_a_damaged_file_and_its_log_stay_unchanged(path: Path, tmp_path: Path) -> None:
    fill(path)
    copy = tmp_path / "copy.db"
    with EmbeddedBroker(path) as broker:
        send(broker, "the newest")
        # A killed process leaves its newest messages in the log.
        for suffix in ("", "-wal"):
            copy.with_name(f"copy.db{suffix}").write_bytes(path.with_name(f"{path.name}{suffix}").read_bytes())
    garble(copy, 4096 * 20, 4096 * 10)
    damaged = [copy.read_bytes(), copy.with_name("copy.db-wal").read_bytes()]
    with pytest.raises(ConfigurationError, match=r"is damaged .*; it was not changed"):
        EmbeddedBroker(copy)
    assert [copy.read_bytes(), copy.with_name("copy.db-wal").read_bytes()] == damaged


def test_damage_of_a_page_of_messages_is_found_when_the_file_is_opened(path: Path) -> None:
    fill(path)
    garble(path, path.stat().st_size // 2 // 4096 * 4096, 4096)
    with pytest.raises(ConfigurationError, match="damaged"):
        EmbeddedBroker(path)


@pytest.mark.parametrize("part", [0.05, 0.5, 0.9])
def test_a_truncated_file_is_refused_and_stays_unchanged(path: Path, part: float) -> None:
    fill(path)
    os.truncate(path, int(path.stat().st_size * part))
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="damaged"):
        EmbeddedBroker(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to look at\n" * 100, b"short", b"\0" * 8192])
def test_a_file_that_is_no_database_is_refused_and_stays_unchanged(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="damaged or not an azsession data file"):
        EmbeddedBroker(path)
    assert path.read_bytes() == content


def test_a_file_without_the_tables_is_refused(path: Path) -> None:
    fill(path, 1)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE queues")
    with pytest.raises(ConfigurationError, match="damaged"):
        EmbeddedBroker(path)
    with pytest.raises(ConfigurationError, match="damaged"):
        EmbeddedBroker(path)


def test_a_file_with_unknown_queue_settings_is_refused(path: Path) -> None:
    fill(path, 1)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE queues SET settings = '{\"unheard_of\": 1}'")
        connection.commit()
    with pytest.raises(ConfigurationError, match="damaged"):
        EmbeddedBroker(path)


def test_a_file_of_a_newer_version_is_refused_and_stays_unchanged(path: Path) -> None:
    fill(path, 1)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match=r"newer azsession .*upgrade azsession"):
        EmbeddedBroker(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_an_sqlite_file_of_another_program_is_refused_and_stays_unchanged(path: Path, mode: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode={mode}")
        connection.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="another program"):
        EmbeddedBroker(path)
    assert path.read_bytes() == before


def test_an_empty_file_is_used_as_a_new_one(path: Path) -> None:
    path.touch()
    fill(path, 1)
    with EmbeddedBroker(path) as broker:
        assert len(peek(broker)) == 1


def test_a_directory_or_a_path_in_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be opened: unable to open"):
        EmbeddedBroker(tmp_path)
    with pytest.raises(ConfigurationError, match="its directory does not exist"):
        EmbeddedBroker(tmp_path / "missing" / "data.db")


@pytest.fixture
def public_directory() -> Iterator[Path]:
    """Return a directory that other users can enter, unlike the directories of pytest."""
    directory = Path(tempfile.mkdtemp(prefix="azsession-files-"))
    directory.chmod(0o755)
    yield directory
    directory.chmod(0o755)
    shutil.rmtree(directory)


@pytest.mark.parametrize(("directory_mode", "file_mode"), [(0o777, 0o444), (0o555, 0o666), (0o555, 0o444), (0o555, None)])
def test_a_file_or_directory_that_cannot_be_written_is_refused(
    public_directory: Path, directory_mode: int, file_mode: int | None
) -> None:
    path = public_directory / "data.db"
    if file_mode is not None:
        fill(path, 3)
        path.chmod(file_mode)
    public_directory.chmod(directory_mode)
    before = path.read_bytes() if path.exists() else None
    output = try_to_open(path, unprivileged=True)
    assert "check its permissions and those of its directory" in output
    assert str(path) in output
    assert (path.read_bytes() if path.exists() else None) == before
    public_directory.chmod(0o755)
    if file_mode is not None:
        path.chmod(0o644)
        with EmbeddedBroker(path) as broker:
            assert len(peek(broker)) == 3
