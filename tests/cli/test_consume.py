"""`azsession consume` as a process: with real webhooks, a kill, and signals while a handler runs."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from azsession import Message, QueueSettings, ServiceBusProvider
from azsession.testing import AzsessionServer

from ..conftest import eventually, whole_lines
from ..processor.helpers import QUEUE, left, locked, send
from ..support.paths import ROOT
from ..support.processes import COMMAND, PATIENCE, Served, assert_one_line, environment, run, run_here
from ..support.told import tell_when_stopping


def consume(connection_string: str, report: Path, handler: str, *options: str, **streams: Any) -> subprocess.Popen[str]:
    """Start a consumer. The caller ends it."""
    command = [*COMMAND, "consume", QUEUE, f"tests.cli.consume_handlers:{handler}", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.Popen(command, cwd=ROOT, text=True, env=environment(connection_string, REPORT=str(report)), **pipes)


def lines(report: Path, *first: object) -> list[list[str]]:
    """Return the lines of a report, split into words, that start with the given words."""
    words = [line.split() for line in whole_lines(report)]
    return [line for line in words if line[: len(first)] == [str(word) for word in first]]


@pytest.mark.parametrize("in_background", [0, 4])
def test_two_processes_handle_webhooks_in_order_although_one_is_killed(
    tmp_path: Path, webhooks: list[dict[str, Any]], in_background: int
) -> None:
    report = tmp_path / "report"
    with Served("--data", tmp_path / "data.db") as server, ServiceBusProvider.from_connection_string(server.line) as provider:
        # The lock ends some seconds after the kill. A renewal comes in its middle, also on a slow machine.
        provider.create_queue(QUEUE, QueueSettings(lock_duration=8))
        provider.send_messages(QUEUE, [Message(json.dumps(event), session_id=event["session_id"]) for event in webhooks])
        options = ("--max-concurrent-sessions", "16", "--prefetch", "3", "--settle-in-background", str(in_background))
        victim = consume(server.line, report, "webhook", *options, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        other = consume(server.line, report, "webhook", *options, "--json")
        try:
            eventually(lambda: len(lines(report, victim.pid)) >= 20, seconds=60)
            victim.kill()
            victim.wait()
            eventually(lambda: left(provider) == 0, seconds=60)
            other.terminate()
            out, err = other.communicate(timeout=PATIENCE)
        finally:
            for process in (victim, other):
                process.kill()
                process.communicate()
        assert (other.returncode, locked(provider)) == (0, [])
        # On a slow machine, the numbers of the first minute are there, too.
        assert [line for line in err.splitlines() if " a second" not in line] == [f"consuming {QUEUE}; Ctrl-C ends it"]
        assert provider.get_queue(QUEUE).dead_letter_count == 0
    handled = [(pid, session_id, int(position)) for pid, _, session_id, position, _ in lines(report)]
    assert json.loads(out)["messages_done"] == len([1 for pid, *_ in handled if pid == str(other.pid)])
    by_session: dict[str, list[int]] = defaultdict(list)
    for _, session_id, position in handled:
        by_session[session_id].append(position)
    expected: dict[str, list[int]] = defaultdict(list)
    for event in webhooks:
        expected[quote(event["session_id"], safe="")].append(event["position"])
    # In order. Only unsettled messages of the killed process come twice: the last ones of each of its sessions.
    assert {name: list(dict.fromkeys(positions)) for name, positions in by_session.items()} == expected
    of_victim: dict[str, list[int]] = defaultdict(list)
    of_other: dict[str, list[int]] = defaultdict(list)
    for pid, session_id, position in handled:
        (of_victim if pid == str(victim.pid) else of_other)[session_id].append(position)
    for positions in (*of_victim.values(), *of_other.values()):
        assert positions == sorted(positions)
    again = [one for one, times in Counter(one[1:] for one in handled).items() if times > 1]
    assert all(position in of_victim[session_id][-1 - in_background :] for session_id, position in again)
    assert len(again) <= 16 * (1 + in_background)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_the_running_handler_finish_and_returns_the_other_messages(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, tmp_path: Path, number: int
) -> None:
    report = tmp_path / "report"
    send(azsession_provider, "a", ["1", "2", "3"])
    closed = ("--on-session-closed", "tests.cli.consume_handlers:closed")
    with consume(azsession_server.connection_string, report, "until_told", *closed) as process:
        eventually(lambda: lines(report, process.pid, "began"), seconds=60)
        process.send_signal(number)
        # The process starts no further handler.
        assert process.poll() is None
        tell_when_stopping(report)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (0, "orders: 1 message of 1 session done\n")
    assert err == f"consuming {QUEUE}; Ctrl-C ends it\n"
    assert [line[1:] for line in lines(report)] == [["began", "1"], ["ended", "1"], ["closed", "a"]]
    assert (left(azsession_provider), locked(azsession_provider)) == (2, [])


def test_until_empty_ends_the_command_after_the_last_message(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    for name in ("a", "b"):
        send(azsession_provider, name, ["1", "2"])
    ended = run("consume", QUEUE, "builtins:print", "--until-empty", connection_string=azsession_server.connection_string)
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (0, "orders: 4 messages of 2 sessions done")
    assert (left(azsession_provider), locked(azsession_provider)) == (0, [])


def test_a_second_signal_releases_the_session_of_a_running_handler(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    send(azsession_provider, "a", ["1"])
    with consume(azsession_server.connection_string, report, "until_told") as process:
        eventually(lambda: lines(report, process.pid, "began"), seconds=60)
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            process.terminate()
            time.sleep(0.1)
        out, err = process.communicate(timeout=PATIENCE)
    # A third signal, if there was one, ended the process.
    assert process.returncode in (1, 128 + signal.SIGTERM, -signal.SIGTERM), (out, err)
    assert (left(azsession_provider), locked(azsession_provider)) == (1, [])


def test_a_terminal_shows_a_live_view(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, tmp_path: Path
) -> None:
    send(azsession_provider, "a", ["1"])
    ours, theirs = pty.openpty()
    process = consume(azsession_server.connection_string, tmp_path / "report", "refuse", stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while b"1 dead-lettered" not in shown:
            shown += os.read(ours, 4096)
        process.terminate()
        out, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.communicate()
        os.close(ours)
    assert (process.returncode, out) == (0, "orders: 0 messages of 1 session done, 1 dead-lettered\n")


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        ("handle", ["not of the form module:function"]),
        ("tests.cli.missing:handle", ["ModuleNotFoundError"]),
        ("tests.cli.consume_handlers:missing", ["AttributeError"]),
        ("tests.cli.consume_handlers:NOT_A_FUNCTION", ["must be a function, but it is of type int"]),
    ],
)
def test_an_invalid_handler_is_named_in_one_line(azsession_server: AzsessionServer, handler: str, words: list[str]) -> None:
    ended = run_here("consume", QUEUE, handler, connection_string=azsession_server.connection_string)
    assert_one_line(ended, *words, status=2)


def test_a_missing_queue_prints_one_line(tmp_path: Path) -> None:
    with Served("--data", tmp_path / "data.db") as server:
        ended = run("consume", QUEUE, "json:loads", connection_string=server.line)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("azsession: ")
    assert "Traceback" not in ended.stderr


def test_metrics_are_served_on_the_port_that_the_option_names(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    send(azsession_provider, "a", ["1"])
    options = ("--until-empty", "--metrics-port", "0", "--metrics-host", "localhost")
    ended = run("consume", QUEUE, "builtins:print", *options, connection_string=azsession_server.connection_string)
    assert ended.returncode == 0
    assert "metrics http://localhost:" in ended.stderr
