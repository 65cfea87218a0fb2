"""`flask azsession consume` as a separate process, and its errors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest

from azsession import Message, ServiceBusProvider
from azsession.cli.consume import consume as plain_consume
from azsession.contrib import flask as contrib
from azsession.testing import AzsessionServer

from ...conftest import eventually, whole_lines
from ...support.paths import ROOT
from ...support.processes import PATIENCE, environment
from ...support.told import tell_when_stopping
from .consuming import create_app

QUEUE = "orders"


@contextmanager
def consume(connection_string: str, report: Path, handler: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run a consumer, and kill it at the end if it still runs."""
    command = [
        "--app",
        "tests.contrib.flask.consuming",
        "azsession",
        "consume",
        QUEUE,
        f"tests.contrib.flask.consuming:{handler}",
        *options,
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "flask", *command],
        cwd=ROOT,
        env=environment(connection_string, REPORT=str(report), PYTHONPATH=str(ROOT), PYTHONWARNINGS="default"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def lines(report: Path) -> list[str]:
    return whole_lines(report)


def test_until_empty_ends_the_command_after_the_last_message(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, tmp_path: Path
) -> None:
    azsession_provider.send_messages(QUEUE, [Message(text, session_id="a") for text in "123"])
    (tmp_path / "report.go").touch()
    with consume(azsession_server.connection_string, tmp_path / "report", "until_told", "--until-empty") as process:
        out, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (0, "orders: 3 messages of 1 session done\n")
    assert [(info.message_count, info.locked_until) for info in azsession_provider.list_sessions(QUEUE)] == []


def test_sigterm_lets_the_handler_finish_and_returns_the_other_messages(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    azsession_provider.send_messages(QUEUE, [Message(text, session_id="a") for text in "123"])
    hooks = ("--on-session-closed", "tests.contrib.flask.consuming:closed")
    with consume(azsession_server.connection_string, report, "until_told", *hooks) as process:
        eventually(lambda: lines(report), seconds=60)
        process.terminate()
        assert process.poll() is None
        tell_when_stopping(report)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, f"consuming {QUEUE}; Ctrl-C ends it\n")
    assert out == "orders: 1 message of 1 session done\n"
    assert lines(report) == ["began shop 1", "ended 1", "torn-down 1 NoneType", "closed shop a"]
    assert azsession_provider.get_queue(QUEUE).active_count == 2
    with azsession_provider.create_session_client(QUEUE, "a") as session:
        assert [message.text() for message in session.receive_messages(10, timeout=0)] == ["2", "3"]


def test_a_handler_that_runs_longer_than_the_grace_period_loses_its_session(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    azsession_provider.send_message(QUEUE, Message("1", session_id="a"))
    with consume(azsession_server.connection_string, report, "until_told", "--grace-period", "0.2") as process:
        eventually(lambda: lines(report), seconds=60)
        process.terminate()
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "1 session was released although the handler was still running" in err
    with azsession_provider.create_session_client(QUEUE, "a") as session:
        assert session.receive_message(timeout=0) is not None


def test_teardown_functions_get_the_exception_of_the_handler(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    azsession_provider.send_messages(QUEUE, [Message(text, session_id="a") for text in "12"])
    with consume(azsession_server.connection_string, report, "refuse", "--session-id", "a") as process:
        eventually(lambda: azsession_provider.get_queue(QUEUE).dead_letter_count == 2, seconds=60)
        process.terminate()
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, f"consuming {QUEUE}; Ctrl-C ends it\n")
    assert "2 dead-lettered" in out
    assert lines(report) == ["torn-down 1 DeadLetter", "torn-down 2 DeadLetter"]


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        ("tests.contrib.flask.consuming", "is not of the form module:function"),
        ("tests.contrib.flask.nowhere:handle", "cannot be imported: ModuleNotFoundError"),
        ("tests.contrib.flask.consuming:missing", "cannot be imported: AttributeError"),
        ("tests.contrib.flask.consuming:NOT_A_FUNCTION", "must be a function, but it is of type int"),
    ],
)
def test_a_name_that_is_not_a_function_is_a_usage_error(handler: str, words: str) -> None:
    app = create_app()
    app.config["AZSESSION_EMBEDDED"] = "memory"
    result = app.test_cli_runner().invoke(args=["azsession", "consume", QUEUE, handler])
    assert result.exit_code == 2
    assert words in result.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["no name"], "'no name' is not a queue name"),
        ([QUEUE, "--max-concurrent-sessions", "1001"], "max_concurrent_sessions "),
    ],
)
def test_an_argument_that_the_processor_refuses_is_a_usage_error(options: list[str], words: str) -> None:
    app = create_app()
    app.config["AZSESSION_EMBEDDED"] = "memory"
    queue, *rest = options
    result = app.test_cli_runner().invoke(args=["azsession", "consume", queue, "tests.contrib.flask.consuming:refuse", *rest])
    assert result.exit_code == 2
    assert words in result.output.splitlines()[-1]


def test_an_app_that_does_not_say_where_the_messages_are_is_one_line_of_error() -> None:
    app = create_app()
    result = app.test_cli_runner().invoke(args=["azsession", "consume", QUEUE, "tests.contrib.flask.consuming:refuse"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: app.config does not say where the messages are")
    assert len(result.output.splitlines()) == 1


def test_the_command_has_all_options_of_azsession_consume_that_are_not_in_app_config() -> None:
    def options(command: click.Command) -> set[str]:
        return {option for parameter in command.params for option in parameter.opts}

    ours = {"--connection-string", "--ca-bundle", "--allow-insecure-http", "--json"}
    # The app logs, and a command inside of an app answers no probes.
    ours |= {"-v", "--verbose", "--log-json", "--health-port"}
    assert options(contrib._commands.commands["consume"]) == options(plain_consume) - ours
