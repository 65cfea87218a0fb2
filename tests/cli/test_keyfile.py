"""The key file of `azsession serve`: its rights, and its content."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest

from azsession import ConfigurationError
from azsession.cli.keyfile import check_private
from azsession.cli.serve_azure import ENV_AZURE

from ..namespaces import OwnNamespace
from ..support.processes import Served, assert_one_line, run, run_here
from .conftest import QUEUE
from .helpers import SECRET, key_of


def test_only_the_owner_can_read_key_and_data(tmp_path: Path) -> None:
    data = tmp_path / "data.db"
    with Served("--data", data, umask=0):
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes["data.db.key"] == 0o600
    assert all(mode & 0o077 == 0 for mode in modes.values()), modes


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "data.db.key"
    key.write_text(f"app:{SECRET}:Manage\n")
    key.chmod(0o640)
    ended = run("serve", "--port", "0", "--data", tmp_path / "data.db")
    assert_one_line(ended, str(key), "read by others", "0640")
    assert SECRET not in ended.stderr


@pytest.mark.parametrize(
    ("mode", "owner", "user", "is_accepted"),
    [
        (0o440, 0, 10001, True),
        (0o640, 0, 10001, True),
        (0o640, 10001, 10001, False),
        (0o640, 0, 0, False),
        (0o660, 0, 10001, False),
        (0o444, 0, 10001, False),
        (0o400, 10001, 10001, True),
    ],
)
def test_a_group_may_read_a_key_file_of_root_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, owner: int, user: int, is_accepted: bool
) -> None:
    # As Kubernetes and systemd provide secrets to a service that does not run as root.
    found = os.stat_result((stat.S_IFREG | mode, 0, 0, 1, owner, 10001, 0, 0, 0, 0))
    monkeypatch.setattr(os, "geteuid", lambda: user)
    with nullcontext() if is_accepted else pytest.raises(ConfigurationError, match="read by others"):
        check_private(tmp_path / "keys", found)


def test_a_damaged_key_file_is_refused_and_not_changed(tmp_path: Path) -> None:
    key = tmp_path / "data.db.key"
    key.write_text("half a ke")
    key.chmod(0o600)
    assert_one_line(run("serve", "--port", "0", "--data", tmp_path / "data.db"), str(key), "damaged")
    assert key.read_text() == "half a ke"


def test_gateways_that_start_at_the_same_time_create_one_key(serve: Callable[..., Served]) -> None:
    with ThreadPoolExecutor(4) as pool:
        gateways = list(pool.map(lambda _: serve(), range(4)))
    assert len({key_of(served.line) for served in gateways}) == 1


def test_a_key_file_can_limit_the_rights_of_a_key(namespace: OwnNamespace, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("in:first:Send\n\nout:second:Listen\n")
    keys.chmod(0o600)
    with Served("--key-file", keys, env={ENV_AZURE: namespace.connection_string}) as served:
        assert served.line.endswith(";SharedAccessKeyName=in;SharedAccessKey=first")
        sent = run_here("send", QUEUE, "--body", "x", "--session-id", "s", connection_string=served.line)
        assert sent.returncode == 0
        assert_one_line(run_here("sessions", QUEUE, connection_string=served.line), "'in'", "Listen")
        out = served.line.replace("=in;", "=out;").replace("=first", "=second")
        assert json.loads(run_here("sessions", QUEUE, "--json", connection_string=out).stdout)["session_id"] == "s"
    keys.write_text("in:first:Send\nin:second:Listen\n")
    assert_one_line(run("serve", "--port", "0", "--memory", "--key-file", keys), str(keys), "damaged")
