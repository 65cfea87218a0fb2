"""Files are readable by their owner only: key files that are not are refused, and data files are created so."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from azsession import ConfigurationError, Message, ServiceBusProvider
from azsession.broker.embedded import EmbeddedBroker
from azsession.cli.keyfile import stored_keys

SECRET = "c2VjcmV0"
LINE = f"app:{SECRET}:Manage\n"

pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes and owners are POSIX's")


@pytest.fixture(autouse=True)
def _open_umask() -> Iterator[None]:
    kept = os.umask(0)
    yield
    os.umask(kept)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(LINE)
    path.chmod(0o600)
    return path


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def given_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a file belong to another user. Without root, this process pretends to be another user instead."""
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)


# Key files


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_key_file_that_only_its_owner_can_read_is_accepted(key_file: Path, mode: int) -> None:
    key_file.chmod(mode)
    assert [key.key for key in stored_keys(key_file)] == [SECRET]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o606, 0o610, 0o602, 0o777])
def test_a_key_file_that_others_can_read_or_change_is_refused(key_file: Path, mode: int) -> None:
    key_file.chmod(mode)
    with pytest.raises(ConfigurationError, match=f"mode {mode:04o}") as caught:
        stored_keys(key_file)
    assert SECRET not in str(caught.value)
    assert key_file.read_text() == LINE


def test_a_key_file_of_another_user_is_refused(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given_away(key_file, monkeypatch)
    with pytest.raises(ConfigurationError, match="another user"):
        stored_keys(key_file)


def test_a_link_to_a_key_file_is_checked_by_its_target(
    key_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Containers mount their secrets as links. The mode of the link means nothing, the owner of the target does.
    link = tmp_path / "link"
    link.symlink_to(key_file)
    assert stored_keys(link)[0].key == SECRET
    key_file.chmod(0o644)
    with pytest.raises(ConfigurationError, match="read by others"):
        stored_keys(link)
    key_file.chmod(0o600)
    given_away(key_file, monkeypatch)
    with pytest.raises(ConfigurationError, match="another user"):
        stored_keys(link)


def test_a_directory_is_refused_as_a_key_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        stored_keys(tmp_path)


def test_a_new_key_file_is_readable_by_its_owner_only_under_any_umask(tmp_path: Path) -> None:
    made = stored_keys(tmp_path / "key")
    assert mode_of(tmp_path / "key") == 0o600
    assert stored_keys(tmp_path / "key") == made
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_file_of_another_user_at_the_key_files_path_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o777)
    planted = tmp_path / "data.db.key"
    planted.write_text("planted:a25vd24=:Manage\n")
    planted.chmod(0o600)
    given_away(planted, monkeypatch)
    with pytest.raises(ConfigurationError, match="another user"):
        stored_keys(planted)


# Data files


def test_a_new_data_file_is_readable_by_its_owner_only_under_any_umask(tmp_path: Path) -> None:
    path = tmp_path / "data.db"
    with ServiceBusProvider.embedded(path, queues=["q"]) as provider:
        provider.send_message("q", Message("x", session_id="s"))
        modes = {each.name: mode_of(each) for each in tmp_path.iterdir()}
    assert modes["data.db"] == 0o600
    assert all(mode & 0o077 == 0 for mode in modes.values()), modes
    assert mode_of(path) == 0o600


def test_a_new_data_file_behind_a_link_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "data.db")
    EmbeddedBroker(tmp_path / "link.db").close()
    assert mode_of(tmp_path / "data.db") == 0o600


def test_the_mode_of_an_existing_data_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "data.db"
    EmbeddedBroker(path, queues=["q"]).close()
    path.chmod(0o640)
    EmbeddedBroker(path).close()
    assert mode_of(path) == 0o640


def test_a_refused_second_open_does_not_release_the_lock_of_a_data_file(tmp_path: Path) -> None:
    path = tmp_path / "data.db"
    first = EmbeddedBroker(path, queues=["q"])
    opening = f"from azsession.broker.embedded import EmbeddedBroker; EmbeddedBroker({str(path)!r})"
    try:
        with pytest.raises(ConfigurationError, match="only one may open it"):
            EmbeddedBroker(path)
        # POSIX releases a process's locks on a file when it closes any descriptor of it. Another process can see that.
        ended = subprocess.run([sys.executable, "-c", opening], capture_output=True, text=True, timeout=60, check=False)
        assert "only one may open it" in ended.stderr
    finally:
        first.close()
