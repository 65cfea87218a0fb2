"""`flask azsession consume`, as a process of its own, and what it makes of wrong arguments."""

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

QUEUE = "orders"


@contextmanager
def consume(connection_string: str, report: Path, handler: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run a consumer; one that was not told to end is killed."""
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


def test_sigterm_in_mid_handler_finishes_it_and_gives_the_rest_back(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    azsession_provider.send_messages(QUEUE, [Message(text, session_id="a") for text in "123"])
    hooks = ("--on-session-closed", "tests.contrib.flask.consuming:closed")
    with consume(azsession_server.connection_string, report, "until_told", *hooks) as process:
        eventually(lambda: lines(report), seconds=60)
        process.terminate()
        assert process.poll() is None
        (tmp_path / "report.go").touch()
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, f"consuming {QUEUE}; Ctrl-C ends it\n")
    assert out == "orders: 1 done, 0 failed, 0 dead-lettered, in 1 sessions\n"
    assert lines(report) == ["began shop 1", "ended 1", "torn-down 1 NoneType", "closed shop a"]
    assert azsession_provider.get_queue(QUEUE).active_count == 2
    with azsession_provider.create_session_client(QUEUE, "a") as session:
        assert [message.text() for message in session.receive_messages(10, timeout=0)] == ["2", "3"]


def test_handlers_that_outlive_the_grace_period_are_given_up(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    azsession_provider.send_message(QUEUE, Message("1", session_id="a"))
    with consume(azsession_server.connection_string, report, "until_told", "--grace-period", "0.2") as process:
        eventually(lambda: lines(report), seconds=60)
        process.terminate()
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "given up while their handlers ran: 1 sessions" in err
    with azsession_provider.create_session_client(QUEUE, "a") as session:
        assert session.receive_message(timeout=0) is not None


def test_what_a_handler_raises_is_what_teardown_functions_are_told(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    azsession_provider.send_messages(QUEUE, [Message(text, session_id="a") for text in "12"])
    with consume(azsession_server.connection_string, report, "refuse", "--session-id", "a") as process:
        eventually(lambda: azsession_provider.get_queue(QUEUE).dead_letter_count == 2, seconds=60)
        process.terminate()
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, f"consuming {QUEUE}; Ctrl-C ends it\n")
    assert out.startswith("orders: 0 done, 0 failed, 2 dead-lettered")
    assert lines(report) == ["torn-down 1 DeadLetter", "torn-down 2 DeadLetter"]


@pytest.mark.parametrize(
    ("handler", "status", "words"),
    [
        ("tests.contrib.flask.consuming", 2, "is not of the form module:function"),
        ("tests.contrib.flask.nowhere:handle", 2, "cannot be imported: ModuleNotFoundError"),
        ("tests.contrib.flask.consuming:missing", 2, "cannot be imported: AttributeError"),
        ("tests.contrib.flask.consuming:NOT_A_FUNCTION", 2, "is a int, nothing to call"),
    ],
)
def test_a_handler_that_is_none_is_refused(handler: str, status: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from .consuming import create_app

    app = create_app()
    app.config["AZSESSION_EMBEDDED"] = "memory"
    result = app.test_cli_runner().invoke(args=["azsession", "consume", QUEUE, handler])
    assert result.exit_code == status
    assert words in result.output


@pytest.mark.parametrize(
    ("config", "options", "words"),
    [
        ({"AZSESSION_EMBEDDED": "memory"}, ["no/such/name"], "Error: 'no/such/name' is not a queue name"),
        ({"AZSESSION_EMBEDDED": "memory"}, [QUEUE, "--max-concurrent-sessions", "1001"], "max_concurrent_sessions is"),
        ({"AZSESSION_RETRY_ATTEMPTS": 1}, [QUEUE], "Error: app.config has none of AZSESSION_CONNECTION_STRING"),
    ],
)
def test_what_it_cannot_go_on_with_is_told_in_a_line(
    config: dict[str, object], options: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from .consuming import create_app

    for name in ("SERVICEBUS_CONNECTION_STRING", "SERVICEBUS_FULLY_QUALIFIED_NAMESPACE", "AZSESSION_GATEWAY_URL"):
        monkeypatch.delenv(name, raising=False)
    app = create_app()
    app.config.update(config)
    queue, *rest = options
    result = app.test_cli_runner().invoke(args=["azsession", "consume", queue, "tests.contrib.flask.consuming:refuse", *rest])
    assert result.exit_code == 1
    assert words in result.output
    assert len(result.output.splitlines()) == 1


def test_it_has_the_options_of_azsession_consume_but_for_those_that_app_config_has() -> None:
    def options(command: click.Command) -> set[str]:
        return {option for parameter in command.params for option in parameter.opts}

    ours = {"--connection-string", "--ca-bundle", "--allow-insecure-http", "--json"}
    assert options(contrib._commands.commands["consume"]) == options(plain_consume) - ours
