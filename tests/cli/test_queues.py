"""`azsession queue` and `sessions` with a real gateway."""

from __future__ import annotations

import json
import os
import socket

import attrs
import pytest

from azsession import Message, QueueSettings, ServiceBusProvider
from azsession.testing import AzsessionServer

from ..support.processes import assert_one_line, run_here


def test_a_queue_with_every_setting_is_created_shown_listed_and_deleted(azsession_server: AzsessionServer) -> None:
    text = azsession_server.connection_string
    settings = {
        "lock_duration": 12.5,
        "max_delivery_count": 3,
        "default_time_to_live": 3600.0,
        "dead_letter_on_expiration": True,
        "requires_duplicate_detection": True,
        "duplicate_detection_window": 90.0,
        "sessions_expire_together": True,
    }
    assert set(settings) == {field.name for field in attrs.fields(QueueSettings)}
    options = []
    for name, value in settings.items():
        options += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    made = run_here("queue", "create", "orders", *options, connection_string=text)
    assert (made.returncode, made.stdout, made.stderr) == (0, "created orders\n", "")
    again = run_here("queue", "create", "orders", *options, "--json", connection_string=text)
    assert json.loads(again.stdout) == {"name": "orders", "created": False}
    assert_one_line(run_here("queue", "create", "orders", connection_string=text), "other settings")

    shown = json.loads(run_here("queue", "show", "orders", "--json", connection_string=text).stdout)
    assert shown == {"name": "orders", "active_count": 0, "dead_letter_count": 0, **settings}
    assert json.loads(run_here("queue", "list", "--json", connection_string=text).stdout) == {"name": "orders", **settings}
    table = run_here("queue", "show", "orders", connection_string=text).stdout
    for words in ("orders", "12.5 s", "3600 s", "dead-lettered, all of a session together", "dropped within 90 s"):
        assert words in table
    assert run_here("queue", "delete", "orders", connection_string=text).stdout == "deleted orders\n"
    assert_one_line(run_here("queue", "show", "orders", connection_string=text), "no queue 'orders'")
    assert run_here("queue", "list", "--json", connection_string=text).stdout == ""


@pytest.mark.parametrize(
    "setting", [("--lock-duration", "301"), ("--max-delivery-count", "0"), ("--default-time-to-live", "0")]
)
def test_a_setting_out_of_range_is_wrong_usage(setting: tuple[str, str]) -> None:
    name = setting[0].removeprefix("--").replace("-", "_")
    assert_one_line(run_here("queue", "create", "q", *setting), name, "--help", status=2)


def test_sessions_lists_message_counts_and_locks_in_a_table(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    azsession_provider.send_messages("q", [Message("x", session_id=name) for name in ("a/1", "a/1", "b")])
    with azsession_provider.create_session_client("q", "b") as session:
        session.receive_message(timeout=0)
        ended = run_here("sessions", "q", connection_string=azsession_server.connection_string)
    assert (ended.returncode, ended.stderr) == (0, "3 messages in 2 sessions\n")
    header, first, second = ended.stdout.splitlines()
    assert header.split() == ["session", "messages", "locked", "until", "holder"]
    assert first.split() == ["a/1", "2"]
    assert second.split()[:2] == ["b", "1"]
    holder = f"{socket.gethostname()}:{os.getpid()}, key RootManageSharedAccessKey"
    assert second.endswith(holder)
    assert len(second.split()) == 4 + len(holder.split())


def test_sessions_shows_odd_ids_in_one_line(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    names = ["", "..", "a\nb", "a\x1bb"]
    azsession_provider.send_messages("site1/orders", [Message("x", session_id=name) for name in names])
    shown = run_here("sessions", "site1/orders", connection_string=azsession_server.connection_string).stdout
    assert [line.split()[0] for line in shown.splitlines()[1:]] == ["''", "..", "a\\x0ab", "a\\x1bb"]


@pytest.mark.parametrize(
    "command",
    [
        ("sessions", "typo"),
        ("peek", "typo", "s"),
        ("receive", "typo", "--timeout", "0"),
        ("receive", "typo", "s", "--timeout", "0"),
        ("dead-letters", "list", "typo"),
    ],
)
def test_reading_creates_no_queue(azsession_server: AzsessionServer, command: tuple[str, ...]) -> None:
    text = azsession_server.connection_string
    assert run_here(*command, connection_string=text).returncode == 0
    assert run_here("queue", "list", "--json", connection_string=text).stdout == ""
    run_here("send", "right", "--body", "x", "--session-id", "s", connection_string=text)
    assert json.loads(run_here("queue", "list", "--json", connection_string=text).stdout)["name"] == "right"
