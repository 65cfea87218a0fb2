"""`azsession key add`, `list` and `revoke`, with a running gateway."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from azsession import (
    AuthenticationFailedError,
    ConfigurationError,
    PermissionDeniedError,
    QueueError,
    ServiceBusProvider,
)
from azsession.cli import key as key_command
from azsession.cli.keyfile import edit_keys, read_keys, write_keys
from azsession.server import AccessKey

from ..conftest import eventually
from ..support.processes import COMMAND, Served, assert_one_line, environment, run, run_here
from .helpers import SECRET, key_of


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait longer until a gateway has noticed a change: it can be slow on a busy machine."""
    monkeypatch.setattr(key_command, "PATIENCE", 60.0)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served("--data", tmp_path / "data.db", "--queue", "orders", "--queue", "other") as served:
        yield served


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A key file that no gateway uses."""
    path = tmp_path / "keys"
    write_keys(path, [AccessKey.parse(f"root:{SECRET}:Manage")])
    return path


def data_of(served: Served) -> str:
    arguments = served.process.args
    assert isinstance(arguments, list)
    return str(arguments[arguments.index("--data") + 1])


def add(served: Served, *arguments: str) -> str:
    """Add a key to the file of a gateway. Return its connection string."""
    ended = run_here("key", "add", *arguments, "--data", data_of(served), connection_string=served.line)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.rstrip("\n")


def test_a_new_key_works_when_the_command_ends_and_has_only_its_rights_and_queues(served: Served) -> None:
    line = add(served, "app", "--rights", "send,Listen", "--queue", "orders")
    with ServiceBusProvider.from_connection_string(line) as provider:
        assert provider.list_sessions("orders") == []
        with pytest.raises(PermissionDeniedError, match="other queues"):
            provider.list_sessions("other")
        with pytest.raises(PermissionDeniedError, match="Manage"):
            provider.get_queue("orders")


def test_a_revoked_key_is_refused_and_its_waiting_receives_end(served: Served) -> None:
    line = add(served, "app", "--rights", "Listen")
    ended: list[QueueError] = []
    with ServiceBusProvider.from_connection_string(line) as provider:

        def wait() -> None:
            with pytest.raises(QueueError) as caught:
                provider.create_session_client("orders", accept_timeout=60)
            ended.append(caught.value)

        waiting = threading.Thread(target=wait)
        waiting.start()
        revoked = run_here("key", "revoke", "app", "--data", data_of(served), connection_string=served.line)
        assert (revoked.returncode, revoked.stdout, revoked.stderr) == (0, "revoked app\n", "")
        with pytest.raises(AuthenticationFailedError):
            provider.list_sessions("orders")
        waiting.join(20)
        assert not waiting.is_alive()
        assert isinstance(ended[0], AuthenticationFailedError)


def test_the_other_keys_stay_and_the_gateway_prints_its_first_key_again(served: Served, tmp_path: Path) -> None:
    add(served, "app", "--rights", "Send")
    before = read_keys(tmp_path / "data.db.key")
    assert [key.name for key in before] == ["RootManageSharedAccessKey", "app"]
    served.end()
    with Served("--data", tmp_path / "data.db") as again:
        assert key_of(again.line) == before[0].key == key_of(served.line)


def test_list_shows_no_secrets(keys: Path) -> None:
    run_here("key", "add", "app", "--rights", "Send,Listen", "--queue", "b", "--queue", "a", "--key-file", keys)
    ended = run_here("key", "list", "--key-file", keys)
    assert [re.split("  +", line) for line in ended.stdout.splitlines()] == [
        ["key", "rights", "queues"],
        ["root", "Manage", "all"],
        ["app", "Send, Listen", "a, b"],
    ]
    as_json = run_here("key", "list", "--key-file", keys, "--json")
    assert [json.loads(line) for line in as_json.stdout.splitlines()] == [
        {"name": "root", "rights": ["Manage"]},
        {"name": "app", "rights": ["Send", "Listen"], "queues": ["a", "b"]},
    ]
    for key in read_keys(keys):
        assert key.key not in ended.stdout + ended.stderr + as_json.stdout


def test_add_prints_json(keys: Path) -> None:
    ended = run_here("key", "add", "app", "--rights", "Metrics", "--key-file", keys, "--url", "http://127.0.0.1:9", "--json")
    printed = json.loads(ended.stdout)
    secret = read_keys(keys)[1].key
    assert printed == {
        "name": "app",
        "rights": ["Metrics"],
        "key_file": str(keys),
        "connection_string": f"Endpoint=http://127.0.0.1:9/;SharedAccessKeyName=app;SharedAccessKey={secret}",
    }
    assert (
        "the gateway at http://127.0.0.1:9 was not asked whether it has noticed, because it does not answer" in ended.stderr
    )


def test_a_gateway_that_would_show_the_token_is_not_asked(keys: Path) -> None:
    ended = run_here("key", "add", "app", "--rights", "Send", "--key-file", keys, "--url", "http://example.com:8720")
    assert ended.stdout.startswith("Endpoint=http://example.com:8720/;")
    assert "http://example.com:8720 was not asked whether it has noticed: plain HTTP" in ended.stderr


def test_without_a_known_gateway_it_says_to_change_the_url(keys: Path) -> None:
    ended = run_here("key", "add", "app", "--rights", "Send", "--key-file", keys)
    assert ended.stdout.startswith("Endpoint=http://127.0.0.1:8720/;")
    assert "put the URL of the gateway in the place of http://127.0.0.1:8720" in ended.stderr


def test_a_gateway_with_keys_of_its_command_line_is_named(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_command, "PATIENCE", 0.5)
    with Served("--memory", "--key", f"own:{SECRET}:Manage") as served:
        ended = run_here("key", "add", "app", "--rights", "Send", "--key-file", keys, connection_string=served.line)
    assert ended.returncode == 0
    assert "was started with --key, or has another key file" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "words", "status"),
    [
        (("add", "root", "--rights", "Send"), ("has a key 'root' already",), 1),
        (("add", "app", "--rights", "Sned"), ("'Sned' is no right", "Send, Listen, Manage, Metrics"), 2),
        (("add", "a b", "--rights", "Send"), ("1 to 64 letters", "'a b'"), 2),
        (("add", "a:b", "--rights", "Send"), ("1 to 64 letters", "'a:b'"), 2),
        (("add", "app", "--rights", "Metrics", "--queue", "q"), ("Metrics", "cannot be limited"), 2),
        (("add", "app", "--rights", "Send", "--queue", "a b"), ("queue",), 2),
        (("add", "app", "--rights", "Send", "--url", "ftp://x"), ("http",), 2),
        (("add", "app", "--rights", "Send", "--data", "x"), ("--data or --key-file, not both",), 2),
        (("revoke", "nobody"), ("has no key 'nobody'",), 1),
        (("revoke", "root"), ("only key",), 1),
        (("revoke", "root", "--force"), ("only key",), 1),
    ],
)
def test_wrong_use_changes_nothing(keys: Path, arguments: tuple[str, ...], words: tuple[str, ...], status: int) -> None:
    before = keys.read_bytes()
    assert_one_line(run_here("key", *arguments, "--key-file", keys), *words, status=status)
    assert keys.read_bytes() == before


def test_the_last_key_that_manages_all_queues_is_revoked_with_force_only(keys: Path) -> None:
    run_here("key", "add", "limited", "--rights", "Manage", "--queue", "q", "--key-file", keys)
    assert_one_line(run_here("key", "revoke", "root", "--key-file", keys), "last key", "--force")
    assert run_here("key", "revoke", "root", "--force", "--key-file", keys, "--json").stdout.startswith("{")
    assert [key.name for key in read_keys(keys)] == ["limited"]


def test_a_missing_file_is_created_only_if_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    for command in (("add", "app", "--rights", "Send"), ("list",), ("revoke", "app")):
        assert_one_line(run_here("key", *command, "--key-file", path), f"there is no key file {path}")
    assert not path.exists()
    assert run_here("key", "add", "app", "--rights", "Send", "--create", "--key-file", path).returncode == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_default_file_is_that_of_the_default_data(tmp_path: Path) -> None:
    ended = run("key", "add", "app", "--rights", "Send", "--create", XDG_DATA_HOME=str(tmp_path), HOME=str(tmp_path))
    assert ended.returncode == 0
    assert [key.name for key in read_keys(tmp_path / "azsession" / "azsession.db.key")] == ["app"]


def test_a_folder_that_cannot_be_written_is_reported(keys: Path) -> None:
    keys.chmod(0o640)
    assert_one_line(run_here("key", "list", "--key-file", keys), "read by others")
    keys.chmod(0o600)
    inner = keys.parent / "none" / "keys"
    ended = run_here("key", "add", "app", "--rights", "Send", "--create", "--key-file", inner)
    assert_one_line(ended, "cannot be written", "No such file")


# The file


def test_editors_at_the_same_time_lose_no_key(keys: Path) -> None:
    def edit(number: int) -> None:
        edit_keys(keys, lambda old: [*old, AccessKey.parse(f"key{number}:x:Send")])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(edit, range(40)))
    assert {key.name for key in read_keys(keys)} == {"root", *(f"key{number}" for number in range(40))}
    assert [one.name for one in keys.parent.iterdir()] == ["keys"]


def test_an_editor_that_is_killed_leaves_the_old_keys_and_no_lock(keys: Path) -> None:
    code = (
        "import sys, time, pathlib; from azsession.cli.keyfile import edit_keys\n"
        "def change(old): print('editing', flush=True); time.sleep(60); return []\n"
        "edit_keys(pathlib.Path(sys.argv[1]), change)"
    )
    editor = subprocess.Popen([COMMAND[0], "-c", code, str(keys)], stdout=subprocess.PIPE, text=True, env=environment())
    assert editor.stdout is not None
    assert editor.stdout.readline() == "editing\n"
    waiting = threading.Thread(target=lambda: edit_keys(keys, lambda old: [*old, AccessKey.parse("later:x:Send")]))
    waiting.start()
    editor.send_signal(signal.SIGKILL)
    editor.communicate()
    waiting.join(60)
    assert [key.name for key in read_keys(keys)] == ["root", "later"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_root_leaves_the_file_to_its_owner(keys: Path) -> None:
    os.chown(keys, 12345, 23456)
    assert run_here("key", "add", "app", "--rights", "Send", "--key-file", keys).returncode == 0
    assert run_here("key", "list", "--key-file", keys).stdout.count("\n") == 3
    found = keys.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12345, 23456, 0o600)
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        read_keys(keys)


def test_a_link_to_the_file_stays(keys: Path) -> None:
    link = keys.with_name("link")
    link.symlink_to(keys)
    edit_keys(link, lambda old: [*old, AccessKey.parse("app:x:Send")])
    assert link.is_symlink()
    assert len(read_keys(keys)) == 2


def test_gateways_with_one_key_file_follow_it_together(tmp_path: Path) -> None:
    shared = tmp_path / "keys"
    with Served("--memory", "--key-file", shared) as first, Served("--memory", "--key-file", shared) as second:
        ended = run_here("key", "add", "app", "--rights", "Manage", "--key-file", shared, connection_string=first.line)
        secret = key_of(ended.stdout.rstrip("\n"))
        endpoint = second.line.partition(";")[0]
        line = f"{endpoint};SharedAccessKeyName=app;SharedAccessKey={secret}"

        def works() -> bool:
            with ServiceBusProvider.from_connection_string(line) as provider:
                try:
                    provider.list_queues()
                except AuthenticationFailedError:
                    return False
            return True

        eventually(works)


def test_a_broken_file_leaves_a_running_gateway_its_keys(served: Served, tmp_path: Path) -> None:
    path = tmp_path / "data.db.key"
    path.write_text("half a ke")
    # Two looks: the first sees that the file is being written to.
    line = add_after_repair(served, path)
    with ServiceBusProvider.from_connection_string(line) as provider:
        assert [queue.name for queue in provider.list_queues()] == ["orders", "other"]


def add_after_repair(served: Served, path: Path) -> str:
    """Wait until the gateway reports the broken file, and return its own connection string."""
    assert served.process.stderr is not None
    for text in served.process.stderr:
        if "damaged" in text:
            assert str(path) in text
            return served.line
    raise AssertionError("the gateway does not report the broken file")
