"""Code that the commands share: the connection options, progress, and how messages are shown."""

from __future__ import annotations

import json
import os
import re
from typing import Any

import pytest
from rich.cells import cell_len

from azsession import Message, ServiceBusProvider
from azsession.testing import AzsessionServer

from ..conftest import WEBHOOKS
from ..support.processes import PATIENCE, assert_one_line, run_here, start


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_missing_connection_string_names_the_variable_to_set() -> None:
    assert_one_line(run_here("sessions", "q"), "--connection-string", "SERVICEBUS_CONNECTION_STRING", "azsession serve")


def test_send_shows_a_progress_bar_on_a_terminal(azsession_server: AzsessionServer) -> None:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    process = start("send", "q", "--file", WEBHOOKS, connection_string=azsession_server.connection_string, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux reports a closed terminal this way.
            break
        if not part:
            break
        shown += part
    os.close(ours)
    out, _ = process.communicate(timeout=PATIENCE)
    assert b"sending to q" in shown
    assert b"329" in shown
    assert out == "sent 329 messages in 70 sessions to q\n"


def test_a_binary_body_is_shown_as_marked_base64(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    azsession_provider.send_message("q", Message(b"\xff\x00", session_id="s", subject="raw", attributes={"n": 1}))
    text = azsession_server.connection_string
    [peeked] = _lines(run_here("peek", "q", "s", "--json", connection_string=text).stdout)
    assert (peeked["body"], peeked["body_encoding"], peeked["state"]) == ("/wA=", "base64", "Active")
    assert (peeked["subject"], peeked["attributes"]) == ("raw", {"n": 1})
    assert "base64: /wA=" in run_here("receive", "q", "s", "--complete", connection_string=text).stdout


def test_control_characters_of_a_body_are_escaped(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    azsession_provider.send_message("q", Message("\x1b[2J[red]\u202eevil", session_id="[bold]s"))
    text = azsession_server.connection_string
    for ended in (run_here("peek", "q", "[bold]s", connection_string=text), run_here("receive", "q", connection_string=text)):
        assert "\\x1b[2J[red]\\u202eevil" in ended.stdout
        assert not {"\x1b", "\u202e"} & set(ended.stdout)
    assert "[bold]s" in ended.stdout


def test_a_table_without_a_terminal_is_neither_folded_nor_cut(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    names = ["x" * 120, "short", "世界"]
    body = "word " * 2000 + "end"
    azsession_provider.send_messages("q" * 200, [Message(body, session_id=name) for name in names])
    text = azsession_server.connection_string
    listed = run_here("sessions", "q" * 200, connection_string=text).stdout.splitlines()
    assert [line.split() for line in listed] == [
        ["session", "messages", "locked", "until", "holder"],
        *([name, "1"] for name in sorted(names)),
    ]
    # The numbers are below each other, although a wide character takes two columns.
    assert len({cell_len(line[: line.rindex("1") + 1]) for line in listed[1:]}) == 1
    [header, line] = run_here("peek", "q" * 200, "short", connection_string=text).stdout.splitlines()
    assert line.endswith(body)
    assert line.index("word") == header.index("body")
    queues = run_here("queue", "list", connection_string=text).stdout.splitlines()
    assert [line.split()[0] for line in queues] == ["queue", "q" * 200]


def test_a_value_with_line_breaks_stays_in_its_row(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    azsession_provider.send_message("q", Message("x", session_id="s"))
    with azsession_provider.create_session_client("q", "s") as session:
        session.dead_letter_session("first\nsecond\tthird")
    shown = run_here("dead-letters", "list", "q", connection_string=azsession_server.connection_string).stdout
    assert "first\\x0asecond\\x09third" in shown.splitlines()[1]


def test_a_table_on_a_terminal_has_its_width(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    azsession_provider.send_message("q", Message("word " * 100, session_id="s"))
    ours, theirs = os.openpty()
    command = ("peek", "q", "s")
    process = start(*command, connection_string=azsession_server.connection_string, env={"COLUMNS": "60"}, stdout=theirs)
    os.close(theirs)
    shown = b""
    while part := _read(ours):
        shown += part
    os.close(ours)
    process.communicate(timeout=PATIENCE)
    lines = re.sub("\x1b\\[[0-9;]*m", "", shown.decode()).splitlines()
    assert len(lines) == 2
    assert max(map(cell_len, lines)) <= 60
    assert lines[1].rstrip().endswith("…")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux reports a closed terminal this way.
        return b""
