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
    eventually(lambda: any(found.status == psutil.CONN_ESTABLISHED for found in watched.net_connections("tcp")))
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
