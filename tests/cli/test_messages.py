"""`azsession receive` and `peek` with a real gateway."""

from __future__ import annotations

import json
from typing import Any

import pytest

from azsession import Message, ServiceBusProvider
from azsession.testing import AzsessionServer

from ..support.processes import assert_one_line, run_here


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_receive_without_complete_returns_the_messages_to_the_queue(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    azsession_provider.send_messages("q", [Message(f"event {n}", session_id="s") for n in range(3)])
    shown = run_here("receive", "q", connection_string=azsession_server.connection_string)
    assert shown.returncode == 0
    assert [line for line in shown.stdout.splitlines() if line.startswith("event")] == ["event 0", "event 1", "event 2"]
    assert "returned 3 messages of session s to the queue" in shown.stderr
    with azsession_provider.create_session_client("q", "s") as session:
        assert [m.text() for m in session.receive_messages(10, timeout=0)] == ["event 0", "event 1", "event 2"]


def test_receive_completes_at_most_max_messages(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    azsession_provider.send_messages("q", [Message(str(n), session_id="s") for n in range(130)])
    text = azsession_server.connection_string
    ended = run_here("receive", "q", "--complete", "--max", "120", "--json", connection_string=text)
    assert [line["body"] for line in _lines(ended.stdout)] == [str(n) for n in range(120)]
    assert "completed 120 messages of session s" in ended.stderr
    assert azsession_provider.list_sessions("q")[0].message_count == 10


@pytest.mark.parametrize("session", [[], ["s"]])
def test_receive_succeeds_when_there_is_no_message(azsession_server: AzsessionServer, session: list[str]) -> None:
    ended = run_here(
        "receive", "q", *session, "--timeout", "0", "--json", connection_string=azsession_server.connection_string
    )
    assert (ended.returncode, ended.stdout) == (0, "")
    assert "within 0 s" in ended.stderr


def test_a_session_locked_by_another_holder_prints_one_line(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    azsession_provider.send_message("q", Message("x", session_id="s"))
    with azsession_provider.create_session_client("q", "s") as session:
        session.receive_message(timeout=0)
        ended = run_here("receive", "q", "s", "--timeout", "0", connection_string=azsession_server.connection_string)
    assert_one_line(ended, "another holder has this session")


def test_peek_starts_at_a_sequence_number_and_receives_nothing(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    azsession_provider.send_messages("q", [Message(str(n), session_id="s") for n in range(5)])
    text = azsession_server.connection_string
    ended = run_here("peek", "q", "s", "--from", "2", "--max", "3", "--json", connection_string=text)
    assert [(line["sequence_number"], line["body"], line["delivery_count"]) for line in _lines(ended.stdout)] == [
        (2, "1", 0),
        (3, "2", 0),
        (4, "3", 0),
    ]


def test_the_empty_session_id_is_shown_in_quotes(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    text = azsession_server.connection_string
    azsession_server.create_queue("q")
    assert run_here("peek", "q", "", connection_string=text).stderr == "session '' of q has no messages\n"
    azsession_provider.send_message("q", Message("x", session_id=""))
    assert "1 message of session '' to the queue" in run_here("receive", "q", "", connection_string=text).stderr
    assert "1 message of session ''\n" in run_here("receive", "q", "", "--complete", connection_string=text).stderr


def test_receiving_without_complete_counts_no_delivery(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    azsession_provider.send_message("q", Message("x", session_id="s"))
    for _ in range(3):
        shown = run_here("receive", "q", "s", "--json", connection_string=azsession_server.connection_string)
        assert [line["delivery_count"] for line in _lines(shown.stdout)] == [1]
