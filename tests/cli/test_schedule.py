"""`azsession schedule`, `cancel` and `purge` with a real gateway."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import pytest

from azsession import Message, ServiceBusProvider
from azsession.testing import AzsessionServer

from ..support.processes import assert_one_line, environment, run_here


def test_a_message_is_scheduled_shown_and_cancelled(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    text = azsession_server.connection_string
    made = run_here("schedule", "q", "--body", "x", "--session-id", "s", "--in", "3600", "--json", connection_string=text)
    report = json.loads(made.stdout)
    due = datetime.fromisoformat(report["scheduled_enqueue_time"])
    assert timedelta(minutes=59) < due - datetime.now(timezone.utc) <= timedelta(hours=1)
    [peeked] = azsession_provider.peek_messages("q", "s")
    assert (peeked.state, peeked.sequence_number) == ("Scheduled", report["sequence_number"])
    ended = run_here("cancel", "q", str(report["sequence_number"]), connection_string=text)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "cancelled 1 message of q\n", "")
    assert azsession_provider.peek_messages("q", "s") == []
    assert_one_line(run_here("cancel", "q", str(report["sequence_number"]), connection_string=text), "scheduled message")


@pytest.mark.parametrize("at", ["2100-01-01T00:00:00", "2100-01-01T00:00:00+0000", "2100-01-01 00:00:00"])
def test_a_message_is_scheduled_at_a_time(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, at: str
) -> None:
    text = azsession_server.connection_string
    made = run_here("schedule", "q", "--body", "x", "--session-id", "", "--at", at, connection_string=text)
    assert made.stdout.startswith("scheduled message 1 in q for ")
    [peeked] = azsession_provider.peek_messages("q", "")
    assert peeked.scheduled_enqueue_time is not None
    assert abs(peeked.scheduled_enqueue_time - datetime(2100, 1, 1, tzinfo=timezone.utc)) < timedelta(days=1)


def test_a_session_and_a_queue_are_purged(azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider) -> None:
    text = azsession_server.connection_string
    azsession_provider.send_messages("q", [Message("x", session_id=name) for name in ("a", "a", "b", "")])
    assert run_here("purge", "q", "--session-id", "", connection_string=text).stdout == "deleted 1 message of q\n"
    assert run_here("purge", "q", "--session-id", "a", connection_string=text).stdout == "deleted 2 messages of q\n"
    ended = run_here("purge", "q", "--all", "--json", connection_string=text)
    assert json.loads(ended.stdout) == {"queue": "q", "deleted": 1}
    assert azsession_provider.list_sessions("q") == []


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("purge", "q"), "--all"),
        (("purge", "q", "--all", "--session-id", "a"), "--all"),
        (("cancel", "q"), "SEQ"),
        (("cancel", "q", "0"), "SEQ"),
        (("schedule", "q", "--body", "x", "--session-id", "s"), "--in"),
        (("schedule", "q", "--body", "x", "--session-id", "s", "--in", "-1"), "--in"),
        (("schedule", "q", "--body", "x", "--in", "1"), "--session-id"),
    ],
)
def test_wrong_usage_is_refused(words: tuple[str, ...], why: str) -> None:
    assert_one_line(run_here(*words), why, status=2)


@pytest.mark.parametrize(
    "at",
    ["yesterday", "2030-01-31", "", "2030-02-31T00:00:00", "0001-01-01T00:00:00+1400", "9999-12-31T23:59:59-1200"],
)
def test_a_time_that_is_malformed_or_outside_of_the_calendar_is_wrong_usage(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, at: str
) -> None:
    text = azsession_server.connection_string
    ended = run_here("schedule", "q", "--body", "x", "--session-id", "s", "--at", at, connection_string=text)
    assert_one_line(ended, f"{at!r} is not a time of the form 2030-01-31T09:30:00", status=2)
    assert azsession_provider.list_queues() == []


@pytest.mark.parametrize(
    ("zone", "at"), [("Asia/Tokyo", datetime.max), ("America/New_York", datetime.min), ("UTC", datetime.max)]
)
def test_a_time_outside_of_the_local_calendar_is_shown_in_its_own_time_zone(zone: str, at: datetime) -> None:
    code = (
        "from datetime import datetime, timezone; from azsession.cli.common import show_instant; "
        f"print(show_instant(datetime.fromisoformat({at.isoformat()!r}).replace(tzinfo=timezone.utc)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment(TZ=zone), capture_output=True, text=True, check=False
    )
    # The C library of some systems leaves the zeros of a short year out.
    assert (ended.stdout.strip().zfill(19), ended.stderr) == (at.isoformat(" ", "seconds"), "")
