"""Behaviour that all commands share: help, errors and exit statuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import click
import psutil
import pytest

from azsession import Message, ServiceBusProvider
from azsession.cli.group import cli
from azsession.testing import AzsessionServer

from ..conftest import eventually
from ..support.processes import COMMAND, PATIENCE, assert_one_line, environment, run, run_here, start

SECRET = "c2VjcmV0LXNlY3JldC1zZWNyZXQ="


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=PATIENCE, check=False
    )


def _all_commands(command: click.Command = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from _all_commands(below, (*path, name))


def test_every_command_and_every_option_has_a_help_text() -> None:
    for path in _all_commands():
        command: click.Command = cli
        for name in path:
            assert isinstance(command, click.Group)
            command = command.commands[name]
        assert command.help, path
        for parameter in command.params:
            assert not isinstance(parameter, click.Option) or parameter.help, (path, parameter.name)


def test_help_and_version_exit_with_0() -> None:
    shown = run("--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    for name in ("serve", "demo", "send", "receive", "peek", "sessions", "dead-letters", "queue"):
        assert name in shown.stdout
    assert run_here("--version").stdout.startswith("azsession, version ")


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["receive"], ["receive", "q", "--max", "0"], ["send", "q"], ["send", "q", "--body", "without session"]],
)
def test_wrong_usage_prints_one_line_and_exits_with_2(arguments: list[str]) -> None:
    assert_one_line(run_here(*arguments), "--help", status=2)


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ([], ["Usage: azsession [OPTIONS] COMMAND", "demo", "SERVICEBUS_CONNECTION_STRING"]),
        (["queue"], ["Usage: azsession queue [OPTIONS] COMMAND", "create", "Manage right"]),
        (["dead-letters"], ["Usage: azsession dead-letters [OPTIONS] COMMAND", "resubmit", "delete"]),
    ],
)
def test_a_group_alone_shows_its_help_as_it_is(group: list[str], words: list[str]) -> None:
    ended = run_here(*group)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == run_here(*group, "--help").stdout
    for word in words:
        assert word in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["receive", "a b"],
        ["receive", "q", "x" * 129],
        ["peek", "q", "x" * 129],
        ["peek", "q", "s", "--from", str(2**63)],
        ["dead-letters", "delete", "q", str(2**63)],
        ["sessions", ""],
    ],
)
def test_a_wrong_name_is_wrong_usage(arguments: list[str]) -> None:
    assert_one_line(run_here(*arguments), "Invalid value", status=2)


def test_a_malformed_connection_string_is_wrong_usage_if_it_is_an_argument() -> None:
    assert_one_line(run_here("sessions", "q", "--connection-string", "nonsense"), "has no '='", status=2)
    assert_one_line(run_here("sessions", "q", connection_string="nonsense"), "has no '='", status=1)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_signal_releases_the_session_of_a_waiting_receive(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, number: signal.Signals, status: int
) -> None:
    azsession_server.create_queue("q")
    with azsession_provider.create_session_client("q", "s") as session:
        session.set_session_state(b"makes list_sessions show it")
    process = start("receive", "q", "s", "--timeout", "50", connection_string=azsession_server.connection_string)

    def is_locked() -> bool:
        return azsession_provider.list_sessions("q")[0].locked_until is not None

    eventually(is_locked, seconds=60)
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err.strip()) == (status, "", "")
    assert not is_locked()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGHUP")
def test_a_hangup_that_nohup_ignores_does_not_end_a_command(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    azsession_server.create_queue("q")
    process = start(
        "receive", "q", "s", "--timeout", "50", "--max", "1", connection_string=azsession_server.connection_string,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )  # fmt: skip
    watched = psutil.Process(process.pid)
    eventually(lambda: any(found.status == psutil.CONN_ESTABLISHED for found in watched.net_connections("tcp")), seconds=60)
    process.send_signal(signal.SIGHUP)
    azsession_provider.send_message("q", Message("arrived", session_id="s"))
    out, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out.splitlines()[1]) == (0, "arrived")


def test_ctrl_c_at_any_line_of_a_command_ends_it_without_a_traceback(azsession_server: AzsessionServer) -> None:
    """Raise KeyboardInterrupt in the first line of the command line's code that runs, then in the second, and so on."""
    azsession_server.create_queue("q")
    code = """
import signal, sys
from azsession.cli import main
import azsession.cli.group
sys.argv = ["azsession", "sessions", "q"]
left, ended = 0, 0

def trace(frame, event, _):
    global left
    # The first line of main is not inside its try yet.
    if "/azsession/cli/" not in frame.f_code.co_filename or frame.f_code.co_name == "main":
        return None
    if event == "line":
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
    return trace

line = 0
while True:
    line += 1
    left = line
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.settrace(trace)
    try:
        main()
    except SystemExit as end:
        sys.settrace(None)
        assert end.code == (0 if left > 0 else 130), (line, end.code)
    if left > 0:
        break
assert line > 50
"""
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment(azsession_server.connection_string),
        timeout=PATIENCE,
        check=False,
    )
    assert (ended.returncode, "Traceback" in ended.stderr) == (0, False), ended.stderr[-2000:]


def test_a_refused_key_prints_one_line_without_the_key(azsession_server: AzsessionServer) -> None:
    text = f"Endpoint={azsession_server.url}/;SharedAccessKeyName=nobody;SharedAccessKey={SECRET}"
    ended = run_here("sessions", "q", "--connection-string", text)
    assert_one_line(ended, "signed with a key of this gateway")
    assert SECRET not in ended.stderr


def test_an_unreachable_gateway_prints_one_line() -> None:
    text = f"Endpoint=http://127.0.0.1:1/;SharedAccessKeyName=nobody;SharedAccessKey={SECRET}"
    assert_one_line(run_here("sessions", "q", connection_string=text), "http://127.0.0.1:1", "refused")


def test_ctrl_c_stops_a_waiting_receive_with_status_130_and_no_traceback(azsession_server: AzsessionServer) -> None:
    process = start("receive", "q", "s", "--timeout", "50", connection_string=azsession_server.connection_string)
    watched = psutil.Process(process.pid)
    eventually(lambda: any(found.status == psutil.CONN_ESTABLISHED for found in watched.net_connections("tcp")), seconds=60)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err.strip()) == (130, "", "")


def test_a_closed_pipe_ends_receive_quietly_and_completes_nothing(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    azsession_provider.send_messages("q", [Message("x" * 5000, session_id="s") for _ in range(50)])
    reader, writer = os.pipe()
    process = start(
        "receive", "q", "s", "--complete", "--max", "50", connection_string=azsession_server.connection_string, stdout=writer
    )
    os.close(writer)
    os.close(reader)
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (1, "")
    assert azsession_provider.list_sessions("q")[0].message_count == 50


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_receive_completes_nothing_when_its_output_cannot_be_written(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    azsession_provider.send_message("q", Message("paid", session_id="s"))
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [*COMMAND, "receive", "q", "s", "--complete"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(azsession_server.connection_string),
            timeout=PATIENCE,
            check=False,
        )
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "No space left" in ended.stderr
    assert azsession_provider.list_sessions("q")[0].message_count == 1
