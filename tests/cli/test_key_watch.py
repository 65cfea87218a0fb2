"""A gateway follows the changes of its key file, and keeps its keys if the file cannot be used."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from azsession.cli import key_watch
from azsession.cli.key_watch import KeyFileWatch
from azsession.server import AccessKey

from ..conftest import eventually


def logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return the records of the module. Threads of earlier tests can log, too."""
    return [record for record in caplog.records if record.name == key_watch.__name__]


class Watched:
    """A key file, its watch, and the names of the keys that the watch has set."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.put("a:first:Manage")
        self.names: list[list[str]] = []
        self.watch = KeyFileWatch(path, interval=0.01)

    def replace(self, keys: Iterable[AccessKey]) -> None:
        self.names.append([key.name for key in keys])

    def put(self, *lines: str) -> None:
        """Replace the file at once."""
        new = self.path.with_name("new")
        new.write_text("".join(f"{line}\n" for line in lines))
        new.chmod(0o600)
        os.replace(new, self.path)

    def look(self) -> list[list[str]]:
        self.watch.look(self.replace)
        return self.names


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "keys")


def test_an_unchanged_file_is_not_read_again(watched: Watched) -> None:
    watched.look()
    assert watched.look() == []


def test_a_replaced_file_counts_at_once(watched: Watched) -> None:
    watched.put("a:first:Manage", "b:second:Send")
    assert watched.look() == [["a", "b"]]
    assert watched.look() == [["a", "b"]]


def test_a_file_that_is_written_in_place_counts_when_it_stays_the_same(watched: Watched) -> None:
    with watched.path.open("a") as file:
        file.write("b:second:Send\n")
        file.flush()
        assert watched.look() == []
        file.write("c:third:Send\n")
        file.flush()
        assert watched.look() == []
    assert watched.look() == [["a", "b", "c"]]


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        (b"half a ke", 0o600, "damaged"),
        (b"", 0o600, "damaged"),
        (b"a:x:Manage\na:y:Send\n", 0o600, "damaged"),
        (b"a:\xff:Manage\n", 0o600, "damaged"),
        (b"a:x:Manage\n", 0o644, "read by others"),
        (b"a:x:Manage\n" * 100_000, 0o600, "more than 1048576 bytes"),
    ],
)
def test_a_file_that_cannot_be_used_is_logged_once_and_changes_nothing(
    watched: Watched, caplog: pytest.LogCaptureFixture, content: bytes, mode: int, why: str
) -> None:
    new = watched.path.with_name("new")
    new.write_bytes(content)
    new.chmod(mode)
    os.replace(new, watched.path)
    watched.look()
    assert watched.look() == []
    [record] = logged(caplog)
    assert (record.levelno, why in record.getMessage()) == (logging.ERROR, True)
    assert "the gateway keeps its keys" in record.getMessage()
    watched.put("b:second:Manage")
    assert watched.look() == [["b"]]


def test_a_file_that_is_gone_is_logged_and_changes_nothing(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    watched.path.unlink()
    watched.look()
    assert watched.look() == []
    assert [record.levelno for record in logged(caplog)] == [logging.ERROR]
    watched.put("b:second:Manage")
    assert watched.look() == [["b"]]


def test_a_new_file_with_the_keys_that_are_used_is_no_change(
    tmp_path: Path, watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "later"
    watch = KeyFileWatch(path, interval=3600)
    # A gateway creates the file at its first start, after the watch.
    os.link(watched.path, path)
    watch.start(watched.replace, [AccessKey.parse("a:first:Manage")])
    watch.look(watched.replace)
    watch.end()
    assert (watched.names, logged(caplog)) == ([], [])


def test_the_thread_notices_a_change_and_ends(watched: Watched) -> None:
    watched.watch.start(watched.replace, [AccessKey.parse("a:first:Manage")])
    watched.put("b:second:Manage")
    eventually(lambda: watched.names == [["b"]])
    watched.watch.end()
    watched.put("c:third:Manage")
    assert watched.names == [["b"]]
