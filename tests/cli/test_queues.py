"""`azsession queue`, `sessions` and `dead-letters` with a real gateway."""

from __future__ import annotations

import json

import attrs

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
    for words in ("orders", "12.5 s", "3600 s", "dead-lettered", "dropped within 90 s"):
        assert words in table
    assert run_here("queue", "delete", "orders", connection_string=text).stdout == "deleted orders\n"
    assert_one_line(run_here("queue", "show", "orders", connection_string=text), "no queue 'orders'")
    assert run_here("queue", "list", "--json", connection_string=text).stdout == ""


def test_a_setting_out_of_range_prints_one_line(azsession_server: AzsessionServer) -> None:
    ended = run_here("queue", "create", "q", "--lock-duration", "1000", connection_string=azsession_server.connection_string)
    assert_one_line(ended, "lock_duration must be 1 to 300 seconds")


def test_sessions_lists_message_counts_and_locks_in_a_table(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    azsession_provider.send_messages("q", [Message("x", session_id=name) for name in ("a/1", "a/1", "b")])
    with azsession_provider.create_session_client("q", "b") as session:
        session.receive_message(timeout=0)
        ended = run_here("sessions", "q", connection_string=azsession_server.connection_string)
    assert (ended.returncode, ended.stderr) == (0, "3 messages in 2 sessions\n")
    header, first, second = ended.stdout.splitlines()
    assert header.split() == ["session", "messages", "locked", "until"]
    assert first.split() == ["a/1", "2"]
    assert second.split()[:2] == ["b", "1"]
    assert len(second.split()) == 4


def _dead_letter(provider: ServiceBusProvider, count: int) -> None:
    provider.send_messages("q", [Message(f"bad {n}", session_id="s") for n in range(count)])
    with provider.create_session_client("q", "s") as session:
        for message in session.receive_messages(count, timeout=0):
            session.dead_letter_message(message, "Unpaid", "no money")


def test_dead_letters_are_listed_resubmitted_and_deleted(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    _dead_letter(azsession_provider, 4)
    text = azsession_server.connection_string
    listed = run_here("dead-letters", "list", "q", "--max", "3", "--json", connection_string=text)
    lines = [json.loads(line) for line in listed.stdout.splitlines()]
    assert [(line["sequence_number"], line["body"], line["dead_letter_reason"]) for line in lines] == [
        (1, "bad 0", "Unpaid"),
        (2, "bad 1", "Unpaid"),
        (3, "bad 2", "Unpaid"),
    ]
    assert listed.stderr == "there are more; continue with --from 4\n"
    assert "Unpaid: no money" in run_here("dead-letters", "list", "q", connection_string=text).stdout

    assert run_here("dead-letters", "resubmit", "q", "2", connection_string=text).stdout == "resubmitted 1 dead letter of q\n"
    assert [m.text() for m in azsession_provider.peek_messages("q", "s")] == ["bad 1"]
    assert_one_line(run_here("dead-letters", "resubmit", "q", "2", connection_string=text), "no dead letter", "2")
    deleted = run_here("dead-letters", "delete", "q", "1", "3", "--json", connection_string=text)
    assert json.loads(deleted.stdout) == {"queue": "q", "deleted": 2}
    assert [m.text() for m in azsession_provider.dead_letters("q")] == ["bad 3"]


def test_resubmit_all_handles_more_dead_letters_than_one_page(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    _dead_letter(azsession_provider, 130)
    ended = run_here("dead-letters", "resubmit", "q", "--all", connection_string=azsession_server.connection_string)
    assert (ended.stdout, ended.stderr) == ("resubmitted 130 dead letters of q\n", "")
    assert azsession_provider.dead_letters("q") == []
    assert azsession_provider.list_sessions("q")[0].message_count == 130


def test_deleting_dead_letters_without_a_selection_is_wrong_usage(azsession_server: AzsessionServer) -> None:
    ended = run_here("dead-letters", "delete", "q", connection_string=azsession_server.connection_string)
    assert_one_line(ended, "--all", status=2)
