"""`azsession demo` as a process, and its options."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from azsession.cli.demo.command import demo
from azsession.cli.demo.verdict import REASON

from ...conftest import WEBHOOKS

COMMAND = [sys.executable, "-m", "azsession", "demo"]


def start(*command: str) -> subprocess.Popen[str]:
    environ = {**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", env=environ)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    return process.returncode, out, err


def test_the_demo_prints_a_table_and_the_verdict() -> None:
    status, out, err = finish(start(*COMMAND))
    assert (status, err) == (0, ""), out
    lines = out.splitlines()
    assert lines[0] == "azsession demo: 289 messages in 24 sessions, 8 workers, over HTTP"
    assert sum(line.startswith("order-") for line in lines) == 24
    assert lines[-1].startswith(
        "All 24 sessions were in order, nothing was lost or doubled: 288 completed, 1 dead-lettered, in "
    )
    assert "\x1b" not in out
    assert len(lines) < 40


def test_the_demo_delivers_the_webhooks_of_a_file_in_order(webhooks: list[dict[str, Any]]) -> None:
    status, out, err = finish(start(*COMMAND, "--file", str(WEBHOOKS), "--workers", "6", "--json"))
    assert (status, err) == (0, ""), out
    result = json.loads(out)
    assert (result["ok"], result["messages"], result["workers"], result["active_left"]) == (True, 329, 6, 0)
    assert result["faults"] == []
    sizes = Counter(webhook["session_id"] for webhook in webhooks)
    assert {session["session_id"]: session["sent"] for session in result["sessions"]} == sizes
    again = [session for session in result["sessions"] if session["abandoned"]]
    assert len(again) == 1
    for session in result["sessions"]:
        assert sorted(set(session["order"])) == list(range(1, session["sent"] + 1))
        assert session["order"] == sorted(session["order"])
        assert session["deliveries"] == session["sent"] + session["abandoned"]
        assert session["completed"] + session["dead_lettered"] == session["sent"]
    assert max(session["renewals"] for session in result["sessions"]) >= 1
    assert [letter["reason"] for letter in result["dead_letters"]] == [REASON]


#: Runs the demo with a broker that stores the first message of each request twice.
SABOTAGE = """
import sys
from azsession.broker.embedded import EmbeddedBroker
from azsession.cli.demo import run as demo_run
demo_run.SLOW = 0.1
send = EmbeddedBroker.send
def send_twice(self, entity, messages, *args, **kwargs):
    return send(self, entity, [messages[0], *messages], *args, **kwargs)
EmbeddedBroker.send = send_twice
from azsession.cli import main
sys.argv = ["azsession", "demo", "--file", sys.argv[1]]
main()
"""


def test_the_demo_fails_if_the_broker_doubles_a_message(tmp_path: Path) -> None:
    file = tmp_path / "two.jsonl"
    file.write_text('{"session_id": "a", "n": 1}\n{"session_id": "a", "n": 2}\n')
    status, out, _ = finish(start(sys.executable, "-c", SABOTAGE, str(file)))
    assert status == 1, out
    assert out.splitlines()[-1].startswith("FAILED: messages doubled in 1 session")


def test_ctrl_c_ends_the_demo_with_status_130() -> None:
    process = start(*COMMAND)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    status, _, err = finish(process)
    assert (status, err.strip()) == (130, "")


BAD_LINES = {
    b"{": "JSON",
    b"[]": "object",
    b'{"a": 1}': "session_id",
    b'{"session_id": true}': "boolean",
    b'{"session_id": "' + b"s" * 129 + b'"}': "at most 128",
    b'{"session_id": "\\ud800"}': "lone surrogate",
    b'{"session_id": "\xff"}': "UTF-8",
    b"[" * 100_000: "JSON",
}


@pytest.mark.parametrize(("line", "reason"), BAD_LINES.items(), ids=range(len(BAD_LINES)))
def test_a_malformed_line_is_named_and_nothing_starts(tmp_path: Path, line: bytes, reason: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_bytes(b'{"session_id": "a"}\n\n' + line + b"\n")
    ended = CliRunner().invoke(demo, ["--file", str(file)])
    assert ended.exit_code == 2
    assert "bad.jsonl, line 3: " in ended.stderr
    assert reason in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_a_file_without_messages_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "empty.jsonl"
    file.write_bytes(content)
    ended = CliRunner().invoke(demo, ["--file", str(file)])
    assert ended.exit_code == 2
    assert "there is no message in " in ended.stderr


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert CliRunner().invoke(demo, ["--file", str(tmp_path / "none.jsonl")]).exit_code == 2
