"""`azsession send`, `receive` and `peek` with a real gateway."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from azsession import Message, ServiceBusProvider, ValidationError
from azsession.cli.messages import read_messages
from azsession.testing import AzsessionServer

from ..conftest import WEBHOOKS
from ..support.processes import assert_one_line, run, run_here


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_send_sends_a_file_line_by_line_and_receive_keeps_the_order(
    azsession_server: AzsessionServer, webhooks: list[dict[str, Any]]
) -> None:
    text = azsession_server.connection_string
    sent = run("send", "hooks", "--file", WEBHOOKS, "--json", connection_string=text)
    assert (sent.returncode, sent.stderr) == (0, "")
    [report] = _lines(sent.stdout)
    assert (report["queue"], report["sent"], report["sessions"]) == ("hooks", 329, 70)
    assert len(set(report["message_ids"])) == 329

    expected: dict[str, list[str]] = {}
    for line, hook in zip(WEBHOOKS.read_text(encoding="utf-8").splitlines(), webhooks, strict=True):
        expected.setdefault(hook["session_id"], []).append(line)
    listed = run("sessions", "hooks", "--json", connection_string=text)
    assert {line["session_id"]: line["message_count"] for line in _lines(listed.stdout)} == {
        session: len(lines) for session, lines in expected.items()
    }

    longest = max(expected, key=lambda session: len(expected[session]))
    received = run("receive", "hooks", longest, "--complete", "--max", "1000", "--json", connection_string=text)
    assert [line["body"] for line in _lines(received.stdout)] == expected[longest]
    left = run("sessions", "hooks", "--json", connection_string=text)
    assert longest not in {line["session_id"] for line in _lines(left.stdout)}


def test_send_names_a_malformed_line_and_sends_nothing(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, tmp_path: Path
) -> None:
    file = tmp_path / "orders.jsonl"
    file.write_text('{"session_id": "a"}\n{"session_id": "b"\n', encoding="utf-8")
    ended = run("send", "q", "--file", file, connection_string=azsession_server.connection_string)
    assert_one_line(ended, f"{file}, line 2: not JSON", "column 19", "nothing was sent")
    assert azsession_provider.list_sessions("q") == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"[1]", "not a JSON object"),
        (b'{"id": 1}', "no session_id"),
        (b'{"session_id": 42}', "a session id must be a str"),
        (b'{"session_id": ""}', "1 to 128 characters"),
        (b'{"session_id": "\xff"}', "not UTF-8, at byte 17"),
        (b"[" * 100_000, "nesting is too deep"),
    ],
)
def test_the_error_of_a_malformed_line_says_what_is_wrong(line: bytes, why: str) -> None:
    with pytest.raises(ValidationError, match=f"^standard input, line 3: .*{why}.*; nothing was sent$"):
        read_messages(io.BytesIO(b'{"session_id": "a"}\n\n' + line))


def test_the_message_body_is_the_line_byte_for_byte() -> None:
    line = '{ "session_id":"a" , "n":1.50, "name":"Zoë"}'.encode()
    [message] = read_messages(io.BytesIO(b"\xef\xbb\xbf" + line + b"\r\n\r\n"))
    assert (message.body, message.session_id) == (line, "a")


def test_send_reads_standard_input_and_applies_session_id_to_lines_without_one(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    ended = run_here(
        "send", "q", "--file", "-", "--session-id", "rest",
        connection_string=azsession_server.connection_string, stdin=b'{"n": 1}\n{"n": 2, "session_id": "own"}\n',
    )  # fmt: skip
    assert ended.stdout == "sent 2 messages in 2 sessions to q\n"
    assert {info.session_id for info in azsession_provider.list_sessions("q")} == {"rest", "own"}


def test_a_missing_file_is_wrong_usage(azsession_server: AzsessionServer) -> None:
    ended = run_here("send", "q", "--file", "missing.jsonl", connection_string=azsession_server.connection_string)
    assert_one_line(ended, "missing.jsonl", "No such file", status=2)


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
