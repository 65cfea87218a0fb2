"""Where `azsession serve` keeps its data file and its key file."""

from __future__ import annotations

import stat
from pathlib import Path

from azsession.cli.serve_azure import ENV_AZURE

from ..namespaces import OwnNamespace
from ..support.processes import Served, assert_one_line, run, run_here
from .helpers import key_of


def test_the_default_data_file_is_in_the_users_data_folder(tmp_path: Path) -> None:
    ended = run("serve", "--host", "192.0.2.1", "--insecure", XDG_DATA_HOME=str(tmp_path / "share"))
    assert_one_line(ended, "cannot listen on 192.0.2.1")
    assert (tmp_path / "share" / "azsession" / "azsession.db").exists()
    assert stat.S_IMODE((tmp_path / "share" / "azsession").stat().st_mode) == 0o700


def test_a_missing_folder_prints_one_line(tmp_path: Path) -> None:
    assert_one_line(run_here("serve", "--data", tmp_path / "missing" / "data.db"), "missing", "folder")


def test_the_key_file_is_in_the_users_folder_and_named_after_the_namespace(namespace: OwnNamespace, tmp_path: Path) -> None:
    environ = {ENV_AZURE: namespace.connection_string, "XDG_DATA_HOME": str(tmp_path)}
    lines = []
    for _ in range(2):
        with Served(env=environ, umask=0) as served:
            lines.append(key_of(served.line))
    assert lines[0] == lines[1]
    (kept,) = tmp_path.rglob("*.*")
    assert kept == tmp_path / "azsession" / "127.0.0.1.key"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
