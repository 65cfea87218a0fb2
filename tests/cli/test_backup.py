"""`azsession backup`, with a gateway as a process."""

from __future__ import annotations

import json
import resource
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from azsession import Message, ServiceBusProvider
from azsession.broker.embedded import check_data_file

from ..conftest import eventually
from ..namespaces import OwnNamespace
from ..support.processes import COMMAND, Served, assert_one_line, environment, run, run_here, start


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A gateway with about 6 MB in its data file."""
    with Served("--data", tmp_path / "data.db", "--auto-create") as served:
        with ServiceBusProvider.from_connection_string(served.line) as provider:
            provider.send_messages("orders", [Message("x" * 60_000, session_id=f"s{n % 3}") for n in range(100)])
        yield served


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "backups"
    folder.mkdir()
    return folder


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


def test_a_gateway_starts_from_a_backup(served: Served, folder: Path) -> None:
    target = folder / "copy.db"
    ended = run("backup", target, connection_string=served.line)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == f"wrote {target} ({target.stat().st_size:,} bytes)\n"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    with Served("--data", target) as restored:
        listed = run_here("sessions", "orders", "--json", connection_string=restored.line)
        assert [json.loads(line)["message_count"] for line in listed.stdout.splitlines()] == [34, 33, 33]


def test_an_existing_file_is_replaced_with_force_only(served: Served, folder: Path) -> None:
    target = folder / "copy.db"
    target.write_bytes(b"precious")
    ended = run_here("backup", target, connection_string=served.line)
    assert_one_line(ended, f"{target} exists already; --force replaces it")
    assert target.read_bytes() == b"precious"
    ended = run_here("backup", target, "--force", "--json", connection_string=served.line)
    assert json.loads(ended.stdout) == {"file": str(target), "size": target.stat().st_size}
    assert names(folder) == ["copy.db"]


def test_a_full_disk_at_the_client_is_reported_and_leaves_nothing(served: Served, folder: Path) -> None:
    ended = subprocess.run(
        [*COMMAND, "backup", str(folder / "copy.db")],
        env=environment(served.line),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
    )
    assert_one_line(ended, "File too large", "copy.db")
    assert names(folder) == []


def test_a_full_disk_at_the_gateway_is_reported_and_leaves_nothing(served: Served, folder: Path, tmp_path: Path) -> None:
    resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (3_000_000, resource.RLIM_INFINITY))
    ended = run_here("backup", folder / "copy.db", connection_string=served.line)
    assert_one_line(ended, "the backup could not be written")
    assert names(folder) == []
    assert not list(tmp_path.glob("*.backup-part*"))
    resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert run_here("backup", folder / "copy.db", connection_string=served.line).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_is_ended_leaves_a_whole_backup_or_none(served: Served, folder: Path, number: int) -> None:
    process = start("backup", folder / "copy.db", connection_string=served.line)
    eventually(lambda: names(folder), seconds=60)
    process.send_signal(number)
    process.communicate(timeout=60)
    left = names(folder)
    if "copy.db" in left:
        # The signal came after the end: the file is complete.
        check_data_file(folder / "copy.db", "the backup")
    if number != signal.SIGKILL:
        assert set(left) <= {"copy.db"}


def test_a_folder_that_cannot_be_written_is_named(served: Served, folder: Path) -> None:
    ended = run_here("backup", folder / "missing" / "copy.db", connection_string=served.line)
    assert_one_line(ended, f"azsession: {folder / 'missing' / 'copy.db'}: No such file or directory")
    ended = run_here("backup", folder, connection_string=served.line)
    assert_one_line(ended, "exists already")
    ended = run_here("backup", folder, "--force", connection_string=served.line)
    assert_one_line(ended, "Is a directory")


def test_a_key_without_the_right_is_told_so(tmp_path: Path) -> None:
    with Served("--memory", "--key", "app:c2VjcmV0:Send,Listen") as served:
        ended = run_here("backup", tmp_path / "copy.db", connection_string=served.line)
    assert_one_line(ended, "the key 'app' lacks the right Manage")
    assert names(tmp_path) == []


def test_in_front_of_azure_it_says_what_to_do(tmp_path: Path, azure_line: str) -> None:
    ended = run_here("backup", tmp_path / "copy.db", connection_string=azure_line)
    assert_one_line(ended, "Azure keeps its messages", "azsession export")


@pytest.fixture
def azure_line() -> Iterator[str]:
    with OwnNamespace() as namespace:
        yield namespace.connection_string
