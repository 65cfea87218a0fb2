"""Code that the commands share: the connection options, progress, and how messages are shown."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

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
